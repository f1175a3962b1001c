/*
 * File locks: POSIX record locks (of the process, and of a child on the same file), OFD locks, flock, shared
 * and exclusive. Who holds what is asked by a new child that tries to lock.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"

static int open_file(const char *name)
{
    return (int)MUST(open(check_path(name), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
}

static struct flock range(short type, off_t start, off_t len)
{
    return (struct flock){.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = len};
}

static void lock(int fd, int command, short type, off_t start, off_t len)
{
    struct flock l = range(type, start, len);

    MUST(fcntl(fd, command, &l));
}

/* In a new process: what stands in the way of locking one byte? */
static void expect(int fd, off_t at, short type, pid_t pid, const char *what)
{
    struct flock l = range(F_WRLCK, at, 1);

    MUST(fcntl(fd, F_GETLK, &l));
    check_num(type, l.l_type, "%s at %lld: type", what, (long long)at);
    if (type != F_UNLCK)
        check_num(pid, l.l_pid, "%s at %lld: pid", what, (long long)at);
}

static void ask(pid_t parent, pid_t child, bool broken)
{
    int posix = open_file("posix"), ofd = open_file("ofd"), ex = open_file("exclusive"), sh = open_file("shared");

    expect(posix, 0, F_WRLCK, parent, "POSIX lock");
    expect(posix, 99, broken ? F_UNLCK : F_WRLCK, parent, "POSIX lock");
    expect(posix, 100, F_UNLCK, 0, "POSIX lock");
    expect(posix, 250, F_RDLCK, parent, "POSIX read lock");
    expect(posix, 500, F_WRLCK, child, "POSIX lock of the child");
    expect(posix, 1ll << 40, F_RDLCK, child, "POSIX lock of the child to the end");
    expect(ofd, 10, F_WRLCK, -1, "OFD lock");
    expect(ofd, 60, F_RDLCK, -1, "OFD read lock");
    expect(ofd, 100, F_UNLCK, 0, "OFD lock");
    check_num(-1, flock(ex, LOCK_SH | LOCK_NB), "flock of the exclusively locked file");
    check_num(EWOULDBLOCK, errno, "errno of that");
    check_num(0, flock(sh, LOCK_SH | LOCK_NB), "flock of the file with a shared lock");
    check_num(-1, flock(sh, LOCK_EX | LOCK_NB), "exclusive flock of the file with a shared lock");
    _exit(check_status());
}

static int holder(int up)
{
    int fd = open_file("posix");

    lock(fd, F_SETLK, F_WRLCK, 500, 10);
    lock(fd, F_SETLK, F_RDLCK, 1000, 0);
    MUST(write(up, "x", 1));
    check_idle();
    while (access(check_path("asked"), F_OK) < 0)
        check_sleep(0.002);
    return check_status();
}

int main(int argc, char **argv)
{
    int posix, ofd, ofd2, ex, duplicate, sh, up[2];
    pid_t child, asker;
    char c;

    check_init(argc, argv);
    MUST(pipe(up));
    posix = open_file("posix");
    lock(posix, F_SETLK, F_WRLCK, 0, 100);
    lock(posix, F_SETLK, F_RDLCK, 200, 100);
    ofd = open_file("ofd");
    ofd2 = open_file("ofd");
    lock(ofd, F_OFD_SETLK, F_WRLCK, 0, 50);
    lock(ofd2, F_OFD_SETLK, F_RDLCK, 50, 50);
    ex = open_file("exclusive");
    MUST(flock(ex, LOCK_EX));
    duplicate = (int)MUST(dup(ex));
    sh = open_file("shared");
    MUST(flock(sh, LOCK_SH));
    child = (pid_t)MUST(fork());
    if (child == 0)
        return holder(up[1]);
    MUST(read(up[0], &c, 1));

    check_wait();

    asker = (pid_t)MUST(fork());
    if (asker == 0)
        ask(getppid(), child, check_broken());
    check_child(asker, "process that asks who holds the locks");
    check_spit(check_path("asked"), "x", 1);
    check_child(child, "process that holds locks");
    /* the lock belongs to the description: it is gone only by an explicit unlock of either descriptor */
    MUST(flock(duplicate, LOCK_UN));
    check_num(0, flock(open_file("exclusive"), LOCK_EX | LOCK_NB), "flock after the duplicate was unlocked");
    lock(ofd, F_OFD_SETLK, F_UNLCK, 0, 0);
    lock(ofd2, F_OFD_SETLK, F_WRLCK, 0, 50);
    return check_end();
}
