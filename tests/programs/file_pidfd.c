/*
 * pidfds: of a child that lives, of one that is dead and not waited for, of one that was waited for, and of
 * the process itself; they still mean these processes, also in poll and for signals.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"

static int pidfd_of(pid_t pid)
{
    return (int)MUST(syscall(SYS_pidfd_open, pid, 0));
}

static int send(int fd, int sig)
{
    return syscall(SYS_pidfd_send_signal, fd, sig, NULL, 0) < 0 ? -errno : 0;
}

static int ended(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};

    return poll(&p, 1, 0) == 1 && (p.revents & POLLIN);
}

static pid_t start(int status)
{
    pid_t pid = (pid_t)MUST(fork());

    if (pid)
        return pid;
    if (status >= 0)
        _exit(status);
    for (;;)
        pause();
}

int main(int argc, char **argv)
{
    int living_fd, dead_fd, reaped_fd, self_fd;
    pid_t living, dead, reaped;
    siginfo_t info = {0};

    check_init(argc, argv);
    living = start(-1);
    dead = start(3);
    reaped = start(4);
    living_fd = pidfd_of(living);
    dead_fd = pidfd_of(dead);
    reaped_fd = pidfd_of(reaped);
    self_fd = pidfd_of(getpid());
    MUST(waitpid(reaped, NULL, 0));
    MUST(waitid(P_PID, (id_t)dead, &info, WEXITED | WNOWAIT));

    check_wait();

    if (check_broken())
        MUST(fcntl(living_fd, F_SETFD, 0));
    check_num(0, send(living_fd, 0), "signal 0 to the living child");
    check_num(0, ended(living_fd), "has the living child ended?");
    check_num(1, ended(dead_fd), "has the dead child ended?");
    check_num(-ESRCH, send(reaped_fd, 0), "signal 0 to the child that was waited for");
    check_num(1, ended(reaped_fd), "has the child that was waited for ended?");
    check_num(0, send(self_fd, 0), "signal 0 to itself");
    check_num(0, ended(self_fd), "has the process itself ended?");
    check_num(FD_CLOEXEC, fcntl(living_fd, F_GETFD), "close-on-exec");
    check_num(0, waitid(3 /* P_PIDFD */, (id_t)dead_fd, &info, WEXITED), "waitid for the dead child's pidfd");
    check_num(dead, info.si_pid, "pid that waitid found");
    check_num(3, info.si_status, "status that waitid found");
    check_num(0, send(living_fd, SIGTERM), "SIGTERM to the living child");
    memset(&info, 0, sizeof(info));
    check_num(0, waitid(3, (id_t)living_fd, &info, WEXITED), "waitid for its pidfd");
    check_num(living, info.si_pid, "pid that waitid found");
    check_num(SIGTERM, info.si_status, "signal that ended it");
    return check_end();
}
