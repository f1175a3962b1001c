/*
 * Leases: a read lease, a write lease, and one that somebody has asked to give up (a child that waits in
 * open(2)), which goes on being asked until it is given up. The signals of the first time do not come again.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"

static volatile sig_atomic_t asked, asked_fd;

static void on_break(int sig, siginfo_t *info, void *context)
{
    (void)sig;
    (void)context;
    asked++;
    asked_fd = info->si_fd;
}

static int lease(const char *name, int flags, int type)
{
    int fd;

    check_spit(check_path(name), "x", 1);
    fd = (int)MUST(open(check_path(name), flags | O_CLOEXEC));
    MUST(fcntl(fd, F_SETSIG, SIGRTMIN + 1));
    MUST(fcntl(fd, F_SETLEASE, type));
    return fd;
}

/* Breaks the lease of a file by opening it without waiting. */
static void breaks(const char *name, int flags, bool expected)
{
    int fd = open(check_path(name), flags | O_NONBLOCK | O_CLOEXEC);

    check_num(expected, fd < 0 && errno == EWOULDBLOCK, "is the lease of %s broken by open?", name);
    if (fd >= 0)
        close(fd);
}

static void wait_asked(int times, int fd, const char *what)
{
    for (int i = 0; i < 1000 && asked < times; i++)
        check_sleep(0.002);
    check_num(times, asked, "signals of broken leases: %s", what);
    check_num(fd, asked_fd, "si_fd: %s", what);
}

int main(int argc, char **argv)
{
    struct sigaction sa = {.sa_sigaction = on_break, .sa_flags = SA_SIGINFO | SA_RESTART};
    int reading, writing, breaking;
    pid_t child;

    check_init(argc, argv);
    MUST(sigaction(SIGRTMIN + 1, &sa, NULL));
    reading = lease("reading", O_RDONLY, F_RDLCK);
    writing = lease("writing", O_RDWR, F_WRLCK);
    breaking = lease("breaking", O_RDONLY, F_RDLCK);
    child = (pid_t)MUST(fork());
    if (child == 0) {
        close(breaking); /* or the lease goes only when both have closed it */
        int fd = open(check_path("breaking"), O_WRONLY);
        check_true(fd >= 0, "the open that waits for the lease: %s", strerror(errno));
        _exit(check_status());
    }
    wait_asked(1, breaking, "before");

    check_wait();

    check_num(1, asked, "signals of broken leases");
    check_num(check_broken() ? F_WRLCK : F_RDLCK, fcntl(reading, F_GETLEASE), "read lease");
    check_num(F_WRLCK, fcntl(writing, F_GETLEASE), "write lease");
    check_num(F_UNLCK, fcntl(breaking, F_GETLEASE), "what the broken lease is to become");
    check_num(SIGRTMIN + 1, fcntl(breaking, F_GETSIG), "F_GETSIG");
    breaks("reading", O_RDONLY, false);
    breaks("reading", O_WRONLY, true);
    wait_asked(2, reading, "read lease");
    MUST(fcntl(reading, F_SETLEASE, F_UNLCK));
    breaks("writing", O_RDONLY, true);
    wait_asked(3, writing, "write lease");
    MUST(fcntl(writing, F_SETLEASE, F_UNLCK));
    MUST(fcntl(breaking, F_SETLEASE, F_UNLCK));
    check_child(child, "child that waits for the lease");
    return check_end();
}
