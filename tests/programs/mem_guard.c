/*
 * Guard regions (MADV_GUARD_INSTALL, Linux 6.13): pages in the middle of a mapping that fault although the
 * mapping is readable, and that /proc/PID/maps does not show.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#define MADV_GUARD_REMOVE  103
#endif

#define PAGE  4096
#define PAGES 64

/* Does reading the page fault? The kernel says so without a signal if it is asked to read it. */
static bool faults(int fds[2], unsigned char *page)
{
    char c;

    if (write(fds[1], page, 1) == 1) {
        MUST(read(fds[0], &c, 1));
        return false;
    }
    check_num(EFAULT, errno, "errno of a write from a guard page");
    return true;
}

int main(int argc, char **argv)
{
    unsigned char *p = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int fds[2], i;

    check_init(argc, argv);
    MUST(p);
    MUST(pipe(fds));
    for (i = 0; i < PAGES; i += 2)
        check_fill(p + i * PAGE, PAGE, (uint64_t)i);
    if (madvise(p + 20 * PAGE, 5 * PAGE, MADV_GUARD_INSTALL) < 0)
        check_skip("the kernel has no guard regions (MADV_GUARD_INSTALL): %s", strerror(errno));
    MUST(madvise(p, PAGE, MADV_GUARD_INSTALL));
    MUST(madvise(p + 63 * PAGE, PAGE, MADV_GUARD_INSTALL));

    check_wait();

    if (check_broken())
        MUST(madvise(p + 21 * PAGE, PAGE, MADV_GUARD_REMOVE));
    for (i = 0; i < PAGES; i++) {
        bool guard = i == 0 || (i >= 20 && i < 25) || i == 63;

        check_num(guard, faults(fds, p + i * PAGE), "page %d: is it a guard page?", i);
        if (!guard && i % 2 == 0)
            check_filled(p + i * PAGE, PAGE, (uint64_t)i, "page between guard pages");
        else if (!guard)
            check_num(0, p[i * PAGE + 9], "byte of the untouched page %d", i);
    }
    MUST(madvise(p + 20 * PAGE, 5 * PAGE, MADV_GUARD_REMOVE));
    check_num(0, p[20 * PAGE], "byte of a former guard page");
    return check_end();
}
