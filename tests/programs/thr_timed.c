/*
 * Threads in every kind of waiting call with a time-out. None may end early, none may wait again from the
 * start, none may be told EINTR: a call that was to last TOTAL seconds lasts TOTAL seconds of running time,
 * to within TOLERANCE. The time between checkpoint and restart does not count (check_gap()), except for
 * those that wait for an absolute time of CLOCK_REALTIME.
 */
#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"

#define TOTAL     3.0
#define BEFORE    1.2 /* of it, before the checkpoint can come */
#define TOLERANCE 0.8 /* less than BEFORE, or else a new start could not be told */

#ifndef SYS_epoll_pwait2
#define SYS_epoll_pwait2 441
#endif
#ifndef SYS_futex_waitv
#define SYS_futex_waitv 449
#endif

struct job {
    const char *name;
    int (*call)(void); /* returns the result of the call, or -errno */
    int expected;
    bool realtime;
    pthread_t thread;
    int result;
    double from, to, real_from, real_to;
};

static int null_pipe[2]; /* nobody ever writes into it */

static struct timespec relative(void)
{
    return (struct timespec){(time_t)TOTAL, (long)((TOTAL - (double)(time_t)TOTAL) * 1e9)};
}

static struct timespec absolute(clockid_t clock)
{
    struct timespec ts, add = relative();

    clock_gettime(clock, &ts);
    ts.tv_sec += add.tv_sec;
    ts.tv_nsec += add.tv_nsec;
    if (ts.tv_nsec >= 1000000000) {
        ts.tv_sec++;
        ts.tv_nsec -= 1000000000;
    }
    return ts;
}

static int result_of(long result)
{
    return result < 0 ? -errno : (int)result;
}

static int call_nanosleep(void)
{
    struct timespec ts = relative();

    return result_of(nanosleep(&ts, NULL));
}

static int call_nanosleep_rem(void)
{
    struct timespec ts = relative(), rem = {0};

    return result_of(nanosleep(&ts, &rem));
}

static int call_clock_relative(void)
{
    struct timespec ts = relative();

    return -clock_nanosleep(CLOCK_BOOTTIME, 0, &ts, NULL);
}

static int call_clock_absolute(void)
{
    struct timespec ts = absolute(CLOCK_MONOTONIC);

    return -clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL);
}

static int call_clock_realtime(void)
{
    struct timespec ts = absolute(CLOCK_REALTIME);

    return -clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, &ts, NULL);
}

static int call_poll(void)
{
    struct pollfd fd = {.fd = null_pipe[0], .events = POLLIN};

    return result_of(poll(&fd, 1, (int)(TOTAL * 1000)));
}

static int call_poll_nothing(void)
{
    return result_of(poll(NULL, 0, (int)(TOTAL * 1000)));
}

static int call_ppoll(void)
{
    struct pollfd fd = {.fd = null_pipe[0], .events = POLLIN};
    struct timespec ts = relative();
    sigset_t mask;

    sigfillset(&mask);
    return result_of(ppoll(&fd, 1, &ts, &mask));
}

static int call_select(void)
{
    struct timeval tv = {(time_t)TOTAL, (suseconds_t)((TOTAL - (double)(time_t)TOTAL) * 1e6)};
    fd_set set;
    int n;

    FD_ZERO(&set);
    FD_SET(null_pipe[0], &set);
    n = result_of(select(null_pipe[0] + 1, &set, NULL, NULL, &tv));
    if (n == 0)
        check_num(0, tv.tv_sec * 1000000 + tv.tv_usec, "time that select() says was left");
    return n;
}

static int call_pselect(void)
{
    struct timespec ts = relative();
    sigset_t mask;
    fd_set set;

    FD_ZERO(&set);
    FD_SET(null_pipe[0], &set);
    sigfillset(&mask);
    return result_of(pselect(null_pipe[0] + 1, &set, NULL, NULL, &ts, &mask));
}

static int make_epoll(void)
{
    struct epoll_event event = {.events = EPOLLIN};
    int fd = (int)MUST(epoll_create1(EPOLL_CLOEXEC));

    MUST(epoll_ctl(fd, EPOLL_CTL_ADD, null_pipe[0], &event));
    return fd;
}

static int call_epoll_wait(void)
{
    struct epoll_event event;

    return result_of(epoll_wait(make_epoll(), &event, 1, (int)(TOTAL * 1000)));
}

static int call_epoll_pwait(void)
{
    struct epoll_event event;
    sigset_t mask;

    sigfillset(&mask);
    return result_of(epoll_pwait(make_epoll(), &event, 1, (int)(TOTAL * 1000), &mask));
}

static int call_epoll_pwait2(void)
{
    struct timespec ts = relative();
    struct epoll_event event;

    return result_of(syscall(SYS_epoll_pwait2, make_epoll(), &event, 1, &ts, NULL, 8));
}

static int call_sigtimedwait(void)
{
    struct timespec ts = relative();
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGUSR2); /* blocked in main */
    return result_of(sigtimedwait(&set, NULL, &ts));
}

static int call_futex(void)
{
    struct timespec ts = relative();
    int word = 5;

    return result_of(syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 5, &ts, NULL, 0));
}

static int call_futex_bitset(void)
{
    struct timespec ts = absolute(CLOCK_MONOTONIC);
    int word = 5;

    return result_of(syscall(SYS_futex, &word, FUTEX_WAIT_BITSET_PRIVATE, 5, &ts, NULL, -1));
}

