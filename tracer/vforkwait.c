/* See vforkwait.h. */
#include "tracer/vforkwait.h"

#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/util.h"
#include "injector/ptrace.h"
#include "tracer/freeze.h"
#include "tracer/procfs.h"
#include "tracer/tasks.h"
#include "tracer/vfork.h"

/* /proc/PID/task/TID/syscall tells while it sleeps. */
bool is_in_vfork(pid_t pid, pid_t tid)
{
    _cleanup_free_ char *text = NULL;
    struct err ignored;
    uint64_t a0, a1;
    long nr;

    if (read_proc(&text, NULL, &ignored, "%d/task/%d/syscall", pid, tid) < 0 ||
        sscanf(text, "%ld %" SCNx64 " %" SCNx64, &nr, &a0, &a1) != 3)
        return false;
    if (nr == SYS_vfork || nr == SYS_clone3)
        return true;
    return nr == SYS_clone && (a0 & CLONE_VFORK);
}

/* Let the children of a parent that waits in vfork run, so that it can be stopped. */
static void free_vfork_children(struct ckpt *c, pid_t pid)
{
    for (size_t i = 0; i < c->nprocs; i++) {
        struct proc *p = c->procs[i];
        struct proc_stat s;
        struct err ignored;
        if (read_stat(p->pid, &s, &ignored) < 0 || s.ppid != pid)
            continue;
        for (size_t k = 0; k < p->nthreads; k++)
            if (p->threads[k].stopped &&
                syscall(SYS_kcmp, pid, p->pid, 1 /* KCMP_VM */, 0, 0) == 0) {
                p->threads[k].stopped = false;
                ptrace(PTRACE_CONT, p->threads[k].tid, NULL, 0);
            }
    }
}

/* Who waits in vfork(2) gets its child's help. Returns that process's pid, 0: nobody. */
pid_t vfork_help(struct ckpt *c)
{
    pid_t waiting = 0;

    for (size_t i = 0; i < c->nprocs; i++) {
        struct proc *p = c->procs[i];
        for (size_t k = 0; k < p->nthreads; k++) {
            struct thread *t = &p->threads[k];
            if (t->seized && !t->stopped && !t->gone && is_in_vfork(p->pid, t->tid)) {
                waiting = p->pid;
                free_vfork_children(c, p->pid);
            }
        }
    }
    return waiting;
}

/* The thread of p that waits in vfork(2), if it is one, and the process that it waits for. */
static struct thread *only_vfork(struct ckpt *c, struct proc *p, struct proc **child)
{
    struct thread *found = NULL;

    *child = NULL;
    for (size_t k = 0; k < p->nthreads; k++) {
        struct thread *t = &p->threads[k];
        if (!t->seized || t->stopped || t->gone || !is_in_vfork(p->pid, t->tid))
            continue;
        if (found)
            return NULL;
        found = t;
    }
    for (size_t i = 0; found && i < c->nprocs; i++) {
        struct proc *q = c->procs[i];
        struct proc_stat s;
        struct err ignored;
        if (q == p || read_stat(q->pid, &s, &ignored) < 0 || s.ppid != p->pid || s.state == 'Z' ||
            syscall(SYS_kcmp, p->pid, q->pid, 1 /* KCMP_VM */, 0, 0) != 0)
            continue;
        if (*child || q->nthreads != 1)
            return NULL;
        *child = q;
    }
    return *child ? found : NULL;
}

/* The child was let run: stop it, and nothing else. */
static int stop_child(struct ckpt *c, struct follow *f, struct proc *q, struct err *err)
{
    while (!q->threads[0].stopped && !q->threads[0].gone && q->nthreads == 1) {
        int status = 0; /* it has ended, if it cannot be waited for */
        ptrace(PTRACE_INTERRUPT, q->threads[0].tid, NULL, NULL);
        if (pt_wait(q->threads[0].tid, &status, err) < 0 && WIFSTOPPED(status))
            return -err->code;
        if (freeze_on_stop(c, f, q, &q->threads[0], status, err) < 0)
            return -err->code;
    }
    return 0;
}

/* Those whose children take too long. One at a time; 0 also when it has resolved itself meanwhile. */
int vfork_end(struct ckpt *c, struct follow *f, pid_t waiting, struct err *err)
{
    struct proc *p = tasks_find_proc(c, waiting), *q;
    struct thread *t = p ? only_vfork(c, p, &q) : NULL, heir, *more;

    if (!t)
        return err_set(err, EBUSY, "process %d: waits in vfork(2) for a child that neither execs nor exits", waiting);
    if (stop_child(c, f, q, err) < 0)
        return -err->code;
    if (q->nthreads != 1 || !q->threads[0].stopped || !is_in_vfork(p->pid, t->tid))
        return 0;
    if (vfork_release(t, &q->threads[0], &heir, err) < 0)
        return err_wrap(err, "process %d: waits in vfork(2) for process %d", p->pid, q->pid);
    more = tasks_add_thread(q, heir.tid);
    if (!more)
        return err_set(err, ENOMEM, "out of memory");
    *more = heir;
    return 0;
}
