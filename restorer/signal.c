/* Signal dispositions and what waits for the whole process (threads have theirs in thread.c). All signals are blocked in a skeleton, so what is queued here waits. */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>

#include "base/util.h"
#include "restorer/core.h"

#define NSIGNALS 64

struct kernel_sigaction {
    uint64_t handler, flags, restorer, mask;
};

/* Children that were helpers or are zombies now have left a SIGCHLD. */
int signals_drain(struct restore *r, struct rproc *p, struct err *err)
{
    _cleanup_batch_ struct inj_batch b = {0};
    const uint64_t all = ~0ull;
    const struct timespec none = {0, 0};

    (void)r;
    if (inj_begin(&b, &p->inj, err) < 0)
        return -err->code;
    for (int i = 0; i < 4; i++)
        inj_call(&b, 0, SYS_rt_sigtimedwait, inj_data(&b, &all, sizeof(all)), 0, inj_data(&b, &none, sizeof(none)), 8);
    return run_batch(&b, "pending signals", err);
}

static void add_actions(const struct rproc *p, struct inj_batch *b)
{
    struct kernel_sigaction act[NSIGNALS + 1] = {0};

    for (size_t i = 0; i < p->signals->n_actions; i++) {
        const SigAction *a = p->signals->actions[i];
        if (a->signo >= 1 && a->signo <= NSIGNALS)
            act[a->signo] = (struct kernel_sigaction){a->handler, a->flags, a->restorer, a->mask};
    }
    for (int sig = 1; sig <= NSIGNALS; sig++)
        if (sig != SIGKILL && sig != SIGSTOP)
            inj_call(b, BLOB_MUST, SYS_rt_sigaction, sig, inj_data(b, &act[sig], sizeof(act[sig])), 0, 8);
}

static int signo_of(const SigInfo *s)
{
    int signo;

    memcpy(&signo, s->info.data, sizeof(signo));
    return signo >= 1 && signo <= NSIGNALS && signo != SIGKILL && signo != SIGSTOP ? signo : 0;
}

/* rt_sigqueueinfo(2) takes any si_code from a process that sends to itself. */
int signals_restore(struct restore *r, struct rproc *p, struct err *err)
{
    _cleanup_batch_ struct inj_batch b = {0};

    (void)r;
    if (inj_begin(&b, &p->inj, err) < 0)
        return -err->code;
    if (p->process->sighand_owner == 0 || p->process->sighand_owner == p->pid)
        add_actions(p, &b);
    for (size_t i = 0; i < p->signals->n_pending; i++) {
        const SigInfo *s = p->signals->pending[i];
        if (signo_of(s))
            inj_call(&b, BLOB_MUST, SYS_rt_sigqueueinfo, p->pid, signo_of(s), inj_data(&b, s->info.data, s->info.len));
        if (run_full_batch(&b, "pending signals", err) < 0)
            return -err->code;
    }
    return run_batch(&b, "signals", err);
}
