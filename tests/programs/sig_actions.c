/*
 * What is done about each of the 64 signals: handler, flags, restorer and mask exactly as the kernel has
 * them; and the handlers do run afterwards, with the masks and flags that they ask for.
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"

struct kernel_action {
    void *handler;
    unsigned long flags;
    void *restorer;
    unsigned long mask;
};

static volatile sig_atomic_t got, got_info, masked;

static void plain(int sig)
{
    got = sig;
}

static void with_info(int sig, siginfo_t *info, void *context)
{
    sigset_t set;

    got = sig;
    got_info = info->si_value.sival_int;
    sigprocmask(SIG_BLOCK, NULL, &set);
    masked = sigismember(&set, SIGUSR2) && !sigismember(&set, sig);
    (void)context;
}

static void look(int sig, struct kernel_action *a)
{
    memset(a, 0, sizeof(*a));
    MUST(syscall(SYS_rt_sigaction, sig, NULL, a, 8));
}

static void set(int sig)
{
    struct sigaction sa = {0};

    if (sig == 32 || sig == 33 || sig == SIGKILL || sig == SIGSTOP)
        return; /* glibc's own, and those that nobody can change */
    switch (sig % 4) {
    case 0:
        sa.sa_handler = SIG_IGN;
        break;
    case 1:
        sa.sa_handler = plain;
        sa.sa_flags = SA_RESTART | (sig % 3 ? SA_ONSTACK : 0);
        sigaddset(&sa.sa_mask, sig == 64 ? 1 : sig + 1);
        break;
    case 2:
        sa.sa_sigaction = with_info;
        sa.sa_flags = SA_SIGINFO | SA_NODEFER | (sig % 3 ? SA_RESETHAND : 0);
        sigaddset(&sa.sa_mask, SIGUSR2);
        break;
    default:
        sa.sa_handler = SIG_DFL;
        sa.sa_flags = sig == SIGCHLD ? SA_NOCLDSTOP | SA_NOCLDWAIT : 0;
        break;
    }
    if (sig == SIGCHLD)
        sa.sa_flags |= SA_NOCLDWAIT;
    MUST(sigaction(sig, &sa, NULL));
}

int main(int argc, char **argv)
{
    static struct kernel_action before[65], after;
    int sig;

    check_init(argc, argv);
    for (sig = 1; sig <= 64; sig++) {
        set(sig);
        look(sig, &before[sig]);
    }

    check_wait();

    if (check_broken())
        signal(SIGHUP, SIG_IGN);
    for (sig = 1; sig <= 64; sig++) {
        look(sig, &after);
        check_num((long)before[sig].handler, (long)after.handler, "signal %d: handler", sig);
        check_num((long)before[sig].flags, (long)after.flags, "signal %d: flags", sig);
        check_num((long)before[sig].restorer, (long)after.restorer, "signal %d: restorer", sig);
        check_num((long)before[sig].mask, (long)after.mask, "signal %d: mask", sig);
    }
    MUST(raise(SIGTRAP)); /* 5: plain */
    check_num(SIGTRAP, got, "signal that the plain handler got");
    MUST(sigqueue(getpid(), SIGRTMIN + 4, (union sigval){.sival_int = 77})); /* 38: with information */
    check_num(SIGRTMIN + 4, got, "signal that the other handler got");
    check_num(77, got_info, "value that it got");
    check_num(1, masked, "its mask and SA_NODEFER");
    look(SIGRTMIN + 4, &after);
    check_num((long)SIG_DFL, (long)after.handler, "handler after SA_RESETHAND");
    return check_end();
}
