/*
 * Making the processes: the steps of the plan (session.c), one after the other, by remote system calls in skeletons.
 * Each has a control socket at a high fd number and nothing else open; each has all signals blocked until it is
 * complete.
 */
#include <errno.h>
#include <linux/capability.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/log.h"
#include "base/util.h"
#include "restorer/core.h"
#include "restorer/tty.h"

struct making {
    struct restore *r;
    struct steps *s;
    struct rproc *helpers; /* of the actors behind the processes */
    int shared_ctl;        /* control sockets in tables that several processes share: each has its own number */
    struct err *err;
};

static struct rproc *actor(const struct making *m, size_t i)
{
    return i < m->r->nprocs ? &m->r->procs[i] : &m->helpers[i - m->r->nprocs];
}

static int remote(struct rproc *p, int64_t *ret, struct err *err, const char *what, long nr, uint64_t a, uint64_t b,
                  uint64_t c)
{
    if (inj_syscall(&p->inj, ret, err, nr, (uint64_t[6]){a, b, c}) < 0)
        return -err->code;
    if (inj_failed(*ret))
        return err_set(err, (int)-*ret, "process %d: %s: %s", p->pid, what, strerror((int)-*ret));
    return 0;
}

/* Only its own control socket stays open. */
static int close_others(struct rproc *p, struct err *err)
{
    _cleanup_batch_ struct inj_batch b = {0};
    uint64_t own = (uint64_t)p->inj.remote_ctl;

    if (inj_begin(&b, &p->inj, err) < 0)
        return -err->code;
    if (own)
        inj_call(&b, BLOB_MUST, SYS_close_range, 0, own - 1, 0);
    inj_call(&b, BLOB_MUST, SYS_close_range, own + 1, ~0u, 0);
    return run_batch(&b, "closing descriptors", err);
}

static int spawn(struct making *m, struct rproc *p, pid_t pid)
{
    for (int tries = 0; inj_spawn(&p->inj, m->r->area, m->r->slots, CLONE_PARENT, pid, m->r->ctl_fd, m->err) < 0;) {
        if (m->err->code != EEXIST || !pid_wait_free(pid, &tries))
            return -m->err->code;
        inj_close(&p->inj);
    }
    p->host_pid = p->inj.pid;
    p->alive = true;
    return mm_clear(m->r, p, m->err);
}

/* What the child shares with the one that forks it, as clone(2) flags. */
static int shared_flags(const struct making *m, const struct rproc *from, const struct rproc *p, uint64_t *flags)
{
    const Process *a = from->process, *b = p->process;

    *flags = 0;
    if (!b || b->state == 1)
        return 0;
    if (b->files_owner && b->files_owner != b->pid)
        *flags |= CLONE_FILES;
    if (b->fs_owner && b->fs_owner != b->pid)
        *flags |= CLONE_FS;
    if (b->mm_owner && b->mm_owner != b->pid)
        *flags |= CLONE_VM;
    if (b->sighand_owner && b->sighand_owner != b->pid)
        *flags |= CLONE_SIGHAND;
    if (*flags && (!a || ((*flags & CLONE_FILES) && a->files_owner != b->files_owner) ||
                   ((*flags & CLONE_FS) && a->fs_owner != b->fs_owner) ||
                   ((*flags & CLONE_VM) && a->mm_owner != b->mm_owner)))
        return err_set(m->err, ENOTSUP, "process %d shares memory or descriptors with a process that is not its parent",
                       p->pid);
    return 0;
}

static int fork_from(struct making *m, struct rproc *from, struct rproc *p, pid_t pid)
{
    struct inj_fork_args a = {.exit_signal = p->process ? p->process->exit_signal : SIGCHLD, .set_tid = &pid,
                              .nset_tid = pid ? 1 : 0};

    if (shared_flags(m, from, p, &a.flags) < 0)
        return -m->err->code;
    a.remote_ctl = a.flags & CLONE_FILES ? m->shared_ctl++
                                         : m->r->ctl_fd + (from->inj.remote_ctl == m->r->ctl_fd);
    if (a.flags & CLONE_VM) {
        p->slot = a.slot = ++from->mm_home->next_slot;
        p->came_from = from;
    }
    for (int tries = 0; inj_fork(&from->inj, &p->inj, &a, m->err) < 0;) {
        if (m->err->code != EEXIST || !pid_wait_free(pid, &tries))
            return err_wrap(m->err, "process %d", pid);
        inj_close(&p->inj);
    }
    p->host_pid = p->inj.pid;
    p->alive = true;
    p->cleared = from->cleared;
    p->vdso = from->vdso;
    p->came_from = from->built ? from : from->came_from;
    return a.flags & CLONE_FILES ? 0 : close_others(p, m->err);
}

