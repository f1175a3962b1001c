/*
 * Stopped processes. They are stopped again by SIGSTOP while the parasites of their parents are still there: so the report
 * of it to a parent that has had one before the checkpoint can be taken out of its way, and the SIGCHLD with it,
 * before the parent runs. The other way round, a process that was continued is stopped and continued early on if its
 * parent has not had the report of that; and a SIGSTOP that was on its way comes last.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "base/util.h"
#include "injector/ptrace.h"
#include "restorer/core.h"

static bool is_stopped(const struct rproc *p)
{
    return p->alive && p->process->state == 2;
}

/* One thread takes the signal; then all stop for it, each in its turn. */
static int stop(const struct rproc *p, struct err *err)
{
    const pid_t tid = p->threads[0]->tid;
    int status;

    if (syscall(SYS_pidfd_send_signal, p->inj.pidfd, SIGSTOP, NULL, 0) < 0)
        return err_errno(err, "SIGSTOP");
    do
        if (pt_cont(tid, 0, err) < 0 || pt_wait(tid, &status, err) < 0)
            return -err->code;
    while (status >> 16 || WSTOPSIG(status) != SIGSTOP);
    for (size_t i = 0; i < p->nthreads; i++)
        if (pt_cont(p->threads[i]->tid, i ? 0 : SIGSTOP, err) < 0)
            return -err->code;
    for (size_t i = 0; i < p->nthreads; i++) {
        while (pt_wait(p->threads[i]->tid, &status, err) == 0 && status >> 16 != PTRACE_EVENT_STOP)
            if (pt_cont(p->threads[i]->tid, 0, err) < 0)
                return -err->code;
        if (!WIFSTOPPED(status))
            return -err->code;
    }
    return 0;
}

static bool waits(SigInfo *const *pending, size_t n, int sig)
{
    for (size_t i = 0; i < n; i++) {
        int32_t signo;
        memcpy(&signo, pending[i]->info.data, sizeof(signo));
        if (signo == sig)
            return true;
    }
    return false;
}

/* A SIGCHLD that waited at the checkpoint waits again by now, and a further one is the same one. */
static bool sigchld_waits(const struct rproc *p)
{
    return p->signals && waits(p->signals->pending, p->signals->n_pending, SIGCHLD);
}

static int tell_parent(const struct rproc *p, struct err *err)
{
    _cleanup_batch_ struct inj_batch b = {0};

    if (inj_begin(&b, &p->parent->inj, err) < 0)
        return -err->code;
    if (p->process->stop_told)
        inj_call(&b, 0, SYS_waitid, P_PID, p->pid, 0, WSTOPPED | WNOHANG | __WALL, 0);
    if (!sigchld_waits(p->parent))
        signals_add_drain(&b);
    return run_batch(&b, "the report of a stopped child", err);
}

/* Once it is stopped itself, a parent cannot be asked any more. */
static bool has_running_stopped_child(const struct restore *r, const struct rproc *p, const bool *done)
{
    for (size_t i = 0; i < r->nprocs; i++)
        if (r->procs[i].parent == p && is_stopped(&r->procs[i]) && !done[i])
            return true;
    return false;
}

int stop_processes(struct restore *r, struct err *err)
{
    _cleanup_free_ bool *done = calloc(r->nprocs + 1, sizeof(*done));

    if (!done)
        return err_set(err, ENOMEM, "out of memory");
    for (bool again = true; again;) {
        again = false;
        for (size_t i = 0; i < r->nprocs; i++) {
            struct rproc *p = &r->procs[i];
            if (!is_stopped(p) || done[i] || has_running_stopped_child(r, p, done))
                continue;
            if (threads_seize(r, p, err) < 0 || stop(p, err) < 0 ||
                (p->parent && p->parent->alive && tell_parent(p, err) < 0))
                return err_wrap(err, "process %d: stopping it", p->pid);
            done[i] = again = true;
        }
    }
    return 0;
}

/* In a skeleton: the report stays until it is waited for, whatever else is done to the process. */
static int stop_and_continue(struct rproc *p, struct err *err)
{
    _cleanup_batch_ struct inj_batch b = {0};
    const uint64_t set = 1ull << (SIGCONT - 1);
    const struct timespec none = {0};
    int64_t ret;

    if (syscall(SYS_pidfd_send_signal, p->inj.pidfd, SIGSTOP, NULL, 0) < 0)
        return err_errno(err, "SIGSTOP");
    if (inj_syscall(&p->parent->inj, &ret, err, SYS_waitid,
                    (uint64_t[6]){P_PID, (uint64_t)p->pid, 0, WSTOPPED | WNOWAIT | __WALL}) < 0)
        return -err->code;
    if (syscall(SYS_pidfd_send_signal, p->inj.pidfd, SIGCONT, NULL, 0) < 0)
        return err_errno(err, "SIGCONT");
    if (inj_begin(&b, &p->inj, err) < 0)
        return -err->code;
    inj_call(&b, 0, SYS_rt_sigtimedwait, inj_data(&b, &set, sizeof(set)), 0, inj_data(&b, &none, sizeof(none)), 8);
    return run_batch(&b, "SIGCONT", err);
}

int continue_processes(struct restore *r, struct err *err)
{
    for (size_t i = 0; i < r->nprocs; i++) {
        struct rproc *p = &r->procs[i];
        if (p->alive && p->process->continue_untold && p->parent && p->parent->alive && stop_and_continue(p, err) < 0)
            return err_wrap(err, "process %d: continuing it", p->pid);
    }
    return 0;
}

static bool stop_waits(const struct rproc *p)
{
    if (p->signals && waits(p->signals->pending, p->signals->n_pending, SIGSTOP))
        return true;
    for (size_t i = 0; i < p->nthreads; i++)
        if (waits(p->threads[i]->pending, p->threads[i]->n_pending, SIGSTOP))
            return true;
    return false;
}

void send_stops(const struct restore *r)
{
    for (size_t i = 0; i < r->nprocs; i++)
        if (r->procs[i].alive && stop_waits(&r->procs[i]))
            syscall(SYS_pidfd_send_signal, r->procs[i].inj.pidfd, SIGSTOP, NULL, 0);
}
