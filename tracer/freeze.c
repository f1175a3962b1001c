/*
 * Freezing: seize and interrupt every thread, again and again until a pass finds nothing new. While it goes on,
 * new children and threads are attached by the kernel itself (PTRACE_O_TRACEFORK and its kin), so nobody
 * slips through between two looks.
 *
 * Facts (kernel/signal.c, ptrace_stop): any ptrace trap clears a pending PTRACE_INTERRUPT, so it is repeated
 * after every stop that is not the one asked for. A parent in vfork(2) cannot be stopped before its child
 * execs or exits (kernel/fork.c, wait_for_vfork_done), so such a child is let run until then; when that takes long the
 * parent is made to wait in another way (vfork.h).
 */
#include "tracer/freeze.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "base/log.h"
#include "base/util.h"
#include "injector/ptrace.h"
#include "tracer/calls.h"
#include "tracer/keepback.h"
#include "tracer/procfs.h"
#include "tracer/seize.h"
#include "tracer/tasks.h"
#include "tracer/vforkwait.h"

#define VFORK_PATIENCE_NS 2000000000ll /* how long a vfork child may take to exec or exit */

/* Go on until the stop that was asked for. */
static void again(struct thread *t, int sig)
{
    ptrace(PTRACE_INTERRUPT, t->tid, NULL, NULL);
    ptrace(PTRACE_CONT, t->tid, NULL, (long)sig);
}

static int seize(struct ckpt *c, const struct seizing *s, struct proc *p, struct thread *t, struct err *err)
{
    if (seize_thread(s, p, t, FREEZE_OPTIONS, err) < 0)
        return -err->code;
    if (t->gone)
        return 0;
    if (c->options.keepback && keepback_find(c->options.keepback, t)) {
        p->kept_back = true;
        again(t, 0); /* it has been told of its stop already */
        return 0;
    }
    note_blocked_call(&c->clocks, p->pid, t);
    ptrace(PTRACE_INTERRUPT, t->tid, NULL, NULL); /* ESRCH: it has ended, and whoever executes a program waits until we know */
    return 0;
}

/* A first thread that is gone, and yet there: another one has executed a program and has its id now. */
static bool is_heir(const struct proc *p, const struct thread *t)
{
    return t->gone && t->tid == p->pid && task_exists(p->pid, t->tid);
}

/*
 * The same happens to a first thread that has stopped, and nobody tells. The new one is ours if it was seized under its
 * old id; then it has still to stop. It may be one that we never knew. Returns how many there are.
 */
static size_t find_heirs(struct ckpt *c)
{
    size_t found = 0;

    for (size_t i = 0; i < c->nprocs; i++) {
        struct thread *t = tasks_find_thread(c->procs[i], c->procs[i]->pid);
        siginfo_t info;
        if (!t || c->procs[i]->kept_back)
            continue;
        if (t->stopped && !t->gone &&
            (ptrace(PTRACE_GETSIGINFO, t->tid, NULL, &info) < 0 || info.si_code >> 8 != PTRACE_EVENT_STOP)) {
            t->stopped = false;
            t->gone = !seized_by_us(t->tid, t->tid);
            found += !t->gone;
        }
        found += is_heir(c->procs[i], t);
    }
    return found;
}

/*
 * Who executes a program ends all other threads, and those that the timer waited for while others were being seized are
 * gone, stopped as they were. The program executed may have new ones.
 */
static void strike_off(struct proc *p)
{
    struct proc_stat s;
    struct err ignored;

    for (size_t k = 0; k < p->nthreads; k++)
        if (p->threads[k].tid != p->pid && read_task_stat(p->pid, p->threads[k].tid, &s, &ignored) < 0)
            p->threads[k].gone = true;
}

/* Seize the threads of a process that are not known yet; *found counts them. */
static int seize_each(struct ckpt *c, const struct seizing *s, struct proc *p, const int *tids, size_t n, size_t *found,
                      struct err *err)
{
    size_t known = p->nthreads;

