/*
 * Checkpointed inside a signal handler, on an alternate stack, in a handler that interrupted another one;
 * then both return to where they came from with all registers and masks as they were.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"

static volatile sig_atomic_t depth, returned;
static unsigned char alternate[65536];

static void check_mask(int sig, bool blocked, const char *where)
{
    sigset_t now;

    sigprocmask(SIG_BLOCK, NULL, &now);
    check_num(blocked, sigismember(&now, sig), "%s: is signal %d blocked?", where, sig);
}

static void inner(int sig, siginfo_t *info, void *context)
{
    unsigned char local[4096];
    stack_t stack;

    depth++;
    check_fill(local, sizeof(local), 5);
    check_num(sig, info->si_signo, "si_signo in the inner handler");

    check_wait();

    if (check_broken())
        local[7] ^= 1;
    check_filled(local, sizeof(local), 5, "local variable of the inner handler");
    check_true(&local[0] > &alternate[0] && &local[0] < &alternate[sizeof(alternate) - 1], "not on the alternate stack");
    MUST(sigaltstack(NULL, &stack));
    check_num(SS_ONSTACK, stack.ss_flags, "flags of the alternate stack");
    check_mask(SIGUSR1, true, "in the inner handler");
    check_mask(SIGUSR2, true, "in the inner handler");
    check_mask(SIGTERM, true, "in the inner handler");
    (void)context;
}

static void outer(int sig, siginfo_t *info, void *context)
{
    volatile double before = 1.5;

    depth++;
    MUST(raise(SIGUSR2));
    check_num(1, before * 2 == 3.0, "a floating-point value of the outer handler");
    check_mask(SIGUSR1, true, "back in the outer handler");
    check_mask(SIGUSR2, false, "back in the outer handler");
    returned = sig;
    (void)info;
    (void)context;
}

int main(int argc, char **argv)
{
    stack_t stack = {.ss_sp = alternate, .ss_size = sizeof(alternate)};
    struct sigaction sa = {.sa_sigaction = outer, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    volatile double value = 0.1;
    volatile int i;

    check_init(argc, argv);
    MUST(sigaltstack(&stack, NULL));
    MUST(sigaction(SIGUSR1, &sa, NULL));
    sa.sa_sigaction = inner;
    sigaddset(&sa.sa_mask, SIGTERM);
    MUST(sigaction(SIGUSR2, &sa, NULL));
    for (i = 0; i < 3; i++)
        value += 0.25;
    MUST(raise(SIGUSR1));
    check_num(1, value == 0.1 + 0.25 + 0.25 + 0.25, "a floating-point value of main");
    check_num(2, depth, "handlers that ran");
    check_num(SIGUSR1, returned, "signal of the outer handler");
    check_mask(SIGUSR1, false, "back in main");
    check_mask(SIGTERM, false, "back in main");
    MUST(sigaltstack(NULL, &stack));
    check_num(0, stack.ss_flags, "flags of the alternate stack in main");
    return check_end();
}
