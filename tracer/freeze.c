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
#include <inttypes.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "base/log.h"
#include "base/util.h"
#include "injector/ptrace.h"
#include "tracer/calls.h"
#include "tracer/keepback.h"
#include "tracer/procfs.h"
#include "tracer/vfork.h"

#define SEIZE_OPTIONS \
    (PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC | PTRACE_O_TRACESYSGOOD)
#define VFORK_PATIENCE_NS 2000000000ll /* how long a vfork child may take to exec or exit */

static struct proc *known_proc(const struct ckpt *c, pid_t pid)
{
    for (size_t i = 0; i < c->nprocs; i++)
        if (c->procs[i]->pid == pid)
            return c->procs[i];
    return NULL;
}

static struct proc *add_proc(struct ckpt *c, pid_t pid)
{
    struct proc *p = known_proc(c, pid);

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

static struct thread *find_thread(struct proc *p, pid_t tid)
{
    for (size_t i = 0; i < p->nthreads; i++)
        if (p->threads[i].tid == tid)
            return &p->threads[i];
    return NULL;
}

static struct thread *add_thread(struct proc *p, pid_t tid)
{
    struct thread *t = grow(p->threads, p->nthreads, &p->cap_threads, sizeof(*t));

    if (!t)
        return NULL;
    p->threads = t;
    t[p->nthreads] = (struct thread){.tid = tid};
    return &t[p->nthreads++];
}

/* Why a thread cannot be seized, in words that help. Returns 0 when it has only ended meanwhile. */
static int explain_seize(pid_t pid, pid_t tid, int code, struct err *err)
{
    struct proc_status st;
    struct proc_stat s;
    struct err ignored;
    pid_t other;

    if (code == ESRCH || read_task_stat(pid, tid, &s, &ignored) < 0 || s.state == 'Z' || s.state == 'X')
        return 0;
    if (read_status(pid, tid, &st, &ignored) < 0)
        return 0;
    other = st.tracer;
    proc_status_free(&st);
    if (other)
        return err_set(err, EBUSY, "process %d (%s): is being traced by process %d (a debugger?); end that first", pid,
                       s.comm, other);
    return err_set(err, code, "process %d (%s): may not be traced (%s): it is another user's, set-user-ID, or not dumpable",
                   pid, s.comm, strerror(code));
}

static bool traced_by_us(pid_t pid, pid_t tid)
{
    struct proc_status st;
    struct err ignored;

    if (read_status(pid, tid, &st, &ignored) < 0)
        return false;
    proc_status_free(&st);
    return st.tracer == getpid();
}

/* Go on until the stop that was asked for. */
static void again(struct thread *t, int sig)
{
    ptrace(PTRACE_INTERRUPT, t->tid, NULL, NULL);
    ptrace(PTRACE_CONT, t->tid, NULL, (long)sig);
}

static int seize(struct ckpt *c, struct proc *p, struct thread *t, struct err *err)
{
    if (ptrace(PTRACE_SEIZE, t->tid, NULL, SEIZE_OPTIONS) < 0) {
        int code = errno;
        t->gone = true;
        t->seized = code == EPERM && traced_by_us(p->pid, t->tid); /* left over from a thaw: see thaw_late() */
        if (!t->seized)
            return explain_seize(p->pid, t->tid, code, err);
        t->gone = false;
    }
    t->seized = true;
    if (c->options.keepback && keepback_find(c->options.keepback, t)) {
        p->kept_back = true;
        again(t, 0); /* it has been told of its stop already */
        return 0;
    }
    note_blocked_call(&c->clocks, p->pid, t);
    if (ptrace(PTRACE_INTERRUPT, t->tid, NULL, NULL) < 0)
        t->gone = errno == ESRCH;
    return 0;
}

/* Seize the threads of a process that are not known yet; *found counts them. */
static int seize_new(struct ckpt *c, struct proc *p, size_t *found, struct err *err)
{
    _cleanup_free_ int *tids = NULL;
    char dir[40];
    size_t n, known = p->nthreads;
    struct err gone;

    snprintf(dir, sizeof(dir), "/proc/%d/task", p->pid);
    if (list_numbers(dir, &tids, &n, &gone) < 0)
        return 0; /* it has ended */
    for (size_t i = 0; i < n; i++) {
        struct thread *t = known ? find_thread(p, tids[i]) : NULL;
        if (t)
            continue;
        t = add_thread(p, tids[i]);
        if (!t)
            return err_set(err, ENOMEM, "out of memory");
        if (seize(c, p, t, err) < 0)
            return -err->code;
        *found += t->seized;
    }
    return 0;
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
    q = tgid == p->pid ? p : add_proc(c, tgid);
    t = q ? find_thread(q, (pid_t)msg) : NULL;
    if (q && !t)
        t = add_thread(q, (pid_t)msg);
    if (!t)
        return err_set(err, ENOMEM, "out of memory");
    t->seized = true;
    if (q != p)
        follow_found(f, tgid, 1);
    return 0;
}

static int on_stop(struct ckpt *c, struct follow *f, struct proc *p, struct thread *t, int status, struct err *err)
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
        again(find_thread(p, tid), 0);
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

static bool task_exists(pid_t pid, pid_t tid)
{
    struct proc_stat s;
    struct err ignored;

    return read_task_stat(pid, tid, &s, &ignored) == 0 && s.state != 'Z' && s.state != 'X';
}

/* Is this thread the parent of a vfork(2) in progress? /proc/PID/task/TID/syscall tells while it sleeps. */
static bool in_vfork(pid_t pid, pid_t tid)
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

/* After a vfork child was let go it is stopped again as soon as its parent has been. */
static void catch_up(struct ckpt *c)
{
    for (size_t i = 0; i < c->nprocs; i++)
        for (size_t k = 0; k < c->procs[i]->nthreads; k++) {
            struct thread *t = &c->procs[i]->threads[k];
            if (t->seized && !t->stopped && !t->gone)
                ptrace(PTRACE_INTERRUPT, t->tid, NULL, NULL);
        }
}

static int64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * 1000000000ll + ts.tv_nsec;
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
                if (on_stop(c, f, p, t, status, err) < 0)
                    return -err->code;
                t = &p->threads[k];
            } else if (r < 0 && errno == ECHILD && !task_exists(p->pid, t->tid)) {
                t->gone = true;
            }
            *left += !t->stopped && !t->gone;
        }
    }
    return 0;
}