    for (size_t i = 0; i < n; i++) {
        /* its own id may be listed twice while another thread takes it over */
        struct thread *t = known || tids[i] == p->pid ? tasks_find_thread(p, tids[i]) : NULL;
        if (t && !is_heir(p, t))
            continue;
        if (t)
            strike_off(p);
        else
            t = tasks_add_thread(p, tids[i]);
        if (!t)
            return err_set(err, ENOMEM, "out of memory");
        *t = (struct thread){.tid = tids[i]};
        if (seize(c, s, p, t, err) < 0)
            return -err->code;
        (*found)++;
    }
    return 0;
}

static int seize_new(struct ckpt *c, struct proc *p, size_t *found, struct err *err)
{
    _cleanup_free_ int *tids = NULL;
    struct seizing s = {.ready = false};
    struct stat st;
    char dir[40];
    size_t n;
    struct err gone;
    int r;

    snprintf(dir, sizeof(dir), "/proc/%d/task", p->pid);
    if (list_numbers(dir, &tids, &n, &gone) < 0)
        return 0; /* it has ended */
    /* The kernel ends its list at a thread that ends under its eyes; the links of the directory are all threads, and two. */
    if (stat(dir, &st) < 0 || st.st_nlink != n + 2)
        (*found)++;
    if (n > 1 && seizing_begin(&s, p->pid, err) < 0)
        return -err->code;
    r = seize_each(c, &s, p, tids, n, found, err);
    if (seizing_end(&s))
        strike_off(p);
    return r;
}

static pid_t tgid_of(pid_t tid)
{
    struct proc_status st;
    struct err ignored;
    pid_t tgid;

    if (read_status(tid, tid, &st, &ignored) < 0)
        return 0;
    tgid = st.tgid;
    proc_status_free(&st);
    return tgid;
}

/* A fork, vfork or clone happened under our eyes: the new thread is attached and about to stop. */
static int take_newborn(struct ckpt *c, struct follow *f, struct proc *p, pid_t tid, struct err *err)
{
    unsigned long msg = 0;
    struct proc *q;
    struct thread *t;
    pid_t tgid;

    if (ptrace(PTRACE_GETEVENTMSG, tid, NULL, &msg) < 0 || !msg)
        return 0;
    tgid = tgid_of((pid_t)msg);
    if (!tgid)
        return 0;
    q = tgid == p->pid ? p : tasks_add_proc(c, tgid);
    t = q ? tasks_find_thread(q, (pid_t)msg) : NULL;
    if (q && !t)
        t = tasks_add_thread(q, (pid_t)msg);
    if (!t)
        return err_set(err, ENOMEM, "out of memory");
    t->seized = true;
    if (q != p)
        follow_found(f, tgid, 1);
    return 0;
}

int freeze_on_stop(struct ckpt *c, struct follow *f, struct proc *p, struct thread *t, int status, struct err *err)
{
    pid_t tid = t->tid;

    if (!WIFSTOPPED(status)) {
        t->gone = true;
        return 0;
    }
    t->stop_status = status;
    switch (status >> 16) {
    case PTRACE_EVENT_STOP:
        t->stopped = true;
        return 0;
    case PTRACE_EVENT_FORK:
    case PTRACE_EVENT_VFORK:
    case PTRACE_EVENT_CLONE:
        if (take_newborn(c, f, p, tid, err) < 0)
            return -err->code;
        again(tasks_find_thread(p, tid), 0);
        return 0;
    case PTRACE_EVENT_EXEC:
        for (size_t i = 0; i < p->nthreads; i++) /* the others are gone; the leader's tid is who lives */
            p->threads[i].gone = p->threads[i].tid != p->pid;
        again(t, 0);
        return 0;
    case 0:
        again(t, WSTOPSIG(status));
        return 0;
    default:
        again(t, 0);
        return 0;
    }
}

/* Threads of which we have not been told, since those who made them were killed before that. */
static int adopt_newborns(struct proc *p, struct err *err)
{
    _cleanup_free_ int *tids = NULL;
    char dir[40];
    size_t n;
    struct err gone;

    snprintf(dir, sizeof(dir), "/proc/%d/task", p->pid);
    if (list_numbers(dir, &tids, &n, &gone) < 0)
        return 0;
    for (size_t i = 0; i < n; i++) {
        struct thread *t;
        if (tasks_find_thread(p, tids[i]) || !seized_by_us(p->pid, tids[i]))
            continue;
        t = tasks_add_thread(p, tids[i]);
        if (!t)
            return err_set(err, ENOMEM, "out of memory");
        t->seized = true;
    }
    return 0;
}

