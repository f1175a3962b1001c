/*
 * Shared anonymous memory: content, and that it is still one memory for parent, child and grandchild
 * and for a process that has it mapped twice, in part, or with less access.
 */
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"

#define SIZE (4 * 1024 * 1024)

struct shared {
    volatile int turn; /* who may act next */
    volatile int value;
    unsigned char data[SIZE - 2 * sizeof(int)];
};

static void await_turn(struct shared *s, int turn)
{
    while (__atomic_load_n(&s->turn, __ATOMIC_ACQUIRE) != turn)
        check_sleep(0.002);
}

static void pass_turn(struct shared *s, int turn)
{
    __atomic_store_n(&s->turn, turn, __ATOMIC_RELEASE);
}

/* A descendant: sees what the one before wrote, writes its own. */
static int descendant(struct shared *s, int me)
{
    pid_t child = 0;

    if (me < 3) {
        child = (pid_t)MUST(fork());
        if (child == 0)
            return descendant(s, me + 1);
    }
    await_turn(s, me);
    check_num((me - 1) * 111, s->value, "value seen by descendant %d", me);
    check_filled(s->data, sizeof(s->data), 7, "shared data seen by a descendant");
    s->value = me * 111;
    pass_turn(s, me + 1);
    if (child)
        check_child(child, "descendant");
    return check_status();
}

int main(int argc, char **argv)
{
    struct shared *s = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    unsigned char *twice, *middle, *untouched;
    pid_t child;

    check_init(argc, argv);
    MUST(s);
    check_fill(s->data, sizeof(s->data), 7);
    /* old_size 0 duplicates a shared mapping (mremap(2)) */
    twice = mremap(s, 0, SIZE, MREMAP_MAYMOVE);
    MUST(twice);
    middle = mremap((char *)s + SIZE / 2, 0, 8192, MREMAP_MAYMOVE);
    MUST(middle);
    MUST(mprotect(middle, 8192, PROT_READ));
    untouched = mmap(NULL, 64 * SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    MUST(untouched);
    child = (pid_t)MUST(fork());
    if (child == 0)
        return descendant(s, 1);

    check_wait();

    check_filled(s->data, sizeof(s->data), 7, "shared data");
    s->value = check_broken() ? 5 : 0;
    pass_turn(s, 1);
    check_child(child, "child");
    check_num(333, s->value, "value after the last descendant");
    check_mem(s, twice, SIZE, "the same memory mapped twice");
    check_mem((char *)s + SIZE / 2, middle, 8192, "part of the same memory mapped again");
    ((unsigned char *)s)[SIZE / 2 + 5] ^= 0xff;
    check_num(((unsigned char *)s)[SIZE / 2 + 5], middle[5], "a byte written through the other mapping");
    check_num(((unsigned char *)s)[SIZE / 2 + 5], twice[SIZE / 2 + 5], "a byte written through the third mapping");
    check_num(0, untouched[5 * SIZE], "a byte that was never touched");
    return check_end();
}
