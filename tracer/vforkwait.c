/* See vforkwait.h. */
#include "tracer/vforkwait.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/util.h"
#include "injector/ptrace.h"
#include "tracer/freeze.h"
#include "tracer/procfs.h"
#include "tracer/tasks.h"
#include "tracer/vfork.h"

/* The flags are the first of struct clone_args (clone(2)). Threads are made by clone3, too. */
static bool clone3_is_vfork(pid_t pid, uint64_t args)
{
    uint64_t flags;
    struct iovec here = {&flags, sizeof(flags)}, there = {(void *)(uintptr_t)args, sizeof(flags)};

    return process_vm_readv(pid, &here, 1, &there, 1, 0) != sizeof(flags) || (flags & CLONE_VFORK);
}

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
    if (nr == SYS_clone3)
        return clone3_is_vfork(tid, a0);
    return nr == SYS_vfork || (nr == SYS_clone && (a0 & CLONE_VFORK));
}

static bool waits(const struct proc *p, const struct thread *t)
{
    return t->seized && !t->stopped && !t->gone && is_in_vfork(p->pid, t->tid);
}

/* The threads of p that wait in vfork(2), in list if it is not NULL. */
static size_t find_waiting(struct proc *p, struct thread **list)
{
    size_t n = 0;

    for (size_t k = 0; k < p->nthreads; k++)
        if (waits(p, &p->threads[k])) {
            if (list)
                list[n] = &p->threads[k];
            n++;
        }
    return n;
}

static bool is_child_in_memory(pid_t pid, const struct proc *q)
{
    struct proc_stat s;
    struct err ignored;

    return q->pid != pid && read_stat(q->pid, &s, &ignored) == 0 && s.ppid == pid && s.state != 'Z' &&
           syscall(SYS_kcmp, pid, q->pid, 1 /* KCMP_VM */, 0, 0) == 0;
}

/* Who can be waited for: children in the same memory whose first thread lives (vfork_release() ends those of others). */
static size_t find_children(struct ckpt *c, pid_t pid, struct proc **list)
{
    size_t n = 0;

    for (size_t i = 0; i < c->nprocs; i++) {
        struct thread *first = tasks_find_thread(c->procs[i], c->procs[i]->pid);
        if (first && first->seized && !first->gone && is_child_in_memory(pid, c->procs[i]))
            list[n++] = c->procs[i];
    }
    return n;
}

/* Let the children of a parent that waits in vfork run, so that it can be stopped. Does none of them wait itself? */
static bool free_vfork_children(struct ckpt *c, pid_t pid)
{
    bool innermost = true;

    for (size_t i = 0; i < c->nprocs; i++) {
        struct proc *p = c->procs[i];
        if (!is_child_in_memory(pid, p))
            continue;
        innermost = innermost && !find_waiting(p, NULL);
        for (size_t k = 0; k < p->nthreads; k++)
            if (p->threads[k].stopped) {
                p->threads[k].stopped = false;
                ptrace(PTRACE_CONT, p->threads[k].tid, NULL, 0);
            }
    }
    return innermost;
}

pid_t vfork_help(struct ckpt *c)
{
    pid_t waiting = 0;

    for (size_t i = 0; i < c->nprocs; i++) {
        struct proc *p = c->procs[i];
        if (find_waiting(p, NULL) && (free_vfork_children(c, p->pid) || !waiting))
            waiting = p->pid;
    }
    return waiting;
}

/* The child was let run: stop it, and nothing else. *stopped is false when it waits itself by now. */
static int stop_child(struct ckpt *c, struct follow *f, struct proc *q, bool *stopped, struct err *err)
{
    for (size_t k = 0; k < q->nthreads;) {
        struct thread *t = &q->threads[k];
        int status = 0;
        pid_t r = t->stopped || t->gone || !t->seized ? 0 : waitpid(t->tid, &status, __WALL | WNOHANG);

        if (t->stopped || t->gone || !t->seized) {
            k++;
        } else if (r == t->tid) {
            if (freeze_on_stop(c, f, q, t, status, err) < 0)
                return -err->code;
        } else if (r < 0) {
            t->gone = true;
        } else if (waits(q, t)) {
            *stopped = false;
            return 0;
        } else {
            ptrace(PTRACE_INTERRUPT, t->tid, NULL, NULL);
            poll(NULL, 0, 1);
        }
    }
    return 0;
}

static int release(struct proc *q, struct thread *const *waiting, size_t n, struct err *err)
{
    struct thread heir, *more;
    int r = vfork_release(waiting, n, tasks_find_thread(q, q->pid), &heir, err);

    if (heir.tid) {
        more = tasks_add_thread(q, heir.tid);
        if (!more)
            return err_set(err, ENOMEM, "out of memory");
        *more = heir;
    }
    return r;
}

/* All children that p waits for stand still; each has one parent among the threads that wait. */
static int release_all(struct ckpt *c, struct proc *p, struct proc **children, struct thread **waiting, struct err *err)
{
    size_t m = find_children(c, p->pid, children);

    for (size_t i = 0; i < m; i++) {
        size_t n = find_waiting(p, waiting);
        if (n && n != m - i)
            return err_set(err, EBUSY, "process %d: %zu of its threads wait in vfork(2), and %zu processes share its memory "
                           "and neither exec nor exit", p->pid, n, m - i);
        if (n && release(children[i], waiting, n, err) < 0)
            return err_wrap(err, "process %d: waits in vfork(2) for process %d", p->pid, children[i]->pid);
    }
    return 0;
}

int vfork_end(struct ckpt *c, struct follow *f, pid_t pid, struct err *err)
{
    struct proc *p = tasks_find_proc(c, pid);
    _cleanup_free_ struct proc **children = malloc((c->nprocs + 1) * sizeof(*children));
    _cleanup_free_ struct thread **waiting = p ? malloc((p->nthreads + 1) * sizeof(*waiting)) : NULL;
    bool stopped = true;
    size_t m;

    if (!children || !waiting)
        return err_set(err, ENOMEM, "out of memory");
    m = find_children(c, pid, children);
    if (!m && find_waiting(p, NULL))
        return err_set(err, EBUSY, "process %d: waits in vfork(2) for a child that neither execs nor exits", pid);
    for (size_t i = 0; i < m && stopped; i++)
        if (stop_child(c, f, children[i], &stopped, err) < 0)
            return -err->code;
    return stopped ? release_all(c, p, children, waiting, err) : 0;
}