/* Threads that had stopped and were killed, not the first one. */
static void bury(struct proc *p)
{
    for (size_t k = 0; k < p->nthreads; k++) {
        struct thread *t = &p->threads[k];
        if (t->stopped && !t->gone && t->tid != p->pid && bury_task(t->tid))
            t->gone = true;
    }
}

/*
 * Nothing has happened for a while. After a vfork child was let go it is stopped again as soon as its parent has been;
 * and who executes a program waits until we have waited for all its threads that we trace.
 */
static int catch_up(struct ckpt *c, struct err *err)
{
    for (size_t i = 0; i < c->nprocs; i++) {
        struct proc *p = c->procs[i];
        bool waiting = false;
        for (size_t k = 0; k < p->nthreads; k++) {
            struct thread *t = &p->threads[k];
            if (!t->seized || t->stopped || t->gone)
                continue;
            waiting = true;
            ptrace(PTRACE_INTERRUPT, t->tid, NULL, NULL);
        }
        if (!waiting)
            continue;
        bury(p);
        if (adopt_newborns(p, err) < 0)
            return -err->code;
    }
    return 0;
}

/* One look at every thread that has still to stop; *left counts those that have not. */
static int poll_threads(struct ckpt *c, struct follow *f, size_t *left, bool *progress, struct err *err)
{
    *left = 0;
    *progress = false;
    for (size_t i = 0; i < c->nprocs; i++) {
        struct proc *p = c->procs[i];
        for (size_t k = 0; k < p->nthreads; k++) {
            struct thread *t = &p->threads[k];
            int status;
            if (!t->seized || t->stopped || t->gone)
                continue;
            pid_t r = waitpid(t->tid, &status, __WALL | WNOHANG);
            if (r == t->tid) {
                *progress = true;
                if (freeze_on_stop(c, f, p, t, status, err) < 0)
                    return -err->code;
                t = &p->threads[k];
            } else if (r < 0 && errno == ECHILD) {
                t->gone = true; /* or replaced: find_heirs() */
            } else if (r == 0 && t->tid == p->pid && !task_exists(p->pid, t->tid) && has_other_threads(p->pid)) {
                t->gone = true; /* reported only after all other threads */
            }
            *left += !t->stopped && !t->gone;
        }
    }
    return 0;
}

/* Wait until every seized thread has stopped or ended. SIGCHLD wakes us; it is blocked and only waited for. */
static int settle(struct ckpt *c, struct follow *f, struct err *err)
{
    int64_t begin = monotonic_ns();
    sigset_t chld;

    sigemptyset(&chld);
    sigaddset(&chld, SIGCHLD);
    for (;;) {
        size_t left;
        bool progress;
        if (poll_threads(c, f, &left, &progress, err) < 0)
            return -err->code;
        if (!left)
            return 0;
        if (progress)
            continue;
        if (sigtimedwait(&chld, NULL, &(struct timespec){0, 1000000}) == SIGCHLD)
            continue;
        pid_t waiting = vfork_help(c);
        if (!waiting && catch_up(c, err) < 0)
            return -err->code;
        if (waiting && monotonic_ns() - begin > VFORK_PATIENCE_NS && vfork_end(c, f, waiting, err) < 0)
            return -err->code;
    }
}

/* The records count no threads of it, but has it got some? Its number may be another process's by now, or a thread's. */
static bool has_threads(const struct member *m)
{
    struct proc_stat s;
    struct err ignored;

    return has_other_threads(m->pid) && read_stat(m->pid, &s, &ignored) == 0 && s.starttime == m->start;
}

