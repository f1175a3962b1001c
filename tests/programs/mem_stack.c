/*
 * Stacks that grow by themselves: the main stack, deep in a recursion when it is checkpointed and deeper
 * afterwards, and a MAP_GROWSDOWN mapping. A stack that was restored as an ordinary mapping faults here.
 */
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "tests/programs/check.h"
#include "tests/programs/maps.h"

#define FRAME 8192

static void descend(int depth, int wait_at, int last)
{
    unsigned char local[FRAME];

    check_fill(local, sizeof(local), (uint64_t)depth);
    if (depth == wait_at) {
        check_wait();
        if (check_broken())
            local[100] ^= 1;
    }
    if (depth < last)
        descend(depth + 1, wait_at, last);
    check_filled(local, sizeof(local), (uint64_t)depth, "local variable on the stack");
}

int main(int argc, char **argv)
{
    unsigned char *growing, *top;
    int i;

    check_init(argc, argv);
    /* Room to grow into: a reservation that is given up again below the growing page. */
    growing = mmap(NULL, 4 * 1024 * 1024, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(growing);
    MUST(munmap(growing, 4 * 1024 * 1024));
    top = mmap(growing + 3 * 1024 * 1024, 8192, PROT_READ | PROT_WRITE,
               MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_FIXED, -1, 0);
    MUST(top);
    for (i = 0; i < 10; i++)
        top[-4096 * i] = (unsigned char)(i + 1);

    descend(0, 100, 400); /* 0.8 MiB, then 3.2 MiB: of 8 */

    check_true(maps_has_flag(top, "gd"), "the MAP_GROWSDOWN mapping does not grow any more");
    for (i = 0; i < 10; i++)
        check_num(i + 1, top[-4096 * i], "byte in page -%d of the growing mapping", i);
    for (i = 10; i < 30; i++)
        top[-4096 * i] = (unsigned char)i;
    return check_end();
}
