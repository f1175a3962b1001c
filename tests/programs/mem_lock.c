/*
 * Locked memory: mlock, mlock2 with MLOCK_ONFAULT, and parts of a mapping. What is locked and what not is
 * read from VmFlags and VmLck; an on-fault lock must not have made its pages resident.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "tests/programs/check.h"
#include "tests/programs/maps.h"

#define KIB 1024

int main(int argc, char **argv)
{
    unsigned char *all, *part, *onfault;
    char before[64], after[64];

    check_init(argc, argv);
    all = mmap(NULL, 512 * KIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    part = mmap(NULL, 512 * KIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    onfault = mmap(NULL, 512 * KIB, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    MUST(all);
    MUST(part);
    MUST(onfault);
    MUST(mlock(all, 512 * KIB));
    MUST(mlock(part + 128 * KIB, 64 * KIB));
    MUST(mlock2(onfault, 512 * KIB, MLOCK_ONFAULT));
    onfault[0] = 1;
    check_fill(all, 512 * KIB, 3);
    check_status_line("self", "VmLck", before, sizeof(before));

    check_wait();

    if (check_broken())
        MUST(munlock(part + 128 * KIB, 64 * KIB));
    check_str(before, check_status_line("self", "VmLck", after, sizeof(after)), "VmLck");
    check_true(maps_has_flag(all, "lo"), "the locked mapping is not locked any more");
    check_true(maps_has_flag(part + 128 * KIB, "lo"), "the locked part of a mapping is not locked any more");
    check_true(!maps_has_flag(part, "lo"), "the part of a mapping that was not locked is");
    check_true(maps_has_flag(onfault, "lo"), "the mapping locked on fault is not locked any more");
    check_range(0, 16, (double)maps_kib(onfault, "Rss"), "KiB resident of the mapping locked on fault");
    check_range(512, 512, (double)maps_kib(all, "Rss"), "KiB resident of the locked mapping");
    check_filled(all, 512 * KIB, 3, "locked memory");
    return check_end();
}
