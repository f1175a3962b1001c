/*
 * mlockall(MCL_CURRENT | MCL_FUTURE): everything is locked, and so is what is mapped afterwards.
 */
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>

#include "tests/programs/check.h"
#include "tests/programs/maps.h"

static char before[MAPS_SIZE];

int main(int argc, char **argv)
{
    struct rlimit limit;
    unsigned char *old, *new;

    check_init(argc, argv);
    /* The stack's limit does not count, but what is mapped does: 8 MiB are the usual limit. */
    MUST(getrlimit(RLIMIT_MEMLOCK, &limit));
    if (limit.rlim_cur < 8 * 1024 * 1024)
        check_skip("RLIMIT_MEMLOCK is only %llu bytes", (unsigned long long)limit.rlim_cur);
    old = mmap(NULL, 64 * 1024, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(old);
    MUST(mlockall(MCL_CURRENT | MCL_FUTURE));
    check_fill(old, 64 * 1024, 1);
    maps_snapshot(before, sizeof(before));

    check_wait();

    if (check_broken())
        MUST(munlockall());
    maps_compare(before, "memory map");
    check_true(maps_has_flag(old, "lo"), "memory mapped before mlockall() is not locked");
    new = mmap(NULL, 64 * 1024, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(new);
    check_true(maps_has_flag(new, "lo"), "memory mapped now is not locked (MCL_FUTURE is gone)");
    check_filled(old, 64 * 1024, 1, "locked memory");
    return check_end();
}
