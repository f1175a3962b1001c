/*
 * SIGTRAP, which tracing itself makes use of: three processes that ignore it, that block it while one is pending, and
 * that handle it. Nobody gets one that was not sent, and none is lost.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"

enum what { IGNORED, BLOCKED, HANDLED, KINDS };

static volatile sig_atomic_t got;

static void on_trap(int sig)
{
    (void)sig;
    got++;
}

static void set_up(enum what what, sigset_t *trap)
{
    struct sigaction sa = {.sa_handler = what == IGNORED ? SIG_IGN : on_trap, .sa_flags = SA_NODEFER};

    sigemptyset(trap);
    sigaddset(trap, SIGTRAP);
    sigaddset(&sa.sa_mask, SIGUSR1);
    MUST(sigaction(SIGTRAP, &sa, NULL));
    if (what == BLOCKED) {
        MUST(sigprocmask(SIG_BLOCK, trap, NULL));
        MUST(kill(getpid(), SIGTRAP));
    }
}

static void compare(enum what what, const sigset_t *trap)
{
    struct sigaction sa = {0};
    sigset_t set;

    MUST(sigaction(SIGTRAP, NULL, &sa));
    check_true(sa.sa_handler == (what == IGNORED ? SIG_IGN : on_trap), "%d: the handler is another one", what);
    check_num(SA_NODEFER, sa.sa_flags & SA_NODEFER, "%d: flags", what);
    check_num(1, sigismember(&sa.sa_mask, SIGUSR1), "%d: mask of the handler", what);
    MUST(sigprocmask(SIG_BLOCK, NULL, &set));
    check_num(what == BLOCKED, sigismember(&set, SIGTRAP), "%d: blocked", what);
    sigpending(&set);
    check_num(what == BLOCKED, sigismember(&set, SIGTRAP), "%d: pending", what);
    check_num(0, got, "%d: SIGTRAP that nobody sent", what);
    MUST(kill(getpid(), SIGTRAP));
    check_num(what == HANDLED, got, "%d: SIGTRAP that was sent", what);
    MUST(sigprocmask(SIG_UNBLOCK, trap, NULL));
    check_num(what != IGNORED, got, "%d: SIGTRAP when it is not blocked any more", what);
}

int main(int argc, char **argv)
{
    pid_t pids[KINDS];
    int up[2];
    char c;

    check_init(argc, argv);
    MUST(pipe(up));
    for (int i = 0; i < KINDS; i++) {
        sigset_t trap;

        pids[i] = (pid_t)MUST(fork());
        if (pids[i])
            continue;
        set_up((enum what)i, &trap);
        MUST(write(up[1], "x", 1));
        check_idle();
        if (check_broken())
            signal(SIGTRAP, SIG_DFL);
        if (!check_broken() || i == IGNORED)
            compare((enum what)i, &trap);
        _exit(check_status());
    }
    for (int i = 0; i < KINDS; i++)
        MUST(read(up[0], &c, 1));

    check_wait();

    for (int i = 0; i < KINDS; i++)
        check_child(pids[i], "child");
    return check_end();
}
