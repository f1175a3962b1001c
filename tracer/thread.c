/* A thread as ptrace and the scheduler show it from outside. */
#include <errno.h>
#include <linux/ioprio.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/log.h"
#include "base/util.h"
#include "injector/ptrace.h"
#include "tracer/calls.h"
#include "tracer/collect.h"
#include "tracer/procfs.h"
#include "tracer/shortcall.h"

#define PEEK_AT_ONCE 32

int peek_signals(struct ckpt *c, pid_t tid, uint32_t flags, SigInfo ***out, size_t *n, struct err *err)
{
    siginfo_t infos[PEEK_AT_ONCE];
    struct __ptrace_peeksiginfo_args a = {.flags = flags, .nr = PEEK_AT_ONCE};

    for (;;) {
        long got = ptrace(PTRACE_PEEKSIGINFO, tid, &a, infos);
        if (got < 0)
            return err_errno(err, "thread %d: reading its pending signals", tid);
        for (long i = 0; i < got; i++) {
            SigInfo *s = arena_alloc(c->arena, sizeof(*s));
            sig_info__init(s);
            s->info = arena_bytes(c->arena, &infos[i], sizeof(infos[i]));
            arena_push(c->arena, (void ***)out, n, s);
        }
        if (got < PEEK_AT_ONCE)
            return 0;
        a.off += (uint64_t)got;
    }
}

static int collect_regs(struct ckpt *c, struct thread *t, struct err *err)
{
    void *xstate;
    size_t len;

    if (pt_get_xstate(t->tid, &xstate, &len, err) < 0)
        return -err->code;
    t->msg->xstate = arena_bytes(c->arena, xstate, len);
    free(xstate);
    t->msg->sigmask = t->sigmask;
    return 0;
}

static int collect_sched(struct ckpt *c, struct thread *t, struct err *err)
{
    struct {
        uint32_t size, policy;
        uint64_t flags;
        int32_t nice;
        uint32_t priority;
        uint64_t runtime, deadline, period;
        uint32_t util_min, util_max;
    } a = {.size = sizeof(a)};
    uint8_t mask[1024];
    long n;

    if (syscall(SYS_sched_getattr, t->tid, &a, sizeof(a), 0) < 0)
        return err_errno(err, "thread %d: sched_getattr", t->tid);
    t->msg->policy = a.policy;
    t->msg->sched_flags = a.flags;
    errno = 0;
    n = getpriority(PRIO_PROCESS, (id_t)t->tid); /* sched_getattr does not tell it of real-time threads */
    t->msg->nice = errno ? a.nice : (int32_t)n;
    t->msg->rt_priority = a.priority;
    t->msg->dl_runtime = a.runtime;
    t->msg->dl_deadline = a.deadline;
    t->msg->dl_period = a.period;
    n = syscall(SYS_sched_getaffinity, t->tid, sizeof(mask), mask);
    if (n > 0)
        t->msg->affinity = arena_bytes(c->arena, mask, (size_t)n);
    n = syscall(SYS_ioprio_get, IOPRIO_WHO_PROCESS, t->tid);
    t->msg->ioprio = n > 0 ? (uint32_t)n : 0;
    return 0;
}

/* The kernel's own record of the registration (kernel/ptrace.c, since 5.13). */
static int collect_robust(struct thread *t, struct err *err)
{
    void *head = NULL;
    size_t len = 0;

    if (syscall(SYS_get_robust_list, t->tid, &head, &len) < 0)
        return err_errno(err, "thread %d: get_robust_list", t->tid);
    t->msg->robust_list = (uint64_t)head;
    t->msg->robust_list_len = len;
    return 0;
}

/*
 * rseq: before anything is injected, the critical section that a thread is in is aborted as the kernel would
 * when it preempts it, and the pointer to it is cleared: it belongs to the program, and with it a thread would be
 * sent where the program says. It is put back last (leave_process).
 */
struct rseq_cs_fields {
    uint32_t version, flags;
    uint64_t start_ip, post_commit_offset, abort_ip;
};

static int settle_rseq(struct proc *p, struct thread *t, struct err *err)
{
    struct __ptrace_rseq_configuration conf = {0};
    struct rseq_cs_fields cs;
    const uint64_t zero = 0;
    uint64_t at;

    if (ptrace(PTRACE_GET_RSEQ_CONFIGURATION, t->tid, sizeof(conf), &conf) < 0 || !conf.rseq_abi_pointer)
        return 0;
    t->msg->rseq = conf.rseq_abi_pointer;
    t->msg->rseq_len = conf.rseq_abi_size;
    t->msg->rseq_sig = conf.signature;
    at = conf.rseq_abi_pointer + 8; /* offsetof(struct rseq, rseq_cs) */
    if (pt_read(t->tid, at, &t->msg->rseq_cs, sizeof(uint64_t), err) < 0)
        return err_wrap(err, "thread %d: its rseq area", t->tid);
    if (!t->msg->rseq_cs)
        return 0;
    struct err ignored;
    if (pt_read(t->tid, t->msg->rseq_cs, &cs, sizeof(cs), &ignored) == 0 &&
        t->regs.rip - cs.start_ip < cs.post_commit_offset) {
        t->regs.rip = cs.abort_ip;
        t->msg->rseq_cs = 0; /* the kernel clears it with the abort */
    }
    return pt_write(t->tid, at, &zero, sizeof(zero), err);
}

/*
 * Syscall user dispatch (Wine has it): the calls that the parasite makes would become SIGSYS. It could be turned off from
 * outside (since Linux 6.4), but nothing would turn it on again if the tracer is killed: the program's own calls would
 * then reach the kernel.
 */
