/*
 * The program break: content of the heap below it, its place, and that it can grow and shrink afterwards
 * from where it was.
 */
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"

#define MIB (1024 * 1024)

int main(int argc, char **argv)
{
    unsigned char *heap, *end;

    check_init(argc, argv);
    heap = sbrk(6 * MIB + 123);
    MUST(heap);
    check_fill(heap, 6 * MIB + 123, 1);
    MUST(sbrk(-2 * MIB));
    end = sbrk(0);

    check_wait();

    if (check_broken())
        MUST(sbrk(16));
    check_num((long long)(uintptr_t)end, (long long)(uintptr_t)sbrk(0), "program break");
    check_filled(heap, 4 * MIB, 1, "heap");
    check_num((long long)(uintptr_t)end, (long long)(uintptr_t)sbrk(3 * MIB), "result of growing the heap");
    check_num((long long)(uintptr_t)end + 3 * MIB, (long long)(uintptr_t)sbrk(0), "program break after growing");
    check_num(0, end[2 * MIB], "byte of the new part");
    memset(end, 7, 3 * MIB);
    MUST(sbrk(-6 * MIB));
    check_num((long long)(uintptr_t)end - 3 * MIB, (long long)(uintptr_t)sbrk(0), "program break after shrinking");
    check_filled(heap, MIB, 1, "what is left of the heap");
    return check_end();
}
