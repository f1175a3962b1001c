/*
 * Threads. The host thread of a process clones all others, many in one batch; each finds its own first batch in its
 * slot (injector/blob/blob.h), with the calls that only it can make for itself, then parks until
 * it is stopped by ptrace and given its registers (regs.c).
 */
#include <errno.h>
#include <linux/ioprio.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "base/util.h"
#include "injector/ptrace.h"
#include "restorer/core.h"

#define CALLS_MAX   4096u /* of one thread: pending signals are the only thing without a small bound */
#define DATA_MARGIN (INJ_DATA_SIZE / 4)
#define THREAD_FLAGS (CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM)

struct sched_attr_ { /* struct sched_attr of linux/sched/types.h, which clashes with glibc's sched.h */
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, deadline, period;
};

/* A restart under nice(1) by an ordinary user: the program is as nice as that. */
static int nice_to_be_had(int nice)
{
    int mine = getpriority(PRIO_PROCESS, 0);

    if (nice >= mine)
        return nice;
    if (setpriority(PRIO_PROCESS, 0, nice) < 0)
        return mine;
    setpriority(PRIO_PROCESS, 0, mine);
    return nice;
}

static void add_sched(const Thread *t, struct inj_batch *b)
{
    const int nice = nice_to_be_had(t->nice);
    struct sched_attr_ a = {sizeof(a), t->policy, t->sched_flags & 1, nice, t->rt_priority,
                            t->dl_runtime, t->dl_deadline, t->dl_period};
    cpu_set_t mine;

    if (t->policy || t->sched_flags || nice != getpriority(PRIO_PROCESS, 0))
        inj_call(b, BLOB_MUST, SYS_sched_setattr, 0, inj_data(b, &a, sizeof(a)), 0);
    if (t->policy && nice) /* sched_setattr(2) heeds it for two policies only */
        inj_call(b, 0, SYS_setpriority, PRIO_PROCESS, 0, nice);
    if (t->affinity.len && (sched_getaffinity(0, sizeof(mine), &mine) < 0 || t->affinity.len > sizeof(mine) ||
                            memcmp(&mine, t->affinity.data, t->affinity.len) != 0))
        inj_call(b, 0, SYS_sched_setaffinity, 0, t->affinity.len, inj_data(b, t->affinity.data, t->affinity.len));
    if (t->ioprio)
        inj_call(b, 0, SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, t->ioprio);
    if (t->mempolicy)
        inj_call(b, 0, SYS_set_mempolicy, t->mempolicy, inj_data(b, t->nodemask.data, t->nodemask.len),
                 t->nodemask.len * 8);
}

static void add_pending(const struct rproc *p, const Thread *t, struct inj_batch *b)
{
    for (size_t i = 0; i < t->n_pending; i++) {
        siginfo_t si;
        memcpy(&si, t->pending[i]->info.data, sizeof(si));
        if (timer_sends(p, &si) || si.si_signo == SIGSTOP) /* send_stops() */
            continue;
        inj_call(b, BLOB_MUST, SYS_rt_tgsigqueueinfo, p->inj.pid, t->tid, si.si_signo, inj_data(b, &si, sizeof(si)));
    }
}

/* All that a thread does for itself. */
static void add_thread(const struct restore *r, const struct rproc *p, const Thread *t, struct inj_batch *b)
{
    char comm[16] = "";

    memcpy(comm, t->comm.data, t->comm.len < 15 ? t->comm.len : 15);
    if (t->comm.len)
        inj_call(b, 0, SYS_prctl, PR_SET_NAME, inj_data(b, comm, sizeof(comm)));
    if (t->altstack_sp || t->altstack_flags) {
        stack_t s = {.ss_sp = (void *)t->altstack_sp, .ss_flags = (int)t->altstack_flags, .ss_size = t->altstack_size};
        inj_call(b, BLOB_MUST, SYS_sigaltstack, inj_data(b, &s, sizeof(s)), 0);
    }
    if (t->robust_list)
        inj_call(b, BLOB_MUST, SYS_set_robust_list, t->robust_list, t->robust_list_len);
    if (t->rseq)
        inj_call(b, BLOB_MUST, SYS_rseq, t->rseq, t->rseq_len, 0, t->rseq_sig);
    inj_call(b, 0, SYS_set_tid_address, t->clear_child_tid);
    if (t->timer_slack_ns)
        inj_call(b, 0, SYS_prctl, PR_SET_TIMERSLACK, t->timer_slack_ns);
    add_sched(t, b);
    add_pending(p, t, b);
    creds_add(r, p, b);
    if (t->pdeathsig) /* a change of credentials clears it */
        inj_call(b, BLOB_MUST, SYS_prctl, PR_SET_PDEATHSIG, t->pdeathsig);
}

/* --- the host itself ----------------------------------------------------------------------------- */

int thread_host(struct restore *r, struct rproc *p, struct err *err)
{
    _cleanup_batch_ struct inj_batch b = {0};

    if (inj_begin(&b, &p->inj, err) < 0)
        return -err->code;
    add_thread(r, p, p->threads[0], &b);
    if (!p->own_mm && p->process->dumpable <= 1)
        inj_call(&b, 0, SYS_prctl, PR_SET_DUMPABLE, p->process->dumpable);
    return run_batch(&b, "its first thread", err);
}

/* --- the others ---------------------------------------------------------------------------------- */

struct wave {
    struct restore *r;
    struct rproc *p;
    struct inj_batch b;       /* the host's: clones, and everybody's data */
    struct blob_call *calls;  /* of the thread that is being described */
    struct made {
        const Thread *thread;
        uint64_t calls_at;
        uint32_t n;
    } *made;
    uint32_t n;
    struct err *err;
};