#define GET_DISPATCH 0x4211 /* PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG */

static int refuse_dispatch(struct proc *p, struct thread *t, struct err *err)
{
    struct {
        uint64_t mode, selector, offset, len;
    } conf = {0};

    if (ptrace(GET_DISPATCH, t->tid, sizeof(conf), &conf) < 0 || !conf.mode)
        return 0;
    return err_set(err, EOPNOTSUPP,
                   "process %d: thread %d has system calls handed to itself (PR_SET_SYSCALL_USER_DISPATCH), which cannot be saved",
                   p->pid, t->tid);
}

static int settle_seccomp(struct proc *p, struct thread *t, const struct proc_status *st, struct err *err)
{
    if (!st->seccomp)
        return 0;
    if (ptrace(PTRACE_SETOPTIONS, t->tid, 0, PTRACE_O_SUSPEND_SECCOMP | PTRACE_O_TRACESYSGOOD) < 0)
        return err_errno(err, "process %d: it has a seccomp filter, which only root (CAP_SYS_ADMIN) may lift for a checkpoint",
                         p->pid);
    return 0;
}

static int collect_filters(struct ckpt *c, struct thread *t, uint32_t n, struct err *err)
{
    for (uint32_t i = 0; i < n; i++) {
        struct {
            uint64_t filter_off, flags;
        } meta = {.filter_off = i};
        struct { uint16_t code; uint8_t jt, jf; uint32_t k; } prog[4096];
        long len = ptrace(PTRACE_SECCOMP_GET_FILTER, t->tid, (void *)(uintptr_t)i, prog);
        if (len < 0 || len > 4096)
            return err_errno(err, "thread %d: reading its seccomp filter", t->tid);
        SeccompFilter *f = arena_alloc(c->arena, sizeof(*f));
        seccomp_filter__init(f);
        f->program = arena_bytes(c->arena, prog, (size_t)len * sizeof(prog[0]));
        if (ptrace(PTRACE_SECCOMP_GET_METADATA, t->tid, sizeof(meta), &meta) >= 0)
            f->flags = (uint32_t)meta.flags;
        arena_push(c->arena, (void ***)&t->msg->seccomp, &t->msg->n_seccomp, f);
    }
    return 0;
}

#define PF_IO_WORKER 0x10 /* include/linux/sched.h */

/*
 * The kernel's own threads of an io_uring count as threads of the process. They have no user mode, so no registers,
 * and are let go at once: they end the operations that are under way.
 */
static bool is_io_worker(const struct proc *p, const struct thread *t)
{
    struct proc_stat s;
    struct err ignored;

    return t->regs.rip == 0 && read_task_stat(p->pid, t->tid, &s, &ignored) == 0 && (s.flags & PF_IO_WORKER);
}

static void drop_io_workers(struct proc *p)
{
    size_t n = 0;

    for (size_t i = 0; i < p->nthreads; i++)
        if (is_io_worker(p, &p->threads[i]))
            ptrace(PTRACE_DETACH, p->threads[i].tid, NULL, NULL);
        else
            p->threads[n++] = p->threads[i];
    p->nthreads = n;
}

int prepare_threads(struct ckpt *c, struct proc *p, struct err *err)
{
    drop_io_workers(p);
    for (size_t i = 0; i < p->nthreads; i++) {
        struct thread *t = &p->threads[i];
        struct proc_status st;
        const struct user_regs_struct before = t->regs;

        t->msg = arena_alloc(c->arena, sizeof(*t->msg));
        thread__init(t->msg);
        t->msg->tid = t->tid;
        if (refuse_dispatch(p, t, err) < 0 || peek_signals(c, t->tid, 0, &t->msg->pending, &t->msg->n_pending, err) < 0)
            return -err->code;
        if (read_status(p->pid, t->tid, &st, err) < 0)
            return -err->code;
        proc_status_free(&st);
        t->msg->seccomp_mode = st.seccomp;
        settle_call(c->deadlines, t->tid, t);
        finish_short_call(p->threads, p->nthreads, t);
        if (settle_rseq(p, t, err) < 0)
            return -err->code;
        /* At once: if the tracer is killed the program goes on with what is there. */
        if (memcmp(&before, &t->regs, sizeof(before)) != 0 && pt_set_regs(t->tid, &t->regs, err) < 0)
            return -err->code;
        if (settle_seccomp(p, t, &st, err) < 0 || collect_filters(c, t, st.seccomp == 2 ? st.seccomp_filters : 0, err) < 0)
            return -err->code;
    }
    return 0;
}

int collect_threads(struct ckpt *c, struct proc *p, struct err *err)
{
    for (size_t i = 0; i < p->nthreads; i++) {
        struct thread *t = &p->threads[i];
        _cleanup_free_ char *comm = NULL;
        size_t len;

        if (collect_regs(c, t, err) < 0 || collect_sched(c, t, err) < 0 || collect_robust(t, err) < 0)
            return err_wrap(err, "process %d", p->pid);
        t->msg->regs = arena_bytes(c->arena, &t->regs, sizeof(t->regs));
        if (read_proc(&comm, &len, err, "%d/task/%d/comm", p->pid, t->tid) < 0)
            return -err->code;
        t->msg->comm = arena_bytes(c->arena, comm, len && comm[len - 1] == '\n' ? len - 1 : len);
    }
    Signals *s = arena_alloc(c->arena, sizeof(*s));
    signals__init(s);
    p->signals = s;
    return peek_signals(c, p->threads[0].tid, PTRACE_PEEKSIGINFO_SHARED, &s->pending, &s->n_pending, err);
}