static int call_futex_waitv(void)
{
    struct timespec ts = absolute(CLOCK_MONOTONIC);
    int word = 5;
    struct futex_waitv v = {.val = 5, .uaddr = (uintptr_t)&word, .flags = FUTEX_32 | FUTEX_PRIVATE_FLAG};

    return result_of(syscall(SYS_futex_waitv, &v, 1, 0, &ts, CLOCK_MONOTONIC));
}

static int call_sem(void)
{
    struct timespec ts = absolute(CLOCK_REALTIME);
    sem_t sem;

    sem_init(&sem, 0, 0);
    return result_of(sem_timedwait(&sem, &ts));
}

static int call_cond(void)
{
    struct timespec ts = absolute(CLOCK_REALTIME);
    pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    pthread_cond_t cond = PTHREAD_COND_INITIALIZER;

    pthread_mutex_lock(&mutex);
    return -pthread_cond_timedwait(&cond, &mutex, &ts);
}

static int call_mutex(void)
{
    static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    struct timespec ts = absolute(CLOCK_REALTIME);

    pthread_mutex_lock(&mutex);
    return -pthread_mutex_timedlock(&mutex, &ts);
}

static struct job jobs[] = {
    {"nanosleep", call_nanosleep, 0, false, 0, 0, 0, 0, 0, 0},
    {"nanosleep with rem", call_nanosleep_rem, 0, false, 0, 0, 0, 0, 0, 0},
    {"clock_nanosleep BOOTTIME", call_clock_relative, 0, false, 0, 0, 0, 0, 0, 0},
    {"clock_nanosleep MONOTONIC absolute", call_clock_absolute, 0, false, 0, 0, 0, 0, 0, 0},
    {"clock_nanosleep REALTIME absolute", call_clock_realtime, 0, true, 0, 0, 0, 0, 0, 0},
    {"poll", call_poll, 0, false, 0, 0, 0, 0, 0, 0},
    {"poll without fds", call_poll_nothing, 0, false, 0, 0, 0, 0, 0, 0},
    {"ppoll", call_ppoll, 0, false, 0, 0, 0, 0, 0, 0},
    {"select", call_select, 0, false, 0, 0, 0, 0, 0, 0},
    {"pselect", call_pselect, 0, false, 0, 0, 0, 0, 0, 0},
    {"epoll_wait", call_epoll_wait, 0, false, 0, 0, 0, 0, 0, 0},
    {"epoll_pwait", call_epoll_pwait, 0, false, 0, 0, 0, 0, 0, 0},
    {"epoll_pwait2", call_epoll_pwait2, 0, false, 0, 0, 0, 0, 0, 0},
    {"sigtimedwait", call_sigtimedwait, -EAGAIN, false, 0, 0, 0, 0, 0, 0},
    {"futex", call_futex, -ETIMEDOUT, false, 0, 0, 0, 0, 0, 0},
    {"futex absolute", call_futex_bitset, -ETIMEDOUT, false, 0, 0, 0, 0, 0, 0},
    {"futex_waitv", call_futex_waitv, -ETIMEDOUT, false, 0, 0, 0, 0, 0, 0},
    {"sem_timedwait", call_sem, -ETIMEDOUT, true, 0, 0, 0, 0, 0, 0},
    {"pthread_cond_timedwait", call_cond, -ETIMEDOUT, true, 0, 0, 0, 0, 0, 0},
    {"pthread_mutex_timedlock", call_mutex, -ETIMEDOUT, true, 0, 0, 0, 0, 0, 0},
};

#define JOBS (sizeof(jobs) / sizeof(jobs[0]))

static atomic_int finished;

static void *thread(void *arg)
{
    struct job *job = arg;

    job->from = check_now(CLOCK_MONOTONIC);
    job->real_from = check_now(CLOCK_REALTIME);
    job->result = job->call();
    job->to = check_now(CLOCK_MONOTONIC);
    job->real_to = check_now(CLOCK_REALTIME);
    atomic_fetch_add(&finished, 1);
    return NULL;
}

static void judge(const struct job *job)
{
    double lasted = job->realtime ? job->real_to - job->real_from : job->to - job->from;
    double running = job->to - job->from - check_gap(job->from, job->to);

    if (check_broken())
        lasted -= 1;
    check_num(job->expected, job->result, "%s: result (or -errno)", job->name);
    check_true(lasted >= TOTAL - 0.02, "%s: early: lasted %.3f s of %.3f", job->name, lasted, TOTAL);
    check_true(running <= TOTAL + TOLERANCE, "%s: started anew? lasted %.3f s of running time instead of %.3f",
               job->name, running, TOTAL);
}

int main(int argc, char **argv)
{
    sigset_t mask;
    double start;
    unsigned i;

    check_init(argc, argv);
    MUST(pipe(null_pipe));
    sigemptyset(&mask);
    sigaddset(&mask, SIGUSR2);
    pthread_sigmask(SIG_BLOCK, &mask, NULL);
    start = check_now(CLOCK_MONOTONIC);
    for (i = 0; i < JOBS; i++)
        pthread_create(&jobs[i].thread, NULL, thread, &jobs[i]);
    check_sleep(BEFORE);

    check_wait();

    while (atomic_load(&finished) < (int)JOBS) {
        check_wait_go(); /* returns at once */
        check_sleep(0.005);
        if (check_now(CLOCK_MONOTONIC) - start - check_gap(start, start + 1e6) > TOTAL + 5) {
            for (i = 0; i < JOBS; i++)
                check_true(jobs[i].to != 0, "%s: does not end", jobs[i].name);
            return check_end();
        }
    }
    for (i = 0; i < JOBS; i++)
        judge(&jobs[i]);
    return check_end();
}