static uint32_t next_slot(struct rproc *p)
{
    struct rproc *home = p->mm_home;

    do
        home->next_slot++;
    while (home->next_slot == home->slot);
    return home->next_slot;
}

/* Describe one thread in the data area and add its clone to the host's batch. */
static int add_one(struct wave *w, const Thread *t)
{
    struct inj_batch own = w->b; /* its calls are data of the host's batch */
    struct inj *inj = &w->p->inj;
    uint32_t number = next_slot(w->p);
    uint64_t top = inj_slot_stack(inj, number), at = inj_slot(inj, number), tid_at, args_at;
    pid_t tid = t->tid;

    own.calls = w->calls;
    own.ncalls = 0;
    add_thread(w->r, w->p, t, &own);
    uint64_t calls_at = inj_data(&own, own.calls, own.ncalls * sizeof(*own.calls));
    struct blob_slot slot = {.calls = calls_at, .ncalls = own.ncalls, .ctl = inj->remote_ctl, .index = number};
    tid_at = inj_data(&own, &tid, sizeof(tid));
    struct clone_args ca = {.flags = THREAD_FLAGS, .set_tid = tid_at, .set_tid_size = 1,
                            .stack = top - INJ_SLOT_STACK, .stack_size = INJ_SLOT_STACK - 16};
    args_at = inj_data(&own, &ca, sizeof(ca));
    w->b.used = own.used;
    w->b.overflow |= own.overflow;
    if (number >= w->r->slots)
        return err_set(w->err, EINVAL, "more threads than were counted");
    if (pt_write(inj->pid, at, &slot, sizeof(slot), w->err) < 0 ||
        pt_write(inj->pid, top - 16, &at, sizeof(at), w->err) < 0)
        return -w->err->code;
    inj_call(&w->b, BLOB_MUST | BLOB_CLONE_VM, SYS_clone3, args_at, sizeof(ca));
    w->made[w->n++] = (struct made){t, calls_at, own.ncalls};
    return 0;
}

static int check_one(const struct wave *w, const struct made *m)
{
    const struct blob_call *c = inj_at(&w->b, m->calls_at);

    for (uint32_t i = 0; i < m->n; i++)
        if ((c[i].flags & BLOB_MUST) && !(c[i].flags & BLOB_NOT_RUN) && inj_failed(c[i].ret))
            return err_set(w->err, (int)-c[i].ret, "process %d: thread %d: system call %lld(%#llx, %#llx): %s", w->p->pid,
                           m->thread->tid, (long long)c[i].nr, (unsigned long long)c[i].arg[0],
                           (unsigned long long)c[i].arg[1], strerror((int)-c[i].ret));
    return 0;
}

/* The first n are there: what is left is the batch. */
static int drop_made(struct wave *w, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (check_one(w, &w->made[i]) < 0)
            return -w->err->code;
    w->n -= n;
    w->b.ncalls -= n;
    memmove(w->made, w->made + n, w->n * sizeof(*w->made));
    memmove(w->b.calls, w->b.calls + n, w->b.ncalls * sizeof(*w->b.calls));
    for (uint32_t i = 0; i < w->b.ncalls; i++)
        w->b.calls[i].flags &= ~BLOB_NOT_RUN;
    return 0;
}

/* Make the threads of the batch, as far as it gets. */
static int run_once(struct wave *w)
{
    uint32_t n = 0;

    if (inj_run_threads(&w->b, w->n, w->err) < 0)
        return -w->err->code;
    while (n < w->b.ncalls && !(w->b.calls[n].flags & BLOB_NOT_RUN) && !inj_failed(inj_ret(&w->b, n)))
        n++;
    int64_t ret = n < w->b.ncalls ? inj_ret(&w->b, n) : 0;
    if (drop_made(w, n) < 0)
        return -w->err->code;
    return ret == 0 ? 0 : err_set(w->err, (int)-ret, "process %d: making thread %d: %s", w->p->pid,
                                  w->made[0].thread->tid, strerror((int)-ret));
}

static int run_wave(struct wave *w)
{
    for (int tries = 0; w->n;)
        if (run_once(w) < 0 && (w->err->code != EEXIST || !pid_wait_free(w->made[0].thread->tid, &tries)))
            return -w->err->code;
    inj_reset(&w->b);
    return 0;
}

int threads_create(struct restore *r, struct rproc *p, struct err *err)
{
    struct wave w = {.r = r, .p = p, .err = err};
    int r2 = 0;

    if (p->nthreads < 2)
        return 0;
    w.calls = malloc(INJ_MAX_CALLS * sizeof(*w.calls));
    w.made = calloc(INJ_MAX_CALLS, sizeof(*w.made));
    if (!w.calls || !w.made)
        err_set(err, ENOMEM, "out of memory");
    else if (inj_begin(&w.b, &p->inj, err) == 0) {
        for (size_t i = 1; i < p->nthreads && r2 == 0; i++) {
            r2 = add_one(&w, p->threads[i]);
            if (r2 == 0 && (w.b.ncalls >= INJ_MAX_CALLS - 1 || w.b.used > INJ_DATA_SIZE - DATA_MARGIN))
                r2 = run_wave(&w);
        }
        if (r2 == 0)
            r2 = run_wave(&w);
    }
    inj_end(&w.b);
    free(w.calls);
    free(w.made);
    return w.calls && w.made ? r2 : -err->code;
}
