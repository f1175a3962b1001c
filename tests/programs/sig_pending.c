/*
 * Pending signals, of the process and of two threads: each with all that its siginfo says (who, why, value),
 * real-time signals in the order in which they were queued, from this process, from a child that is gone,
 * and with a siginfo that the sender made up.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"

struct expected {
    int sig, code, value;
    pid_t pid;
};

static pthread_barrier_t queued;
static pid_t child;

/* Take the signals that must be pending, one after the other; then there must be none of them any more. */
static void take(const char *who, const struct expected *list, int n)
{
    const struct timespec now = {0};
    siginfo_t info;
    sigset_t set;
    int i, got;

    for (i = 0; i < n; i++) {
        memset(&info, 0, sizeof(info));
        sigemptyset(&set);
        sigaddset(&set, list[i].sig);
        got = sigtimedwait(&set, &info, &now);
        if (!check_true(got > 0, "%s: signal %d (number %d) is not pending", who, list[i].sig, i))
            continue;
        check_num(list[i].code, info.si_code, "%s: signal %d: si_code", who, got);
        check_num(list[i].pid, info.si_pid, "%s: signal %d: si_pid", who, got);
        check_num(getuid(), info.si_uid, "%s: signal %d: si_uid", who, got);
        if (list[i].value)
            check_num(list[i].value, info.si_value.sival_int, "%s: signal %d: value", who, got);
        if (got == SIGCHLD)
            check_num(9, info.si_status, "%s: SIGCHLD: si_status", who);
    }
    sigfillset(&set);
    got = sigtimedwait(&set, &info, &now);
    check_true(got < 0, "%s: signal %d is pending, and it should not be", who, got);
}

static void queue_to_thread(int sig, int value, int code)
{
    siginfo_t info = {0};

    info.si_signo = sig;
    info.si_code = code;
    info.si_pid = 4321;
    info.si_uid = getuid();
    info.si_value.sival_int = value;
    MUST(syscall(SYS_rt_tgsigqueueinfo, getpid(), syscall(SYS_gettid), sig, &info));
}

static void *thread(void *arg)
{
    const struct expected mine[] = {
        {SIGTERM, SI_USER, 0, getpid()} /* SI_TKILL: sigtimedwait() calls it so */,
        {SIGRTMIN + 1, -60, 11, 4321},
        {SIGRTMIN + 1, -61, 12, 4321},
        {SIGRTMIN + 1, -62, 13, 4321},
        {SIGRTMIN + 9, SI_QUEUE, 14, 4321},
    };
    int i;

    pthread_kill(pthread_self(), SIGTERM);
    for (i = 1; i < 4; i++)
        queue_to_thread(SIGRTMIN + 1, mine[i].value, mine[i].code);
    queue_to_thread(SIGRTMIN + 9, 14, SI_QUEUE);
    pthread_barrier_wait(&queued);
    pthread_barrier_wait(&queued); /* until main has taken what belongs to all */
    take("thread", mine, 5);
    return arg;
}

static void queue_from_child(void)
{
    pid_t parent = getpid();

    child = (pid_t)MUST(fork());
    if (child == 0) {
        MUST(sigqueue(parent, SIGRTMIN + 3, (union sigval){.sival_int = 31}));
        MUST(kill(parent, SIGHUP));
        MUST(sigqueue(parent, SIGRTMIN + 3, (union sigval){.sival_int = 32}));
        _exit(9);
    }
    /* dead, not waited for: SIGCHLD stays pending */
    MUST(waitid(P_PID, (id_t)child, &(siginfo_t){0}, WEXITED | WNOWAIT));
}

int main(int argc, char **argv)
{
    sigset_t all, before, after;
    pthread_t other;
    int i;

    check_init(argc, argv);
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, NULL);
    pthread_barrier_init(&queued, NULL, 2);
    MUST(kill(getpid(), SIGUSR1));
    MUST(sigqueue(getpid(), SIGUSR2, (union sigval){.sival_int = 21}));
    for (i = 1; i <= 5; i++)
        MUST(sigqueue(getpid(), SIGRTMIN + 2, (union sigval){.sival_int = 100 + i}));
    queue_from_child();
    pthread_create(&other, NULL, thread, NULL);
    pthread_barrier_wait(&queued);
    queue_to_thread(SIGRTMIN + 5, 51, SI_QUEUE);
    MUST(sigpending(&before));

    check_wait();

    MUST(sigpending(&after));
    check_mem(&before, &after, 8, "set of pending signals");
    {
        const struct expected mine[] = {
            {SIGUSR1, SI_USER, 0, getpid()},
            {SIGUSR2, SI_QUEUE, check_broken() ? 22 : 21, getpid()},
            {SIGHUP, SI_USER, 0, child},
            {SIGCHLD, CLD_EXITED, 0, child},
            {SIGRTMIN + 2, SI_QUEUE, 101, getpid()},
            {SIGRTMIN + 2, SI_QUEUE, 102, getpid()},
            {SIGRTMIN + 2, SI_QUEUE, 103, getpid()},
            {SIGRTMIN + 2, SI_QUEUE, 104, getpid()},
            {SIGRTMIN + 2, SI_QUEUE, 105, getpid()},
            {SIGRTMIN + 3, SI_QUEUE, 31, child},
            {SIGRTMIN + 3, SI_QUEUE, 32, child},
            {SIGRTMIN + 5, SI_QUEUE, 51, 4321},
        };

        take("process", mine, sizeof(mine) / sizeof(mine[0]));
    }
    pthread_barrier_wait(&queued);
    pthread_join(other, NULL);
    MUST(waitpid(child, NULL, 0));
    return check_end();
}
