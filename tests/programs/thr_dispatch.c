/*
 * Syscall user dispatch: a thread whose every system call comes back to it as SIGSYS. It cannot be checkpointed, and a
 * checkpoint that is refused must leave the thread as it is: it has seen no signal that it did not cause, and its calls
 * still come back.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests/programs/check.h"

#define SET_DISPATCH 59 /* PR_SET_SYSCALL_USER_DISPATCH */
#define ALLOW        0
#define BLOCK        1

static volatile char selector = ALLOW;
static atomic_int signals, ready, stop;
static long unblocked;

static void on_sys(int sig, siginfo_t *info, void *context)
{
    selector = ALLOW; /* the way back is a call, too */
    signals++;
    (void)sig, (void)info, (void)context;
}

static long getppid_blocked(void)
{
    long r;

    selector = BLOCK;
    __asm__ volatile("syscall" : "=a"(r) : "a"((long)SYS_getppid) : "rcx", "r11", "memory");
    return r;
}

static void *dispatched(void *arg)
{
    if (prctl(SET_DISPATCH, 1, 0, 0, &selector) < 0) {
        ready = -errno;
        return NULL;
    }
    unblocked = getppid_blocked();
    selector = BLOCK;
    ready = 1;
    while (!stop)
        __builtin_ia32_pause();
    selector = ALLOW;
    check_num(1, signals, "signals before it makes a call");
    if (check_broken())
        prctl(SET_DISPATCH, 0, 0, 0, 0);
    unblocked = getppid_blocked();
    selector = ALLOW;
    (void)arg;
    return NULL;
}

int main(int argc, char **argv)
{
    struct sigaction a = {.sa_sigaction = on_sys, .sa_flags = SA_SIGINFO | SA_NODEFER};
    pthread_t thread;

    check_init(argc, argv);
    MUST(sigaction(SIGSYS, &a, NULL));
    MUST(pthread_create(&thread, NULL, dispatched, NULL));
    while (!ready)
        check_sleep(0.002);
    if (ready < 0)
        check_skip("PR_SET_SYSCALL_USER_DISPATCH: %s", strerror(-ready));
    check_wait();
    stop = 1;
    MUST(pthread_join(thread, NULL));
    check_num(2, signals, "signals when it has made a call");
    check_true(unblocked != getppid(), "the call reached the kernel");
    return check_end();
}
