/*
 * Pages shared copy-on-write between a parent and its children, as in a prefork server: everybody has the
 * right content, writing to them stays private, and together they use little more memory than one of them
 * (proportional set size).
 */
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"
#include "tests/programs/maps.h"

#define SIZE     (16ul * 1024 * 1024)
#define CHILDREN 4
#define OWN      (256 * 1024) /* what each child has written itself */

static unsigned char *memory;

static unsigned char *own_part(int me)
{
    return memory + (unsigned long)me * 1024 * 1024;
}

static int child(int me, int start, int to_parent)
{
    long pss;
    char c;
    int i;

    check_fill(own_part(me), OWN, 100 + (uint64_t)me);
    MUST(write(to_parent, "r", 1));
    MUST(read(start, &c, 1));
    for (i = 1; i <= CHILDREN; i++)
        if (i != me)
            check_filled(own_part(i), OWN, 50 + (uint64_t)i, "a child's view of what another child changed");
    check_filled(own_part(me), OWN, 100 + (uint64_t)me, "what the child itself changed");
    check_filled(memory + 8 * 1024 * 1024, SIZE / 2, 7, "common memory in a child");
    pss = maps_kib(memory + SIZE - 4096, "Pss");
    MUST(write(to_parent, &pss, sizeof(pss)));
    MUST(read(start, &c, 1)); /* nobody changes anything before all have measured */
    memory[SIZE - 1] = (unsigned char)me;
    return check_status();
}

int main(int argc, char **argv)
{
    int start[CHILDREN + 1][2], answer[2], i;
    pid_t pids[CHILDREN + 1];
    long pss, sum;
    char c;

    check_init(argc, argv);
    memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(memory);
    check_fill(memory + 8 * 1024 * 1024, SIZE / 2, 7);
    for (i = 1; i <= CHILDREN; i++)
        check_fill(own_part(i), OWN, 50 + (uint64_t)i);
    MUST(pipe(answer));
    for (i = 1; i <= CHILDREN; i++) {
        MUST(pipe(start[i]));
        pids[i] = (pid_t)MUST(fork());
        if (pids[i] == 0)
            return child(i, start[i][0], answer[1]);
        MUST(read(answer[0], &c, 1));
    }

    check_wait();

    if (check_broken())
        memory[SIZE - 2] ^= 1;
    for (i = 1; i <= CHILDREN; i++) {
        MUST(write(start[i][1], "x", 1));
        MUST(read(answer[0], &pss, sizeof(pss)));
        if (i == 1)
            sum = maps_kib(memory, "Pss");
        sum += pss;
    }
    check_range(8000, 8192 * 1.5 + 4 * 1024 + 1024 + 4 * 256, (double)sum, "KiB of all processes together (Pss)");
    for (i = 1; i <= CHILDREN; i++)
        MUST(write(start[i][1], "x", 1));
    for (i = 1; i <= CHILDREN; i++)
        check_child(pids[i], "child");
    check_filled(memory + 8 * 1024 * 1024, SIZE / 2, 7, "common memory in the parent");
    for (i = 1; i <= CHILDREN; i++)
        check_filled(own_part(i), OWN, 50 + (uint64_t)i, "the parent's view of what a child changed");
    return check_end();
}