/* Who waits in vfork(2) gets its child's help. Returns that process's pid, 0: nobody. */
static pid_t help_vforks(struct ckpt *c)
{
    pid_t waiting = 0;

    for (size_t i = 0; i < c->nprocs; i++) {
        struct proc *p = c->procs[i];
        for (size_t k = 0; k < p->nthreads; k++) {
            struct thread *t = &p->threads[k];
            if (t->seized && !t->stopped && !t->gone && in_vfork(p->pid, t->tid)) {
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
        if (!t->seized || t->stopped || t->gone || !in_vfork(p->pid, t->tid))
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
        if (on_stop(c, f, q, &q->threads[0], status, err) < 0)
            return -err->code;
    }
    return 0;
}

/* Those whose children take too long. One at a time; 0 also when it has resolved itself meanwhile. */
static int end_vfork(struct ckpt *c, struct follow *f, pid_t waiting, struct err *err)
{
    struct proc *p = known_proc(c, waiting), *q;
    struct thread *t = p ? only_vfork(c, p, &q) : NULL, heir, *more;

    if (!t)
        return err_set(err, EBUSY, "process %d: waits in vfork(2) for a child that neither execs nor exits", waiting);
    if (stop_child(c, f, q, err) < 0)
        return -err->code;
    if (q->nthreads != 1 || !q->threads[0].stopped || !in_vfork(p->pid, t->tid))
        return 0;
    if (vfork_release(t, &q->threads[0], &heir, err) < 0)
        return err_wrap(err, "process %d: waits in vfork(2) for process %d", p->pid, q->pid);
    more = add_thread(q, heir.tid);
    if (!more)
        return err_set(err, ENOMEM, "out of memory");
    *more = heir;
    return 0;
}

/* Wait until every seized thread has stopped or ended. SIGCHLD wakes us; it is blocked and only waited for. */
static int settle(struct ckpt *c, struct follow *f, struct err *err)
{
    int64_t begin = now_ns();
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
        pid_t waiting = help_vforks(c);
        if (!waiting)
            catch_up(c);
        else if (now_ns() - begin > VFORK_PATIENCE_NS && end_vfork(c, f, waiting, err) < 0)
            return -err->code;
    }
}

static void drop_gone(struct ckpt *c)
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

#define PF_EXITING 0x4 /* include/linux/sched.h */
#define DEATH_MS   10000

/*
 * The record of a process's end is written a little before it is a zombie (do_exit() in kernel/exit.c): who has no
 * thread left by the records is given the time to become one, or it would be neither frozen nor a zombie.
 */
static void await_deaths(const struct follow *f)
{
    size_t n;
    const struct member *m = follow_members(f, &n);

    for (size_t i = 0; i < n; i++) {
        struct proc_stat s;
        struct err ignored;
        if (m[i].threads > 0 || read_stat(m[i].pid, &s, &ignored) < 0 || (s.state != 'Z' && !(s.flags & PF_EXITING)))
            continue;
        _cleanup_close_ int fd = (int)syscall(SYS_pidfd_open, m[i].pid, 0);
        if (fd >= 0)
            poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, DEATH_MS);
    }
}