/* A helper ends and is waited for by its parent; dmtcp_restart waits for those that are its own children. */
static int end_helper(struct making *m, const struct step *st)
{
    struct rproc *p = actor(m, st->proc);
    struct blob_call c = {.nr = SYS_exit_group};
    struct inj_batch b = {.inj = &p->inj, .calls = &c, .ncalls = 1};
    struct err gone;
    int64_t ret;

    inj_run(&b, &gone); /* it does not answer */
    poll(&(struct pollfd){.fd = p->inj.pidfd, .events = POLLIN}, 1, -1);
    p->alive = false;
    if (st->from == SIZE_MAX)
        return 0;
    return remote(actor(m, st->from), &ret, m->err, "wait4", SYS_wait4, (uint64_t)p->inj.pid, 0, __WALL);
}

static int do_step(struct making *m, const struct step *st)
{
    struct rproc *p = actor(m, st->proc);
    pid_t pid = m->s->actor[st->proc].pid;
    int64_t ret;

    switch (st->kind) {
    case STEP_SPAWN:
        return spawn(m, p, pid);
    case STEP_FORK:
        return fork_from(m, actor(m, st->from), p, pid);
    case STEP_SETSID:
        if (remote(p, &ret, m->err, "setsid", SYS_setsid, 0, 0, 0) < 0)
            return -m->err->code;
        return p->process ? tty_acquire(m->r, p, m->err) : 0;
    case STEP_BUILD:
        return mm_build(m->r, p, m->err);
    case STEP_EXIT:
        return end_helper(m, st);
    case STEP_ADOPTS:
        return remote(p, &ret, m->err, "prctl", SYS_prctl, PR_SET_CHILD_SUBREAPER, 1, 0);
    default:
        return err_set(m->err, EINVAL, "unknown step");
    }
}

int tree_create(struct restore *r, struct err *err)
{
    struct steps s;
    struct making m = {.r = r, .s = &s, .shared_ctl = r->ctl_fd + 2, .err = err};
    int res = plan_steps(r, &s, err);

    if (res == 0) {
        m.helpers = calloc(s.n_actors - r->nprocs + 1, sizeof(*m.helpers));
        res = m.helpers ? 0 : err_set(err, ENOMEM, "out of memory");
    }
    for (size_t i = 0; res == 0 && i < s.n_actors - r->nprocs; i++) {
        m.helpers[i].pid = s.actor[r->nprocs + i].pid;
        m.helpers[i].inj.ctl = m.helpers[i].inj.pidfd = -1;
        m.helpers[i].mm_home = &m.helpers[i];
    }
    for (size_t i = 0; res == 0 && i < s.n; i++)
        res = do_step(&m, &s.step[i]);
    for (size_t i = 0; m.helpers && i < s.n_actors - r->nprocs; i++)
        inj_close(&m.helpers[i].inj);
    free(m.helpers);
    steps_free(&s);
    return res;
}

/* --- process groups ------------------------------------------------------------------------------------------ */

static int set_group(struct rproc *p, pid_t group, struct err *err)
{
    int64_t ret;

    return remote(p, &ret, err, "setpgid", SYS_setpgid, 0, (uint64_t)group, 0);
}