static int freeze_all(struct ckpt *c, struct follow *f, struct err *err)
{
    for (size_t found = 1; found;) {
        size_t n;
        found = 0;
        if (follow_update(f, err) < 0)
            return -err->code;
        const struct member *m = follow_members(f, &n);
        for (size_t i = 0; i < n; i++) {
            if (m[i].threads <= 0 && !has_threads(&m[i]))
                continue;
            struct proc *p = tasks_add_proc(c, m[i].pid);
            if (!p)
                return err_set(err, ENOMEM, "out of memory");
            p->is_root = m[i].is_root;
            if (seize_new(c, p, &found, err) < 0)
                return -err->code;
        }
        if (settle(c, f, err) < 0)
            return -err->code;
        found += find_heirs(c);
    }
    return 0;
}

int freeze(struct ckpt *c, struct follow *f, struct err *err)
{
    if (freeze_all(c, f, err) < 0) {
        thaw(c);
        return -err->code;
    }
    tasks_drop_gone(c);
    for (size_t i = 0; i < c->nprocs; i++)
        follow_correct(f, c->procs[i]->pid, (int)c->procs[i]->nthreads);
    if (tasks_add_zombies(c, f, err) < 0 || tasks_read_registers(c, err) < 0) {
        thaw(c);
        return -err->code;
    }
    tasks_sort(c);
    log_trace("frozen: %zu processes", c->nprocs);
    return 0;
}

int freeze_process(struct ckpt *c, struct follow *f, pid_t pid, struct err *err)
{
    size_t found = 1;

    while (found) {
        struct proc *p = tasks_add_proc(c, pid);
        found = 0;
        if (!p)
            return err_set(err, ENOMEM, "out of memory");
        if (seize_new(c, p, &found, err) < 0 || settle(c, f, err) < 0) {
            thaw(c);
            return -err->code;
        }
        found += find_heirs(c);
    }
    return 0;
}

/* A thread of the process that can be stopped at once; 0: none. */
static pid_t willing_thread(pid_t pid)
{
    _cleanup_free_ int *tids = NULL;
    char dir[40];
    size_t n;
    struct err ignored;

    snprintf(dir, sizeof(dir), "/proc/%d/task", pid);
    if (list_numbers(dir, &tids, &n, &ignored) < 0)
        return 0;
    for (size_t i = 0; i < n; i++) {
        struct proc_stat s;
        if (read_task_stat(pid, tids[i], &s, &ignored) == 0 && strchr("RSTt", s.state) && !is_in_vfork(pid, tids[i]))
            return tids[i];
    }
    return 0;
}

int freeze_thread(struct ckpt *c, struct follow *f, pid_t pid, struct err *err)
{
    pid_t tid = willing_thread(pid);
    struct proc *p = tid ? tasks_add_proc(c, pid) : NULL;
    struct thread *t = p ? tasks_add_thread(p, tid) : NULL;

    if (!tid)
        return err_set(err, ESRCH, "process %d: none of its threads can be stopped now", pid);
    if (!t)
        return err_set(err, ENOMEM, "out of memory");
    if (seize(c, &(struct seizing){.ready = false}, p, t, err) < 0 || settle(c, f, err) < 0) {
        thaw(c);
        return -err->code;
    }
    tasks_drop_gone(c);
    if (!c->nprocs || c->procs[0] != p)
        err_set(err, ESRCH, "process %d: the thread that was stopped has ended", pid);
    else if (tasks_read_registers(c, err) == 0)
        return 0;
    thaw(c);
    return -err->code;
}

void thaw_late(void)
{
    int status;
    pid_t tid;

    while ((tid = waitpid(-1, &status, __WALL | WNOHANG)) > 0)
        if (WIFSTOPPED(status))
            ptrace(PTRACE_DETACH, tid, NULL, (long)(status >> 16 ? 0 : WSTOPSIG(status)));
}

void thaw(struct ckpt *c)
{
    for (size_t i = 0; i < c->nprocs; i++) {
        struct proc *p = c->procs[i];
        for (size_t k = 0; k < p->nthreads; k++)
            if (p->threads[k].stopped && !p->threads[k].gone) {
                go_on_with_call(c, &p->threads[k]);
                if (p->kept_back && keepback_add_thread(c->options.keepback, &p->threads[k]))
                    continue;
                ptrace(PTRACE_DETACH, p->threads[k].tid, NULL, 0);
            }
        free(p->threads);
        p->threads = NULL;
        p->nthreads = p->cap_threads = 0;
    }
    thaw_late();
}
