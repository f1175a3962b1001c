/*
 * Stopped processes. They are stopped again by SIGSTOP while the parasites of their parents are still there: so the report
 * of it to a parent that has had one before the checkpoint can be taken out of its way, and the SIGCHLD with it,
 * before the parent runs.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>

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

/* A SIGCHLD that waited at the checkpoint waits again by now, and a further one is the same one. */
static bool sigchld_waits(const struct rproc *p)
{
    for (size_t i = 0; p->signals && i < p->signals->n_pending; i++) {
        int32_t signo;
        memcpy(&signo, p->signals->pending[i]->info.data, sizeof(signo));
        if (signo == SIGCHLD)
            return true;
    }
    return false;
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
