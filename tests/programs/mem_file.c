/*
 * File mappings: private with some pages dirtied and others not, shared read-write (what is written
 * after the restart must reach the file), shared read-only of a file opened read-only (must not become
 * writable), a mapping that reaches beyond the end of the file, parts of a file with holes between.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"
#include "tests/programs/maps.h"

#define PAGES 64
#define PAGE  4096

static char before[MAPS_SIZE];
static sigjmp_buf escape;

static void on_bus(int sig)
{
    siglongjmp(escape, sig);
}

static int make_file(const char *name, uint64_t seed)
{
    static unsigned char data[PAGES * PAGE];
    int fd;

    check_fill(data, sizeof(data), seed);
    check_spit(check_path(name), data, sizeof(data) - 100);
    fd = (int)MUST(open(check_path(name), O_RDWR | O_CLOEXEC));
    return fd;
}

static unsigned char *map(int prot, int flags, int fd, size_t size, off_t at)
{
    unsigned char *p = mmap(NULL, size, prot, flags, fd, at);

    MUST(p);
    return p;
}

static void check_private(unsigned char *p)
{
    unsigned char page[PAGE];
    int i;

    for (i = 0; i < PAGES - 1; i++) {
        if (i % 5 == 2) {
            check_filled(p + i * PAGE, PAGE, 500 + (uint64_t)i, "dirtied page of a private mapping");
        } else {
            static unsigned char whole[PAGES * PAGE];

            check_fill(whole, sizeof(whole), 1);
            memcpy(page, whole + i * PAGE, PAGE);
            check_mem(page, p + i * PAGE, PAGE, "clean page of a private mapping");
        }
    }
}

int main(int argc, char **argv)
{
    unsigned char *private, *shared, *readonly, *part, byte;
    int fd, ro, i;

    check_init(argc, argv);
    fd = make_file("private", 1);
    private = map(PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, PAGES * PAGE, 0);
    close(fd);
    for (i = 2; i < PAGES; i += 5)
        check_fill(private + i * PAGE, PAGE, 500 + (uint64_t)i);
    fd = make_file("shared", 2);
    shared = map(PROT_READ | PROT_WRITE, MAP_SHARED, fd, (PAGES + 4) * PAGE, 0);
    shared[3 * PAGE] = 'A';
    ro = (int)MUST(open(check_path("shared"), O_RDONLY));
    readonly = map(PROT_READ, MAP_SHARED, ro, PAGES * PAGE, 0);
    close(ro);
    part = map(PROT_READ, MAP_PRIVATE, fd, 2 * PAGE, 10 * PAGE);
    maps_snapshot(before, sizeof(before));

    check_wait();

    if (check_broken())
        private[2 * PAGE + 9] ^= 1;
    maps_compare(before, "memory map");
    check_private(private);
    check_num('A', shared[3 * PAGE], "byte written through the shared mapping");
    check_num('A', readonly[3 * PAGE], "the same byte through the read-only mapping");
    shared[10 * PAGE + 17] = 'B';
    check_num('B', readonly[10 * PAGE + 17], "a byte written now, through the read-only mapping");
    check_num('B', part[17], "a byte written now, through an untouched private mapping");
    MUST(pread(fd, &byte, 1, 10 * PAGE + 17));
    check_num('B', byte, "a byte written now, through read");
    errno = 0;
    check_num(-1, mprotect(readonly, PAGE, PROT_READ | PROT_WRITE), "making a read-only shared mapping writable");
    check_num(EACCES, errno, "errno of that");
    signal(SIGBUS, on_bus);
    if (sigsetjmp(escape, 1) == 0) {
        byte = ((volatile unsigned char *)shared)[(PAGES + 2) * PAGE];
        check_fail("a page beyond the end of the file: before SIGBUS, after %d", byte);
    }
    return check_end();
}