/* Dead members that their parent has not waited for yet. */
static int add_zombies(struct ckpt *c, struct follow *f, struct err *err)
{
    size_t n, alive = c->nprocs;
    const struct member *m = follow_members(f, &n);

    await_deaths(f);
    for (size_t i = 0; i < n; i++) {
        struct proc_stat s;
        struct err ignored;
        if (known_proc(c, m[i].pid) || read_stat(m[i].pid, &s, &ignored) < 0 || s.state != 'Z')
            continue;
        bool ours = false;
        for (size_t k = 0; k < alive && !ours; k++)
            ours = c->procs[k]->pid == s.ppid;
        if (!ours)
            continue;
        struct proc *p = add_proc(c, m[i].pid);
        if (!p)
            return err_set(err, ENOMEM, "out of memory");
        p->zombie = true;
    }
    return 0;
}

static int read_threads(struct ckpt *c, struct err *err)
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

static int freeze_all(struct ckpt *c, struct follow *f, struct err *err)
{
    for (size_t found = 1; found;) {
        size_t n;
        found = 0;
        if (follow_update(f, err) < 0)
            return -err->code;
        const struct member *m = follow_members(f, &n);
        for (size_t i = 0; i < n; i++) {
            if (m[i].threads <= 0)
                continue;
            struct proc *p = add_proc(c, m[i].pid);
            if (!p)
                return err_set(err, ENOMEM, "out of memory");
            p->is_root = m[i].is_root;
            if (seize_new(c, p, &found, err) < 0)
                return -err->code;
        }
        if (settle(c, f, err) < 0)
            return -err->code;
    }
    return 0;
}

int freeze(struct ckpt *c, struct follow *f, struct err *err)
{
    if (freeze_all(c, f, err) < 0) {
        thaw(c);
        return -err->code;
    }
    drop_gone(c);
    for (size_t i = 0; i < c->nprocs; i++)
        follow_correct(f, c->procs[i]->pid, (int)c->procs[i]->nthreads);
    if (add_zombies(c, f, err) < 0 || read_threads(c, err) < 0) {
        thaw(c);
        return -err->code;
    }
    if (c->nprocs)
        qsort(c->procs, c->nprocs, sizeof(*c->procs), by_pid);
    log_trace("frozen: %zu processes", c->nprocs);
    return 0;
}

int freeze_process(struct ckpt *c, struct follow *f, pid_t pid, struct err *err)
{
    size_t found = 1;

    while (found) {
        struct proc *p = add_proc(c, pid);
        found = 0;
        if (!p)
            return err_set(err, ENOMEM, "out of memory");
        if (seize_new(c, p, &found, err) < 0 || settle(c, f, err) < 0) {
            thaw(c);
            return -err->code;
        }
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
        if (read_task_stat(pid, tids[i], &s, &ignored) == 0 && strchr("RSTt", s.state) && !in_vfork(pid, tids[i]))
            return tids[i];
    }
    return 0;
}

int freeze_thread(struct ckpt *c, struct follow *f, pid_t pid, struct err *err)
{
    pid_t tid = willing_thread(pid);
    struct proc *p = tid ? add_proc(c, pid) : NULL;
    struct thread *t = p ? add_thread(p, tid) : NULL;

    if (!tid)
        return err_set(err, ESRCH, "process %d: none of its threads can be stopped now", pid);
    if (!t)
        return err_set(err, ENOMEM, "out of memory");
    if (seize(c, p, t, err) < 0 || settle(c, f, err) < 0) {
        thaw(c);
        return -err->code;
    }
    drop_gone(c);
    if (!c->nprocs || c->procs[0] != p)
        err_set(err, ESRCH, "process %d: the thread that was stopped has ended", pid);
    else if (read_threads(c, err) == 0)
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
