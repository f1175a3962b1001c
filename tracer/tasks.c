/* See tasks.h. */
#include "tracer/tasks.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/util.h"
#include "injector/ptrace.h"
#include "tracer/procfs.h"

struct proc *tasks_find_proc(const struct ckpt *c, pid_t pid)
{
    for (size_t i = 0; i < c->nprocs; i++)
        if (c->procs[i]->pid == pid)
            return c->procs[i];
    return NULL;
}

struct proc *tasks_add_proc(struct ckpt *c, pid_t pid)
{
    struct proc *p = tasks_find_proc(c, pid);

    if (p)
        return p;
    struct proc **more = grow(c->procs, c->nprocs, &c->cap_procs, sizeof(*c->procs));
    p = arena_alloc(c->arena, sizeof(*p));
    if (!more || !p)
        return NULL;
    c->procs = more;
    p->pid = pid;
    p->pidfd = -1;
    p->inj.ctl = p->inj.pidfd = -1;
    p->mm_proc = p->files_proc = p;
    return c->procs[c->nprocs++] = p;
}

struct thread *tasks_find_thread(struct proc *p, pid_t tid)
{
    for (size_t i = 0; i < p->nthreads; i++)
        if (p->threads[i].tid == tid)
            return &p->threads[i];
    return NULL;
}

struct thread *tasks_add_thread(struct proc *p, pid_t tid)
{
    struct thread *t = grow(p->threads, p->nthreads, &p->cap_threads, sizeof(*t));

    if (!t)
        return NULL;
    p->threads = t;
    t[p->nthreads] = (struct thread){.tid = tid};
    return &t[p->nthreads++];
}

void tasks_drop_gone(struct ckpt *c)
{
    size_t kept = 0;

    for (size_t i = 0; i < c->nprocs; i++) {
        struct proc *p = c->procs[i];
        size_t n = 0;
        for (size_t k = 0; k < p->nthreads; k++) {
            if (!p->threads[k].gone)
                p->threads[n++] = p->threads[k];
            else if (p->threads[k].tid == p->pid)
                p->leader_dead = true;
        }
        p->nthreads = n;
        if (n)
            c->procs[kept++] = p;
        else
            free(p->threads);
    }
    c->nprocs = kept;
}

static int by_pid(const void *a, const void *b)
{
    pid_t x = (*(struct proc *const *)a)->pid, y = (*(struct proc *const *)b)->pid;

    return x < y ? -1 : x > y;
}

static int by_tid(const void *a, const void *b)
{
    pid_t x = ((const struct thread *)a)->tid, y = ((const struct thread *)b)->tid;

    return x < y ? -1 : x > y;
}

void tasks_sort(struct ckpt *c)
{
    if (c->nprocs)
        qsort(c->procs, c->nprocs, sizeof(*c->procs), by_pid);
}

#define DEATH_MS   10000

/*
 * The record of a process's end is written a little before it is a zombie (do_exit() in kernel/exit.c): who has no
 * thread left is given the time to become one, or it would be neither frozen nor a zombie.
 */
static void await_deaths(const struct ckpt *c, const struct follow *f)
{
    size_t n;
    const struct member *m = follow_members(f, &n);

    for (size_t i = 0; i < n; i++) {
        struct proc_stat s;
        struct err ignored;
        if (tasks_find_proc(c, m[i].pid) || read_stat(m[i].pid, &s, &ignored) < 0 ||
            (s.state != 'Z' && !(s.flags & PF_EXITING)) || has_other_threads(m[i].pid))
            continue;
        _cleanup_close_ int fd = (int)syscall(SYS_pidfd_open, m[i].pid, 0);
        if (fd >= 0)
            poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, DEATH_MS);
    }
}

int tasks_add_zombies(struct ckpt *c, struct follow *f, struct err *err)
{
    size_t n, alive = c->nprocs;
    const struct member *m = follow_members(f, &n);

    await_deaths(c, f);
    for (size_t i = 0; i < n; i++) {
        struct proc_stat s;
        struct err ignored;
        if (tasks_find_proc(c, m[i].pid) || read_stat(m[i].pid, &s, &ignored) < 0 || s.starttime != m[i].start)
            continue;
        if (!is_dead(m[i].pid, m[i].start))
            return err_set(err, EAGAIN, "process %d: was not seen in time; try again", m[i].pid);
        bool ours = false;
        for (size_t k = 0; k < alive && !ours; k++)
            ours = c->procs[k]->pid == s.ppid;
        if (!ours)
            continue;
        struct proc *p = tasks_add_proc(c, m[i].pid);
        if (!p)
            return err_set(err, ENOMEM, "out of memory");
        p->zombie = true;
    }
    return 0;
}

int tasks_read_registers(struct ckpt *c, struct err *err)
{
    for (size_t i = 0; i < c->nprocs; i++) {
        struct proc *p = c->procs[i];
        if (p->nthreads)
            qsort(p->threads, p->nthreads, sizeof(*p->threads), by_tid);
        for (size_t k = 0; k < p->nthreads; k++) { /* the leader first */
            if (p->threads[k].tid == p->pid && k) {
                struct thread t = p->threads[k];
                memmove(&p->threads[1], &p->threads[0], k * sizeof(t));
                p->threads[0] = t;
            }
        }
        for (size_t k = 0; k < p->nthreads; k++) {
            struct thread *t = &p->threads[k];
            if (pt_get_regs(t->tid, &t->regs, err) < 0 || pt_get_sigmask(t->tid, &t->sigmask, err) < 0)
                return err_wrap(err, "process %d", p->pid);
        }
    }
    return 0;
}
