/*
 * Much memory, which is written to all the time, also while a checkpoint is being written: what is saved must be what
 * it was at one instant. Areas that a fork leaves out or wipes, and no child that was not there before.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>

#include "tests/programs/check.h"

#define PAGE  4096ul
#define PAGES (48ul << 8) /* 48 MiB */
#define SIDE  (1ul << 20)

static struct {
    unsigned long *sweep;
    atomic_bool stop;
    unsigned long bad_page, bad_value, bad_round;
} the;

static unsigned long *word(unsigned long page)
{
    return the.sweep + page * (PAGE / sizeof(long));
}

/* Every page in turn gets the number of the round; one that is ahead or behind was not saved with the others. */
static void *sweep(void *arg)
{
    (void)arg;
    for (unsigned long round = 2; !atomic_load(&the.stop); round++) {
        for (unsigned long i = 0; i < PAGES; i++) {
            if (*word(i) != round - 1 && !the.bad_round) {
                the.bad_page = i;
                the.bad_value = *word(i);
                the.bad_round = round;
            }
            *word(i) = round;
        }
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    return NULL;
}

static void *area(int flags, unsigned long size, int advice)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);

    MUST(p);
    if (advice)
        MUST(madvise(p, size, advice));
    check_fill(p, size, (uint64_t)advice + 7);
    return p;
}

int main(int argc, char **argv)
{
    unsigned char *kept, *wiped, *common;
    pthread_t thread;

    check_init(argc, argv);
    kept = area(MAP_PRIVATE, SIDE, MADV_DONTFORK);
    wiped = area(MAP_PRIVATE, SIDE, MADV_WIPEONFORK);
    common = area(MAP_SHARED, SIDE, 0);
    the.sweep = area(MAP_PRIVATE, PAGES * PAGE, 0);
    for (unsigned long i = 0; i < PAGES; i++)
        *word(i) = 1;
    MUST(-pthread_create(&thread, NULL, sweep, NULL));

    check_wait();

    if (check_broken())
        kept[SIDE / 2]++;
    check_num(-1, waitpid(-1, NULL, __WALL | WNOHANG), "children");
    check_num(ECHILD, errno, "error of a wait for children");
    atomic_store(&the.stop, true);
    pthread_join(thread, NULL);
    check_true(!the.bad_round, "page %lu was of round %lu in round %lu", the.bad_page, the.bad_value, the.bad_round);
    check_filled(kept, SIDE, MADV_DONTFORK + 7, "memory that is not inherited");
    check_filled(wiped, SIDE, MADV_WIPEONFORK + 7, "memory that is wiped by a fork");
    check_filled(common, SIDE, 7, "shared memory");
    return check_end();
}
