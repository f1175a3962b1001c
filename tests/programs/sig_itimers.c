/*
 * The three interval timers: how much is left and the interval; and an alarm that rings at the right time,
 * neither at once nor from the start again. ITIMER_REAL belongs to a child, the alarm to this process.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"

#define ALARM 3.0

static volatile double rang;

static void on_alarm(int sig)
{
    (void)sig;
    rang = check_now(CLOCK_MONOTONIC);
}

static double seconds(struct timeval tv)
{
    return (double)tv.tv_sec + (double)tv.tv_usec / 1e6;
}

static void set(int which, long value, long interval)
{
    struct itimerval v = {{interval, 250000}, {value, 0}};

    MUST(setitimer(which, &v, NULL));
}

static void check_timer(int which, double low, double high, double interval, const char *what)
{
    struct itimerval v;

    MUST(getitimer(which, &v));
    check_range(low, high, seconds(v.it_value), what);
    check_range(interval, interval, seconds(v.it_interval), what);
}

static int child(void)
{
    double start = check_now(CLOCK_MONOTONIC), now, gap;
    struct itimerval v;

    set(ITIMER_REAL, 1000, 70);
    set(ITIMER_VIRTUAL, 500, 30);
    set(ITIMER_PROF, 600, 20);
    check_wait_go();
    if (check_broken())
        set(ITIMER_VIRTUAL, 400, 30);
    now = check_now(CLOCK_MONOTONIC);
    gap = check_gap(start, now);
    MUST(getitimer(ITIMER_REAL, &v));
    check_remaining(start, 1000, seconds(v.it_value), "ITIMER_REAL: what is left");
    check_range(70.25, 70.25, seconds(v.it_interval), "ITIMER_REAL: interval");
    /* These count CPU time, of which a polling process uses next to nothing. */
    check_timer(ITIMER_VIRTUAL, 500 - (now - start - gap) - 0.5, 500.1, 30.25, "ITIMER_VIRTUAL");
    check_timer(ITIMER_PROF, 600 - (now - start - gap) - 0.5, 600.1, 20.25, "ITIMER_PROF");
    return check_status();
}

int main(int argc, char **argv)
{
    double start, running;
    pid_t pid;

    check_init(argc, argv);
    pid = (pid_t)MUST(fork());
    if (pid == 0)
        return child();
    signal(SIGALRM, on_alarm);
    start = check_now(CLOCK_MONOTONIC);
    alarm((unsigned)ALARM);
    check_sleep(1.0);

    check_wait();

    while (rang == 0 && check_now(CLOCK_MONOTONIC) - start < 60) {
        check_wait_go();
        check_sleep(0.005);
    }
    check_true(rang != 0, "the alarm never rang");
    running = rang - start - check_gap(start, rang);
    check_true(rang - start > ALARM - 0.05, "the alarm rang early: after %.3f s of %.3f", rang - start, ALARM);
    check_true(running < ALARM + 0.7, "the alarm was set anew? It rang after %.3f s of %.3f", running, ALARM);
    check_child(pid, "child with the three timers");
    return check_end();
}
