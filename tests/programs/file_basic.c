/*
 * Open regular files: offset, status flags, append, close-on-exec; descriptions shared by dup and by fork
 * and ones that only look alike; a file opened for writing that goes on being written; descriptor numbers far
 * apart; a file without read permission by now; one opened through a symbolic link.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"

struct view {
    int fd, flags, fdflags;
    off_t at;
    char name[600];
};

enum { READER, WRITER, APPENDER, SYNC, DUPLICATE, SEPARATE, FAR, FORBIDDEN, LINKED, NONBLOCK, FILES };

static const char *const names[FILES] = {"reader",   "writer", "appender",  "sync",   "duplicate",
                                         "separate", "far",    "forbidden", "linked", "nonblock"};

static void look(int fd, struct view *v)
{
    char link[64];

    memset(v, 0, sizeof(*v));
    v->fd = fd;
    v->flags = fcntl(fd, F_GETFL);
    v->fdflags = fcntl(fd, F_GETFD);
    v->at = lseek(fd, 0, SEEK_CUR);
    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    if (readlink(link, v->name, sizeof(v->name) - 1) < 0)
        snprintf(v->name, sizeof(v->name), "(%s)", strerror(errno));
}

static void compare(const struct view *before, const char *name)
{
    struct view after;

    look(before->fd, &after);
    check_num(before->flags, after.flags, "%s: status flags", name);
    check_num(before->fdflags, after.fdflags, "%s: descriptor flags", name);
    check_num(before->at, after.at, "%s: offset", name);
    check_str(before->name, after.name, name);
}

static int open_file(const char *name, int flags)
{
    return (int)MUST(open(check_path(name), flags, 0644));
}

static void open_all(int *fds)
{
    static char data[10000];

    check_fill(data, sizeof(data), 1);
    check_spit(check_path("data"), data, sizeof(data));
    fds[READER] = open_file("data", O_RDONLY);
    MUST(lseek(fds[READER], 1234, SEEK_SET));
    fds[WRITER] = open_file("written", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC);
    MUST(write(fds[WRITER], data, 5000));
    MUST(lseek(fds[WRITER], 100, SEEK_SET));
    fds[APPENDER] = open_file("appended", O_WRONLY | O_CREAT | O_APPEND);
    MUST(write(fds[APPENDER], "begin", 5));
    fds[SYNC] = open_file("data", O_RDWR | O_SYNC | O_NOATIME);
    fds[DUPLICATE] = (int)MUST(dup(fds[READER]));
    MUST(fcntl(fds[DUPLICATE], F_SETFD, FD_CLOEXEC));
    fds[SEPARATE] = open_file("data", O_RDONLY);
    MUST(lseek(fds[SEPARATE], 1234, SEEK_SET));
    fds[FAR] = (int)MUST(dup2(fds[READER], 777));
    check_spit(check_path("forbidden"), data, 100);
    fds[FORBIDDEN] = open_file("forbidden", O_RDONLY);
    MUST(chmod(check_path("forbidden"), 0));
    MUST(symlink("data", check_path("link")));
    fds[LINKED] = open_file("link", O_RDONLY | O_LARGEFILE);
    MUST(lseek(fds[LINKED], 5ll << 32, SEEK_SET)); /* far beyond its end */
    fds[NONBLOCK] = open_file("data", O_RDONLY | O_NONBLOCK);
    MUST(fcntl(fds[NONBLOCK], F_SETFL, O_NONBLOCK | O_APPEND));
}

static void check_sharing(const int *fds)
{
    MUST(lseek(fds[READER], 4321, SEEK_SET));
    check_num(4321, lseek(fds[DUPLICATE], 0, SEEK_CUR), "offset of the duplicate after the original moved");
    check_num(4321, lseek(fds[FAR], 0, SEEK_CUR), "offset of the far duplicate after the original moved");
    check_num(1234, lseek(fds[SEPARATE], 0, SEEK_CUR), "offset of the separately opened after the other moved");
}

static void check_written(int fd, int append)
{
    char data[10000], expected[5000];
    size_t len;

    check_fill(expected, sizeof(expected), 1);
    memcpy(expected + 100, "now", 3);
    check_num(3, write(fd, "now", 3), "write");
    len = check_slurp(check_path("written"), data, sizeof(data));
    check_num(5000, (long long)len, "length of the written file");
    check_mem(expected, data, len < 5000 ? len : 5000, "written file");
    MUST(lseek(append, 0, SEEK_SET));
    check_num(4, write(append, " end", 4), "write");
    check_slurp(check_path("appended"), data, sizeof(data));
    check_str("begin end", data, "appended file");
}

static int child(const int *fds, int down, int up)
{
    char c;

    MUST(read(down, &c, 1));
    check_num(2222, lseek(fds[LINKED], 0, SEEK_CUR), "offset in the child after the parent moved it");
    MUST(lseek(fds[LINKED], 3333, SEEK_SET));
    MUST(write(up, "x", 1));
    return check_status();
}

int main(int argc, char **argv)
{
    int fds[FILES], down[2], up[2], i;
    struct view views[FILES];
    pid_t pid;
    char c;

    check_init(argc, argv);
    MUST(pipe(down));
    MUST(pipe(up));
    open_all(fds);
    pid = (pid_t)MUST(fork());
    if (pid == 0)
        return child(fds, down[0], up[1]);
    for (i = 0; i < FILES; i++)
        look(fds[i], &views[i]);

    check_wait();

    if (check_broken())
        MUST(lseek(fds[SYNC], 1, SEEK_SET));
    for (i = 0; i < FILES; i++)
        compare(&views[i], names[i]);
    check_sharing(fds);
    check_written(fds[WRITER], fds[APPENDER]);
    MUST(lseek(fds[LINKED], 2222, SEEK_SET));
    MUST(write(down[1], "x", 1));
    MUST(read(up[0], &c, 1));
    check_num(3333, lseek(fds[LINKED], 0, SEEK_CUR), "offset after the child moved it");
    check_num(100, pread(fds[FORBIDDEN], (char[200]){0}, 200, 0), "read from a file whose mode is 0");
    check_child(pid, "child");
    return check_end();
}