/* Everybody of a group whose leader has died: a helper with its pid leads it until they have joined. */
static int dead_group(struct restore *r, size_t first, struct err *err)
{
    struct rproc *from = &r->procs[first], h = {.pid = from->process->pgid, .inj = {.ctl = -1, .pidfd = -1}};
    struct inj_fork_args a = {.exit_signal = SIGCHLD, .set_tid = &h.pid, .nset_tid = 1,
                              .remote_ctl = r->ctl_fd + (from->inj.remote_ctl == r->ctl_fd)};
    struct blob_call c = {.nr = SYS_exit_group};
    struct inj_batch b = {.inj = &h.inj, .calls = &c, .ncalls = 1};
    struct err gone;
    int64_t ret;
    int res = inj_fork(&from->inj, &h.inj, &a, err);

    if (res == 0)
        res = set_group(&h, 0, err);
    for (size_t i = first; res == 0 && i < r->nprocs; i++)
        if (r->procs[i].process->pgid == h.pid && r->procs[i].process->sid == from->process->sid)
            res = set_group(&r->procs[i], h.pid, err);
    if (h.inj.ctl >= 0 && h.inj.pidfd >= 0) {
        inj_run(&b, &gone);
        poll(&(struct pollfd){.fd = h.inj.pidfd, .events = POLLIN}, 1, -1);
        if (res == 0)
            res = remote(from, &ret, err, "wait4", SYS_wait4, (uint64_t)h.pid, 0, __WALL);
    }
    inj_close(&h.inj);
    return res < 0 ? err_wrap(err, "process group %d", h.pid) : 0;
}

static bool seen_before(const struct restore *r, size_t i)
{
    for (size_t k = 0; k < i; k++)
        if (r->procs[k].process->pgid == r->procs[i].process->pgid)
            return true;
    return false;
}

int tree_groups(struct restore *r, struct err *err)
{
    pid_t outside = outside_group(r);

    for (size_t i = 0; i < r->nprocs; i++) {
        const Process *m = r->procs[i].process;
        if (m->pgid == m->pid && m->sid != m->pid && set_group(&r->procs[i], 0, err) < 0)
            return -err->code;
    }
    for (size_t i = 0; i < r->nprocs; i++) {
        const Process *m = r->procs[i].process;
        /* The group of a session leader that is gone came with the session. */
        bool born = m->pgid == m->sid && !restore_proc(r, m->pgid);
        if (m->pgid == m->pid || m->pgid == outside || m->pgid <= 0 || born)
            continue;
        if (restore_proc(r, m->pgid)) {
            if (set_group(&r->procs[i], m->pgid, err) < 0)
                return -err->code;
        } else if (!seen_before(r, i) && dead_group(r, i, err) < 0) {
            return -err->code;
        }
    }
    return 0;
}

/* --- zombies --------------------------------------------------------------------------------------------------- */

/* Without capabilities, or a tracer that has none may not read its exit status (/proc/PID/stat) at the next checkpoint. */
static int end_zombie(struct rproc *p, struct err *err)
{
    struct __user_cap_header_struct caps = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct no_caps[2] = {0};
    _cleanup_batch_ struct inj_batch b = {0};
    char comm[16] = "";
    uint64_t none = 0;
    struct err gone;
    int status = (int)p->process->exit_status;

    if (inj_begin(&b, &p->inj, err) < 0)
        return -err->code;
    memcpy(comm, p->process->comm.data, p->process->comm.len < 15 ? p->process->comm.len : 15);
    inj_call(&b, 0, SYS_prctl, PR_SET_NAME, inj_data(&b, comm, sizeof(comm)));
    inj_call(&b, 0, SYS_capset, inj_data(&b, &caps, sizeof(caps)), inj_data(&b, no_caps, sizeof(no_caps)));
    if (WIFSIGNALED(status)) {
        uint64_t dfl[4] = {0};
        if (WTERMSIG(status) != SIGKILL)
            inj_call(&b, 0, SYS_rt_sigaction, WTERMSIG(status), inj_data(&b, dfl, sizeof(dfl)), 0, 8);
        inj_call(&b, 0, SYS_prlimit64, 0, 4 /* RLIMIT_CORE */, inj_data(&b, &(uint64_t[2]){0}, 16), 0);
        inj_call(&b, 0, SYS_rt_sigprocmask, SIG_SETMASK, inj_data(&b, &none, 8), 0, 8);
        inj_call(&b, 0, SYS_kill, p->pid, WTERMSIG(status));
    }
    inj_call(&b, 0, SYS_exit_group, WEXITSTATUS(status));
    inj_run(&b, &gone);
    poll(&(struct pollfd){.fd = p->inj.pidfd, .events = POLLIN}, 1, -1);
    p->alive = false;
    return 0;
}

int tree_zombies(struct restore *r, struct err *err)
{
    for (size_t i = 0; i < r->nprocs; i++)
        if (r->procs[i].process->state == 1 && end_zombie(&r->procs[i], err) < 0)
            return -err->code;
    return 0;
}
