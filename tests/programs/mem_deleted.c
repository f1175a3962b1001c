/*
 * Mappings of files that are not there any more under their name: unlinked, renamed, and replaced by
 * another file (as a package upgrade does); private with dirty and clean pages, and shared between
 * two processes.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"

#define SIZE (40 * 4096)

struct mapping {
    const char *what;
    const char *file;
    int flags;
    unsigned char *p;
};

static struct mapping mappings[] = {
    {"private mapping of an unlinked file", "unlinked", MAP_PRIVATE, NULL},
    {"shared mapping of an unlinked file", "unlinked-shared", MAP_SHARED, NULL},
    {"private mapping of a replaced file", "replaced", MAP_PRIVATE, NULL},
    {"private mapping of a renamed file", "renamed", MAP_PRIVATE, NULL},
    {"shared mapping of a renamed file", "renamed-shared", MAP_SHARED, NULL},
};

#define MAPPINGS (sizeof(mappings) / sizeof(mappings[0]))

static void make(struct mapping *m, uint64_t seed)
{
    static unsigned char data[SIZE];
    int fd;

    check_fill(data, SIZE, seed);
    check_spit(check_path(m->file), data, SIZE);
    fd = (int)MUST(open(check_path(m->file), O_RDWR | O_CLOEXEC));
    m->p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, m->flags, fd, 0);
    MUST(m->p);
    close(fd);
    check_fill(m->p + 8192, 4096, seed + 100);
}

static void check_mapping(const struct mapping *m, uint64_t seed)
{
    static unsigned char data[SIZE];

    check_fill(data, SIZE, seed);
    check_fill(data + 8192, 4096, seed + 100);
    check_mem(data, m->p, SIZE, m->what);
}

static void take_away(void)
{
    static char other[SIZE];

    MUST(unlink(check_path("unlinked")));
    MUST(unlink(check_path("unlinked-shared")));
    memset(other, 'x', sizeof(other));
    check_spit(check_path("new"), other, sizeof(other));
    MUST(rename(check_path("new"), check_path("replaced")));
    MUST(rename(check_path("renamed"), check_path("renamed-now")));
    MUST(rename(check_path("renamed-shared"), check_path("renamed-shared-now")));
}

static int child(int to_parent)
{
    unsigned i;

    check_wait_go();
    for (i = 0; i < MAPPINGS; i++)
        check_mapping(&mappings[i], i);
    /* in the second half of the unlinked shared file, which nobody checks */
    mappings[1].p[SIZE - 1] ^= 0xff;
    if (write(to_parent, "x", 1) != 1)
        return 1;
    return check_status();
}

int main(int argc, char **argv)
{
    unsigned char last, byte;
    int fds[2], fd;
    unsigned i;
    pid_t pid;

    check_init(argc, argv);
    for (i = 0; i < MAPPINGS; i++)
        make(&mappings[i], i);
    take_away();
    MUST(pipe(fds));
    pid = (pid_t)MUST(fork());
    if (pid == 0)
        return child(fds[1]);
    last = mappings[1].p[SIZE - 1];

    check_wait();

    if (check_broken())
        mappings[0].p[SIZE / 2] ^= 1;
    MUST(read(fds[0], &byte, 1));
    check_num(last ^ 0xff, mappings[1].p[SIZE - 1], "byte that the child wrote to the unlinked shared file");
    mappings[1].p[SIZE - 1] = last;
    for (i = 0; i < MAPPINGS; i++)
        check_mapping(&mappings[i], i);
    check_child(pid, "child");
    mappings[4].p[5] = 'Z';
    fd = (int)MUST(open(check_path("renamed-shared-now"), O_RDONLY));
    MUST(pread(fd, &byte, 1, 5));
    check_num('Z', byte, "byte written through the mapping, in the renamed file");
    check_num(-1, access(check_path("unlinked"), F_OK), "unlinked file: access()");
    check_num(-1, access(check_path("renamed"), F_OK), "old name of a renamed file: access()");
    return check_end();
}
