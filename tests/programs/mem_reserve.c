/*
 * Huge reservations, as Java, Go and sanitizers make them: 256 GiB of MAP_NORESERVE memory of which a
 * few pages are used, and 1 TiB of PROT_NONE. They must cost nothing in the image (the test looks at its
 * size) nor in memory, and be as large as before.
 */
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "tests/programs/check.h"
#include "tests/programs/maps.h"

#define GIB     (1024ul * 1024 * 1024)
#define TOUCHED 50

static char before[MAPS_SIZE];

int main(int argc, char **argv)
{
    unsigned char *writable, *nothing, *shared;
    long i, used, used_after;

    check_init(argc, argv);
    writable = mmap(NULL, 256 * GIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    MUST(writable);
    nothing = mmap(NULL, 1024 * GIB, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    MUST(nothing);
    shared = mmap(NULL, 64 * GIB, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    MUST(shared);
    /* No huge pages: one touched page would be 2 MiB. */
    MUST(madvise(writable, 256 * GIB, MADV_NOHUGEPAGE));
    for (i = 0; i < TOUCHED; i++) {
        check_fill(writable + (unsigned long)i * 5 * GIB + (unsigned long)i * 4096, 4096, (uint64_t)i);
        check_fill(shared + (unsigned long)i * GIB, 4096, (uint64_t)i + 100);
    }
    MUST(mprotect(nothing + 512 * GIB, 8192, PROT_READ | PROT_WRITE));
    check_fill(nothing + 512 * GIB, 8192, 999);
    maps_snapshot(before, sizeof(before));
    used = maps_rollup_kib("Rss");

    check_wait();

    if (check_broken())
        writable[10 * GIB + 2 * 4096] ^= 1;
    maps_compare(before, "memory map");
    used_after = maps_rollup_kib("Rss");
    check_range(0, (double)used + 4096, (double)used_after, "KiB resident");
    for (i = 0; i < TOUCHED; i++) {
        check_filled(writable + (unsigned long)i * 5 * GIB + (unsigned long)i * 4096, 4096, (uint64_t)i, "private");
        check_filled(shared + (unsigned long)i * GIB, 4096, (uint64_t)i + 100, "shared");
    }
    check_num(0, writable[255 * GIB], "untouched byte");
    check_filled(nothing + 512 * GIB, 8192, 999, "accessible pages in the PROT_NONE reservation");
    MUST(mprotect(nothing + 1000 * GIB, 4096, PROT_READ | PROT_WRITE));
    check_num(0, nothing[1000 * GIB], "byte of the reservation made accessible now");
    return check_end();
}
