/*
 * POSIX timers: their ids (with holes), clocks, remaining time and interval; every kind of notification,
 * by signal with a value, to a thread, by a function, none; one that has already expired and whose signal is
 * pending; a periodic one that ticks on at its pace; overruns.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

#define TICK 0.05
#define RT   40 /* a real-time signal as a constant, which SIGRTMIN is not */

struct timer {
    const char *name;
    clockid_t clock;
    int notify, sig;
    double value, interval;
    int id; /* the kernel's */
};

static struct timer timers[] = {
    {"by signal, CLOCK_MONOTONIC", CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGUSR1, 1000, 0, -1},
    {"deleted", CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGUSR1, 0, 0, -1},
    {"periodic, CLOCK_REALTIME", CLOCK_REALTIME, SIGEV_SIGNAL, SIGUSR1, 2000, 33.5, -1},
    {"no notification", CLOCK_BOOTTIME, SIGEV_NONE, 0, 500, 12.25, -1},
    {"deleted too", CLOCK_MONOTONIC, SIGEV_NONE, 0, 0, 0, -1},
    {"not armed", CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGUSR2, 0, 0, -1},
    {"to a thread", CLOCK_MONOTONIC, SIGEV_THREAD_ID, RT + 1, 700, 1, -1},
    {"CPU time of the process", CLOCK_PROCESS_CPUTIME_ID, SIGEV_SIGNAL, SIGUSR2, 100, 5, -1},
    {"CPU time of the thread", CLOCK_THREAD_CPUTIME_ID, SIGEV_SIGNAL, SIGUSR2, 200, 6, -1},
    {"expired", CLOCK_MONOTONIC, SIGEV_SIGNAL, RT + 2, 0.01, 0, -1},
    {"overrunning", CLOCK_MONOTONIC, SIGEV_SIGNAL, RT + 3, 0.01, TICK, -1},
};

#define TIMERS (sizeof(timers) / sizeof(timers[0]))

static atomic_int called, ticks;
static timer_t ticker;

static struct timespec spec(double s)
{
    return (struct timespec){(time_t)s, (long)((s - (double)(time_t)s) * 1e9)};
}

static double seconds(struct timespec ts)
{
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* By system call: the kernel's ids are what a restart must reproduce; glibc's timer_t may hide them. */
static void create(struct timer *t, int tag)
{
    struct itimerspec its = {spec(t->interval), spec(t->value)};
    struct sigevent ev = {.sigev_notify = t->notify, .sigev_signo = t->sig, .sigev_value.sival_int = 5000 + tag};

    if (t->notify == SIGEV_THREAD_ID)
        ev.sigev_notify_thread_id = (pid_t)syscall(SYS_gettid);
    MUST(syscall(SYS_timer_create, t->clock, &ev, &t->id));
    if (t->value > 0)
        MUST(syscall(SYS_timer_settime, t->id, 0, &its, NULL));
}

static void on_function(union sigval value)
{
    atomic_store(&called, value.sival_int);
}

static void on_tick(int sig, siginfo_t *info, void *context)
{
    atomic_fetch_add(&ticks, 1 + timer_getoverrun(ticker));
    (void)sig;
    (void)info;
    (void)context;
}

static void start_ticker(void)
{
    struct sigaction sa = {.sa_sigaction = on_tick, .sa_flags = SA_SIGINFO | SA_RESTART};
    struct sigevent ev = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = RT + 4};
    struct itimerspec its = {spec(TICK), spec(TICK)};

    MUST(sigaction(RT + 4, &sa, NULL));
    MUST(timer_create(CLOCK_MONOTONIC, &ev, &ticker));
    MUST(timer_settime(ticker, 0, &its, NULL));
}

static timer_t make_function_timer(void)
{
    struct sigevent ev = {.sigev_notify = SIGEV_THREAD, .sigev_value.sival_int = 321};
    timer_t id;

    ev.sigev_notify_function = on_function;
    MUST(timer_create(CLOCK_MONOTONIC, &ev, &id));
    return id;
}

