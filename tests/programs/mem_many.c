/*
 * Very many mappings: 10,000 areas that can't be merged, with a page of content each.
 */
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "tests/programs/check.h"

#define AREAS 10000
#define PAGE  4096ul

int main(int argc, char **argv)
{
    unsigned char *p = mmap(NULL, AREAS * 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    unsigned long i;

    check_init(argc, argv);
    MUST(p);
    for (i = 0; i < AREAS; i++) {
        MUST(mprotect(p + 2 * i * PAGE, PAGE, PROT_READ | PROT_WRITE));
        check_fill(p + 2 * i * PAGE, 64, i);
        if (i % 3 == 0)
            MUST(mprotect(p + 2 * i * PAGE, PAGE, PROT_READ));
    }

    check_wait();

    if (check_broken())
        MUST(munmap(p + 2 * PAGE * 77 + PAGE, PAGE));
    for (i = 0; i < AREAS; i++) {
        unsigned char vec[1];

        check_filled(p + 2 * i * PAGE, 64, i, "content of one of many areas");
        check_num(0, mincore(p + 2 * i * PAGE + PAGE, PAGE, vec), "area between, mapped without access");
        if (i % 3)
            p[2 * i * PAGE + 100] = 1;
    }
    return check_end();
}
