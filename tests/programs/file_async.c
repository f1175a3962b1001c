/*
 * What a descriptor asks the kernel to tell: leases, F_SETOWN (process, group, thread), F_SETSIG, O_ASYNC,
 * directory notification. That a lease is broken and that input arrives must still raise the chosen signal.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"

static int wait_signal(int sig, siginfo_t *info)
{
    const struct timespec limit = {5, 0};
    sigset_t set;
    int got;

    sigemptyset(&set);
    sigaddset(&set, sig);
    do
        got = sigtimedwait(&set, info, &limit);
    while (got < 0 && errno == EINTR);
    return got;
}

static int make_lease(const char *name, int type)
{
    int fd;

    check_spit(check_path(name), "x", 1);
    fd = (int)MUST(open(check_path(name), type == F_RDLCK ? O_RDONLY : O_RDWR));
    MUST(fcntl(fd, F_SETSIG, SIGRTMIN + 1));
    MUST(fcntl(fd, F_SETLEASE, type));
    return fd;
}

static void check_owner(int fd, int type, pid_t pid, int sig, const char *what)
{
    struct f_owner_ex owner = {0};

    MUST(fcntl(fd, F_GETOWN_EX, &owner));
    check_num(type, owner.type, "%s: kind of owner", what);
    check_num(pid, owner.pid, "%s: owner", what);
    check_num(sig, fcntl(fd, F_GETSIG), "%s: signal", what);
}

int main(int argc, char **argv)
{
    int read_lease, write_lease, async[2], group[2], dir;
    struct f_owner_ex owner;
    siginfo_t info = {0};
    sigset_t set;
    pid_t pid;

    check_init(argc, argv);
    sigfillset(&set);
    MUST(sigprocmask(SIG_BLOCK, &set, NULL));
    read_lease = make_lease("read-lease", F_RDLCK);
    write_lease = make_lease("write-lease", F_WRLCK);
    MUST(pipe(async));
    owner = (struct f_owner_ex){F_OWNER_TID, (pid_t)syscall(SYS_gettid)};
    MUST(fcntl(async[0], F_SETOWN_EX, &owner));
    MUST(fcntl(async[0], F_SETSIG, SIGRTMIN + 2));
    MUST(fcntl(async[0], F_SETFL, O_ASYNC | O_NONBLOCK));
    MUST(pipe(group));
    MUST(fcntl(group[0], F_SETOWN, -getpgrp()));
    dir = (int)MUST(open(check_dir(), O_RDONLY));
    if (fcntl(dir, F_NOTIFY, DN_DELETE | DN_MULTISHOT) < 0)
        check_note("no directory notification: %s", strerror(errno));

    check_wait();

    if (check_broken())
        MUST(fcntl(write_lease, F_SETLEASE, F_UNLCK));
    check_num(F_RDLCK, fcntl(read_lease, F_GETLEASE), "read lease");
    check_num(F_WRLCK, fcntl(write_lease, F_GETLEASE), "write lease");
    check_num(SIGRTMIN + 1, fcntl(read_lease, F_GETSIG), "signal of a lease");
    check_owner(async[0], F_OWNER_TID, (pid_t)syscall(SYS_gettid), SIGRTMIN + 2, "pipe owned by a thread");
    check_owner(group[0], F_OWNER_PGRP, getpgrp(), 0, "pipe owned by a group");
    check_num(O_ASYNC | O_NONBLOCK, fcntl(async[0], F_GETFL) & (O_ASYNC | O_NONBLOCK), "flags");
    MUST(write(async[1], "x", 1));
    check_num(SIGRTMIN + 2, wait_signal(SIGRTMIN + 2, &info), "signal when input arrives");
    check_num(async[0], info.si_fd, "its si_fd");
    pid = (pid_t)MUST(fork());
    if (pid == 0) {
        /* blocks until the lease is given up */
        _exit(open(check_path("write-lease"), O_RDONLY) < 0);
    }
    if (check_num(SIGRTMIN + 1, wait_signal(SIGRTMIN + 1, &info), "signal when a lease is broken"))
        check_num(write_lease, info.si_fd, "its si_fd");
    fcntl(write_lease, F_SETLEASE, F_UNLCK);
    check_child(pid, "process that breaks the lease");
    return check_end();
}
