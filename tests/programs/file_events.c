/*
 * eventfd (counter, semaphore mode), signalfd (mask, signals pending for it), timerfd (remaining, interval,
 * expirations not read, absolute, cancel-on-set, several clocks), each with its flags and shared with a child.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"

#ifndef TFD_TIMER_CANCEL_ON_SET
#define TFD_TIMER_CANCEL_ON_SET 2
#endif

static void expect_count(int fd, uint64_t count, const char *what)
{
    uint64_t got = 0;
    ssize_t n = read(fd, &got, sizeof(got));

    if (count)
        check_num((long long)count, n == 8 ? (long long)got : -errno, "%s: count", what);
    else
        check_num(EAGAIN, n < 0 ? errno : 0, "%s: errno when there is nothing", what);
}

static void check_eventfds(int plain, int semaphore, int full)
{
    expect_count(plain, 12345678901ull, "eventfd");
    expect_count(plain, 0, "eventfd");
    expect_count(semaphore, 1, "eventfd as a semaphore");
    expect_count(semaphore, 1, "eventfd as a semaphore");
    expect_count(semaphore, 1, "eventfd as a semaphore");
    expect_count(semaphore, 0, "eventfd as a semaphore");
    check_num(-1, eventfd_write(full, 1), "write to a full eventfd");
    expect_count(full, 0xfffffffffffffffe, "full eventfd");
}

static void check_signalfd(int fd)
{
    struct signalfd_siginfo info = {0};

    check_num(sizeof(info), read(fd, &info, sizeof(info)), "read from the signalfd");
    check_num(SIGUSR1, info.ssi_signo, "first signal");
    check_num(sizeof(info), read(fd, &info, sizeof(info)), "read from the signalfd");
    check_num(SIGRTMIN + 1, info.ssi_signo, "second signal");
    check_num(991, info.ssi_int, "value of the second signal");
    check_num(-1, read(fd, &info, sizeof(info)), "read from the empty signalfd");
    MUST(kill(getpid(), SIGUSR2)); /* blocked, but not in its mask */
    check_num(-1, read(fd, &info, sizeof(info)), "read with only another signal pending");
    MUST(kill(getpid(), SIGUSR1));
    check_num(sizeof(info), read(fd, &info, sizeof(info)), "read with a signal raised now");
}

static int make_timer(clockid_t clock, int flags, double value, double interval)
{
    int fd = (int)MUST(timerfd_create(clock, TFD_NONBLOCK));
    struct itimerspec its = {{(time_t)interval, (long)((interval - (double)(time_t)interval) * 1e9)},
                             {(time_t)value, (long)((value - (double)(time_t)value) * 1e9)}};

    MUST(timerfd_settime(fd, flags, &its, NULL));
    return fd;
}

static void check_timer(int fd, double then, double left, double interval, const char *what)
{
    struct itimerspec its;

    MUST(timerfd_gettime(fd, &its));
    check_remaining(then, left, (double)its.it_value.tv_sec + (double)its.it_value.tv_nsec / 1e9, what);
    check_range(interval, interval, (double)its.it_interval.tv_sec + (double)its.it_interval.tv_nsec / 1e9, what);
}

int main(int argc, char **argv)
{
    int plain, semaphore, full, sfd, periodic, oneshot, absolute, expired, unarmed, shared;
    struct itimerspec its;
    double then;
    sigset_t set;
    pid_t pid;

    check_init(argc, argv);
    plain = (int)MUST(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
    MUST(eventfd_write(plain, 12345678901ull));
    semaphore = (int)MUST(eventfd(3, EFD_SEMAPHORE | EFD_NONBLOCK));
    full = (int)MUST(eventfd(0, EFD_NONBLOCK));
    MUST(eventfd_write(full, 0xfffffffffffffffe));
    shared = (int)MUST(eventfd(0, 0));
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigaddset(&set, SIGRTMIN + 1);
    sfd = (int)MUST(signalfd(-1, &set, SFD_NONBLOCK));
    sigaddset(&set, SIGUSR2);
    MUST(sigprocmask(SIG_BLOCK, &set, NULL));
    MUST(kill(getpid(), SIGUSR1));
    MUST(sigqueue(getpid(), SIGRTMIN + 1, (union sigval){.sival_int = 991}));
    then = check_now(CLOCK_MONOTONIC);
    periodic = make_timer(CLOCK_MONOTONIC, 0, 1000, 3.5);
    oneshot = make_timer(CLOCK_BOOTTIME, 0, 2000, 0);
    absolute = make_timer(CLOCK_REALTIME, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET,
                          check_now(CLOCK_REALTIME) + 5000, 0);
    expired = make_timer(CLOCK_MONOTONIC, 0, 0.01, 0);
    unarmed = (int)MUST(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK));
    pid = (pid_t)MUST(fork());
    if (pid == 0) {
        expect_count(shared, 77, "eventfd shared with the parent");
        _exit(check_status());
    }
    check_sleep(0.1);

    check_wait();

    if (check_broken())
        MUST(eventfd_write(semaphore, 1));
    check_eventfds(plain, semaphore, full);
    check_num(FD_CLOEXEC, fcntl(plain, F_GETFD), "close-on-exec of an eventfd");
    check_num(O_NONBLOCK, fcntl(plain, F_GETFL) & O_NONBLOCK, "O_NONBLOCK of an eventfd");
    check_signalfd(sfd);
    check_timer(periodic, then, 1000, 3.5, "timerfd, periodic");
    check_timer(oneshot, then, 2000, 0, "timerfd, CLOCK_BOOTTIME");
    MUST(timerfd_gettime(absolute, &its));
    check_range(4000, 5000, (double)its.it_value.tv_sec, "timerfd, absolute CLOCK_REALTIME: what is left");
    expect_count(expired, 1, "timerfd, expired");
    expect_count(unarmed, 0, "timerfd, not armed");
    MUST(eventfd_write(shared, 77));
    check_child(pid, "child that waits on a shared eventfd");
    return check_end();
}