static void check_timer(const struct timer *t, double then)
{
    struct itimerspec its = {0};
    char what[100];

    if (syscall(SYS_timer_gettime, t->id, &its) < 0) {
        check_fail("timer %d (%s): timer_gettime: %s", t->id, t->name, strerror(errno));
        return;
    }
    check_range(t->interval - 1e-6, t->interval + 1e-6, seconds(its.it_interval), t->name);
    snprintf(what, sizeof(what), "timer %d (%s): what is left", t->id, t->name);
    if (t->clock == CLOCK_PROCESS_CPUTIME_ID || t->clock == CLOCK_THREAD_CPUTIME_ID)
        check_range(t->value - 1, t->value + 0.01, seconds(its.it_value), what);
    else if (t->value >= 100)
        check_remaining(then, t->value, seconds(its.it_value), what);
    else if (t->interval == 0)
        check_range(0, 0, seconds(its.it_value), what);
}

/* The signal of a timer that expired before. */
static void check_expired(const struct timer *t, int tag, double least, double most)
{
    const struct timespec now = {0};
    siginfo_t info = {0};
    sigset_t set;
    int sig;

    sigemptyset(&set);
    sigaddset(&set, t->sig);
    sig = sigtimedwait(&set, &info, &now);
    check_num(t->sig, sig, "%s: pending signal", t->name);
    check_num(SI_TIMER, info.si_code, "%s: si_code", t->name);
    check_num(5000 + tag, info.si_value.sival_int, "%s: value", t->name);
    check_num(t->id, info.si_timerid, "%s: si_timerid", t->name);
    check_range(least, most, info.si_overrun, "overruns of the timer whose signal waits");
}

int main(int argc, char **argv)
{
    struct itimerspec soon = {spec(0), spec(0)};
    double start, now, running;
    timer_t function_timer;
    sigset_t set;
    unsigned i;
    int next;

    check_init(argc, argv);
    sigemptyset(&set);
    sigaddset(&set, RT + 2);
    sigaddset(&set, RT + 3);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    start = check_now(CLOCK_MONOTONIC);
    for (i = 0; i < TIMERS; i++)
        create(&timers[i], (int)i);
    MUST(syscall(SYS_timer_delete, timers[1].id));
    MUST(syscall(SYS_timer_delete, timers[4].id));
    function_timer = make_function_timer();
    start_ticker();
    check_sleep(0.3);

    check_wait();

    now = check_now(CLOCK_MONOTONIC);
    running = now - start - check_gap(start, now);
    soon.it_value = spec(900);
    if (check_broken())
        MUST(syscall(SYS_timer_settime, timers[0].id, 0, &soon, NULL));
    /* Gaps count once more as possible late ticks: a frozen process gets what it missed as overruns. */
    check_range((running - 0.3) / TICK * 0.8 - 6, (now - start) / TICK + 2, atomic_load(&ticks), "ticks");
    for (i = 0; i < TIMERS; i++)
        if (i != 1 && i != 4)
            check_timer(&timers[i], start);
    check_num(-1, syscall(SYS_timer_gettime, timers[1].id, &soon), "timer_gettime of a deleted timer");
    check_expired(&timers[9], 9, 0, 0);
    now = check_now(CLOCK_MONOTONIC);
    /* The first expiry is no overrun, the last period is not over, and short gaps of two restarts pass unnoticed. */
    check_expired(&timers[10], 10, (now - start - check_gap(start, now)) / TICK - 4, (now - start) / TICK + 2);
    soon = (struct itimerspec){spec(0), spec(0.02)};
    MUST(timer_settime(function_timer, 0, &soon, NULL));
    for (i = 0; i < 1000 && !atomic_load(&called); i++)
        check_sleep(0.005);
    check_num(321, atomic_load(&called), "value that the notification function got");
    MUST(syscall(SYS_timer_create, CLOCK_MONOTONIC, NULL, &next));
    for (i = 0; i < TIMERS; i++)
        check_true(i == 1 || i == 4 || next != timers[i].id, "a new timer got the id %d of an old one", next);
    return check_end();
}
