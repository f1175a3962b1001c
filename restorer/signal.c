/*
 * Signals of a process: what it does about them, and those that wait for all of it. While it is built every
 * signal is blocked in a skeleton, so what is queued stays queued.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>

#include "base/util.h"
#include "restorer/core.h"

struct kernel_sigaction {
    uint64_t handler, flags, restorer, mask;
};

void signals_add_drain(struct inj_batch *b)
{
    uint64_t set = 1ull << (SIGCHLD - 1);
    struct timespec none = {0};

    inj_call(b, 0, SYS_rt_sigtimedwait, inj_data(b, &set, sizeof(set)), 0, inj_data(b, &none, sizeof(none)), 8);
}

static void add_actions(const Signals *s, struct inj_batch *b)
{
    struct kernel_sigaction act[65] = {0};

    for (size_t i = 0; i < s->n_actions; i++) {
        const SigAction *a = s->actions[i];
        act[a->signo] = (struct kernel_sigaction){a->handler, a->flags, a->restorer, a->mask};
    }
    for (int sig = 1; sig <= 64; sig++)
        if (sig != SIGKILL && sig != SIGSTOP)
            inj_call(b, BLOB_MUST, SYS_rt_sigaction, sig, inj_data(b, &act[sig], sizeof(act[sig])), 0, 8);
}

int signals_restore(struct restore *r, struct rproc *p, struct err *err)
{
    _cleanup_batch_ struct inj_batch b = {0};

    if (inj_begin(&b, &p->inj, err) < 0)
        return -err->code;
    if (p->signals && (!p->process->sighand_owner || p->process->sighand_owner == p->pid))
        add_actions(p->signals, &b);
    /* Only the leader may queue kernel-made ones for the process (do_rt_sigqueueinfo in kernel/signal.c). */
    for (size_t i = 0; p->signals && i < p->signals->n_pending; i++) {
        siginfo_t si;
        memcpy(&si, p->signals->pending[i]->info.data, sizeof(si));
        if (timer_sends(p, &si) || si.si_signo == SIGSTOP) /* nobody can block that one: send_stops() */
            continue;
        inj_call(&b, BLOB_MUST, SYS_rt_sigqueueinfo, p->inj.pid, si.si_signo, inj_data(&b, &si, sizeof(si)));
        if (run_full_batch(&b, "pending signals", err) < 0)
            return -err->code;
    }
    process_add_limits(p, &b); /* that of pending signals among them */
    return run_batch(&b, "signals and limits", err);
}
