/*
 * A storm of signals: two processes send each other numbered real-time signals that must arrive in order and
 * complete; a thread is hit by signals while it computes; a timer ticks; a child is stopped and continued;
 * a handler interrupts blocking calls that must go on or say EINTR, as their flags want.
 *
 * All of them rest together for the last part of each period of the clock: see rest().
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"

#define PING (SIGRTMIN + 3)

static atomic_int ticks, hits, bad_order;
static volatile sig_atomic_t stop;
static int next_expected;

/*
 * With scheduling by session (autogroup) or by control group, Linux up to 6.18.44 never lets anybody else run while
 * one process of a group computes and others are stopped and continued at full speed: each stop gives the group another
 * weight, and the running group is then always placed before all that wait ("sched/fair: Revert 6d71a9c61604" mended
 * it). We would starve the checkpoint, the test and the machine for minutes. They run when all of us sleep.
 */
#define PERIOD_MS 25
#define REST_MS 5

static void rest(void)
{
    long phase = (long)(check_now(CLOCK_MONOTONIC) * 1000) % PERIOD_MS;

    if (phase >= PERIOD_MS - REST_MS)
        check_sleep((double)(PERIOD_MS - phase) / 1000);
}

static void on_tick(int sig)
{
    (void)sig;
    atomic_fetch_add(&ticks, 1);
}

static void on_hit(int sig)
{
    (void)sig;
    atomic_fetch_add(&hits, 1);
}

static void on_ping(int sig, siginfo_t *info, void *context)
{
    (void)sig;
    (void)context;
    if (info->si_value.sival_int != next_expected)
        atomic_store(&bad_order, 1 + info->si_value.sival_int);
    next_expected++;
}

/* Numbered signals to the peer, at most 50 ahead of what it has handled (it tells through a pipe). */
static void pinger(pid_t to, int acks)
{
    int sent = 0, acked = 0;
    char buf[64];

    while (!check_go() || !sent) { /* it may be told to end before it has begun */
        union sigval value = {.sival_int = sent};
        ssize_t n;

        if (sigqueue(to, PING, value) < 0) {
            check_num(EAGAIN, errno, "errno of sigqueue");
            continue;
        }
        sent++;
        rest();
        while (sent - acked > 50) {
            n = read(acks, buf, sizeof(buf));
            if (!check_true(n > 0, "reading the acknowledgements: %zd, %s", n, strerror(errno)))
                _exit(1);
            acked += (int)n;
        }
    }
    _exit(check_status());
}

static void receiver(int acks)
{
    struct sigaction sa = {.sa_sigaction = on_ping, .sa_flags = SA_SIGINFO | SA_RESTART};
    int told = 0;
    sigset_t none;

    sigemptyset(&none);
    MUST(sigaction(PING, &sa, NULL));
    while (!check_go() || !next_expected) {
        struct timespec ts = {0, 2000000};
        int now = next_expected;

        MUST(write(acks, "................................................................", (size_t)(now - told) % 65));
        told += (now - told) % 65;
        /* may be interrupted: that is what it is for */
        nanosleep(&ts, NULL);
    }
    check_num(0, atomic_load(&bad_order), "number of a signal that came out of order");
    check_true(next_expected > 0, "no signal came");
}

static unsigned long chunk(unsigned long seed)
{
    unsigned long sum = seed, i;
    double x = 1;

    for (i = 0; i < 500000; i++) {
        sum = sum * 6364136223846793005u + i;
        x = x * 1.0000001 + 0.5;
    }
    return sum ^ (unsigned long)x;
}

static void *computing(void *arg)
{
    unsigned long expected = chunk(7);

    for (; !stop && !check_status(); rest())
        check_num((long long)expected, (long long)chunk(7), "what a thread computed under a hail of signals");
    return arg;
}

/* Reads byte after byte of a slow pipe under a hail of SA_RESTART signals: never EINTR, nothing lost. */
static void *reading(void *arg)
{
    int *fds = arg;
    unsigned char next = 0, c;

    while (!stop) {
        ssize_t n = read(fds[0], &c, 1);

        if (!check_true(n == 1, "read under SA_RESTART: %zd, %s", n, strerror(errno)))
            break;
        if (!check_num(next, c, "byte read from the pipe"))
            break;
        next++;
    }
    return NULL;
}

static void worker(void)
{
    struct sigaction sa = {.sa_handler = on_hit, .sa_flags = SA_RESTART};
    struct itimerval timer = {{0, 2000}, {0, 2000}};
    pthread_t computer, reader;
    unsigned char byte = 0;
    int fds[2], i;

    MUST(pipe(fds));
    MUST(sigaction(SIGUSR1, &sa, NULL));
    sa.sa_handler = on_tick;
    MUST(sigaction(SIGALRM, &sa, NULL));
    pthread_create(&computer, NULL, computing, NULL);
    pthread_create(&reader, NULL, reading, fds);
    MUST(setitimer(ITIMER_REAL, &timer, NULL));
    for (i = 0; (!check_go() || !atomic_load(&ticks) || !atomic_load(&hits)) && !check_status(); i++) {
        rest();
        pthread_kill(i % 2 ? computer : reader, SIGUSR1);
        if (i % 16 == 0)
            MUST(write(fds[1], &byte, 1) == 1 ? (byte++, 0) : -1);
        if (i % 64 == 0)
            check_sleep(0.001);
    }
    stop = 1;
    MUST(write(fds[1], &byte, 1));
    pthread_join(computer, NULL);
    pthread_join(reader, NULL);
    check_true(atomic_load(&ticks) > 0, "no tick");
    check_true(atomic_load(&hits) > 0, "no hit");
    _exit(check_status());
}

/* Stops and continues a child and is told each time, exactly once. */
static void stopper(void)
{
    pid_t pid = (pid_t)MUST(fork());
    int status;

    if (pid == 0)
        for (;;)
            check_sleep(0.001);
    for (; !check_go() && !check_status(); rest()) {
        MUST(kill(pid, SIGSTOP));
        check_num(pid, waitpid(pid, &status, WUNTRACED), "waitpid of a child that stops");
        check_num(SIGSTOP, WIFSTOPPED(status) ? WSTOPSIG(status) : -1, "signal that stopped it");
        MUST(kill(pid, SIGCONT));
        check_num(pid, waitpid(pid, &status, WCONTINUED), "waitpid of a child that goes on");
        check_num(1, WIFCONTINUED(status), "did it go on?");
    }
    MUST(kill(pid, SIGKILL));
    check_num(pid, waitpid(pid, &status, 0), "waitpid of the killed child");
    _exit(check_status());
}

int main(int argc, char **argv)
{
    pid_t pid, ping, work, stops;
    int acks[2];

    check_init(argc, argv);
    MUST(pipe(acks));
    signal(PING, SIG_IGN);
    pid = getpid();
    /* blocked until the handler is there; the pinger inherits nothing of it */
    ping = (pid_t)MUST(fork());
    if (ping == 0) {
        check_sleep(0.1);
        pinger(pid, acks[0]);
    }
    if ((work = (pid_t)MUST(fork())) == 0)
        worker();
    if ((stops = (pid_t)MUST(fork())) == 0)
        stopper();
    check_ready();
    receiver(acks[1]);
    if (check_broken())
        check_num(0, next_expected, "signals");
    MUST(write(acks[1], "................................................................", 64)); /* it may still wait for one */
    check_child(ping, "pinger");
    check_child(work, "worker");
    check_child(stops, "stopper");
    return check_end();
}
