/*
 * Private anonymous memory of every protection, with content behind it, and the map as a whole:
 * addresses, protections, names (PR_SET_VMA) and gaps are the same afterwards.
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>

#include "tests/programs/check.h"
#include "tests/programs/maps.h"

#define MIB (1024 * 1024)

struct area {
    const char *what;
    int prot;
    size_t size;
    unsigned char *p;
};

static struct area areas[] = {
    {"read-write", PROT_READ | PROT_WRITE, 8 * MIB, NULL},
    {"read-only", PROT_READ, MIB, NULL},
    {"no access, but with content", PROT_NONE, MIB, NULL},
    {"read-execute", PROT_READ | PROT_EXEC, 64 * 1024, NULL},
    {"read-write-execute", PROT_READ | PROT_WRITE | PROT_EXEC, 64 * 1024, NULL},
    {"write-only", PROT_WRITE, 64 * 1024, NULL},
    {"one page", PROT_READ | PROT_WRITE, 4096, NULL},
};

#define AREAS (sizeof(areas) / sizeof(areas[0]))

static char before[MAPS_SIZE];

static void make(struct area *a, unsigned i)
{
    /* A page more on either side, unmapped again: so the areas never touch. */
    unsigned char *p = mmap(NULL, a->size + 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    MUST(p);
    a->p = p + 4096;
    MUST(munmap(p, 4096));
    MUST(munmap(a->p + a->size, 4096));
    check_fill(a->p, a->size, i);
    MUST(mprotect(a->p, a->size, a->prot));
}

int main(int argc, char **argv)
{
    unsigned char *sparse, zero[4096] = {0};
    unsigned i;

    check_init(argc, argv);
    for (i = 0; i < AREAS; i++)
        make(&areas[i], i);
    sparse = mmap(NULL, 64 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(sparse);
    for (i = 0; i < 64; i += 3)
        check_fill(sparse + i * MIB, 4096, 1000 + i);
    memset(sparse + 63 * MIB + 8192, 0, 4096); /* touched, but zero */
    if (prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, areas[0].p, areas[0].size, "test area") < 0)
        check_note("the kernel has no names for anonymous memory");
    maps_snapshot(before, sizeof(before));

    check_wait();

    if (check_broken())
        sparse[30 * MIB + 5] ^= 1;
    maps_compare(before, "memory map");
    for (i = 0; i < AREAS; i++) {
        MUST(mprotect(areas[i].p, areas[i].size, PROT_READ | PROT_WRITE));
        check_filled(areas[i].p, areas[i].size, i, areas[i].what);
        memset(areas[i].p, 1, areas[i].size);
    }
    for (i = 0; i < 64; i++) {
        if (i % 3)
            check_mem(zero, sparse + i * MIB, 4096, "untouched page of a sparse area");
        else
            check_filled(sparse + i * MIB, 4096, 1000 + i, "touched page of a sparse area");
        check_mem(zero, sparse + i * MIB + 4096, 4096, "untouched page of a sparse area");
    }
    return check_end();
}
