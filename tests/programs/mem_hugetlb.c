/*
 * Explicit huge pages: private and shared mappings of 2 MiB pages, some never touched. They must be huge
 * pages again.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "tests/programs/check.h"
#include "tests/programs/maps.h"

#define HUGE (2ul * 1024 * 1024)

static unsigned char *map(int flags)
{
    unsigned char *p = mmap(NULL, 2 * HUGE, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);

    if (p == MAP_FAILED)
        check_skip("no huge pages (/proc/sys/vm/nr_hugepages): %s", strerror(errno));
    return p;
}

int main(int argc, char **argv)
{
    unsigned char *private, *shared;

    check_init(argc, argv);
    private = map(MAP_PRIVATE);
    shared = map(MAP_SHARED);
    check_fill(private, HUGE, 1); /* the second page of each stays untouched */
    check_fill(shared, HUGE, 2);

    check_wait();

    if (check_broken())
        private[HUGE - 1] ^= 1;
    check_filled(private, HUGE, 1, "private huge pages");
    check_filled(shared, HUGE, 2, "shared huge pages");
    check_true(maps_has_flag(private, "ht"), "the private mapping has no huge pages any more");
    check_true(maps_has_flag(shared, "ht"), "the shared mapping has no huge pages any more");
    check_num(2048, maps_kib(private, "KernelPageSize"), "page size of the private mapping in KiB");
    check_num(2048, maps_kib(shared, "KernelPageSize"), "page size of the shared mapping in KiB");
    check_num(0, private[HUGE + 5], "untouched byte");
    return check_end();
}
