/*
 * Descriptor tables. Every open file description is made once, here in the driver, and passed to all
 * processes that have it with SCM_RIGHTS, so they share it as they did. Then each is moved to its number
 * (fdmove.c). Of kinds that are `passing` no copy stays here. What must wait until threads exist, or until nothing can raise a signal any more, is done in
 * arm_objects().
 */
#include "restorer/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>

#include "base/log.h"
#include "base/util.h"
#include "restorer/fdmove.h"

/* Flags that F_SETFL can change. */
#define SETTABLE ((uint32_t)(O_APPEND | O_NONBLOCK | O_DIRECT | O_NOATIME))

/* ---- descriptions ---- */

static int set_state(struct rofd *d, struct err *err)
{
    uint32_t want = d->msg->flags & SETTABLE;
    int now;

    if (d->msg->flags & O_PATH)
        return 0;
    now = fcntl(d->fd, F_GETFL);
    if (now < 0)
        return err_errno(err, "F_GETFL");
    if (((uint32_t)now & SETTABLE) != want && fcntl(d->fd, F_SETFL, (int)want) < 0)
        return err_errno(err, "setting its status flags to %#o", want);
    if (d->msg->pos && lseek(d->fd, d->msg->pos, SEEK_SET) < 0 && errno != ESPIPE)
        return err_errno(err, "going to position %lld", (long long)d->msg->pos);
    return 0;
}

static int by_ofd_id(const void *a, const void *b)
{
    const struct rofd *x = *(struct rofd *const *)a, *y = *(struct rofd *const *)b;

    return x->msg->id < y->msg->id ? -1 : x->msg->id > y->msg->id;
}

static int open_one(struct restore *r, struct rofd *d, struct err *err)
{
    const struct rebuild_ops *ops = d->object ? d->object->ops : NULL;

    if (!ops || !ops->open)
        return err_set(err, EINVAL, "open file %llu of a kind that cannot be open",
                       (unsigned long long)d->msg->id);
    d->fd = -1;
    d->object->unopened--;
    if (ops->open(r, d->object, d, &d->fd, err) < 0)
        return -err->code;
    return ops->borrowed || d->fd < 0 ? 0 : set_state(d, err);
}

int restore_ofd_fd(struct restore *r, struct rofd *d, struct err *err)
{
    int res = 0;

    if (d->fd < 0 && d->placed)
        res = d->fd = inj_get_fd(&d->proc->inj, d->remote, err);
    else if (d->fd < 0 && d->object->ops->passing)
        res = open_one(r, d, err);
    return res < 0 ? res : d->fd;
}

/* In the order of ids: that of their discovery. Those of passing kinds wait until somebody is to have them. */
static int open_all(struct restore *r, struct err *err)
{
    _cleanup_free_ struct rofd **sorted = NULL;
    size_t n = 0, i = 0;

    for (struct rofd *d = r->ofds; d; d = d->next)
        n++;
    sorted = calloc(n + 1, sizeof(struct rofd *));
    if (!sorted)
        return err_set(err, ENOMEM, "out of memory");
    for (struct rofd *d = r->ofds; d; d = d->next)
        sorted[i++] = d;
    qsort(sorted, n, sizeof(struct rofd *), by_ofd_id);
    for (i = 0; i < n; i++) {
        if ((sorted[i]->proc && sorted[i]->object->ops->passing) || open_one(r, sorted[i], err) == 0)
            continue;
        if (sorted[i]->proc)
            err_wrap(err, "process %d: fd %d", sorted[i]->proc->pid, sorted[i]->remote);
        return -err->code;
    }
    return 0;
}

/* ---- tables ---- */

static bool owns_table(const struct rproc *p)
{
    return p->alive && p->fdtable && (!p->process->files_owner || p->process->files_owner == p->pid);
}

static int by_number(const void *a, const void *b)
{
    const Fd *x = *(Fd *const *)a, *y = *(Fd *const *)b;

    return x->fd < y->fd ? -1 : x->fd > y->fd;
}

/* Tables ascend in honest images; d->proc and d->remote say where a description is held first. */
static int check_tables(struct restore *r, struct err *err)
{
    for (struct rofd *d = r->ofds; d; d = d->next) {
        d->proc = NULL;
        d->object->unopened++;
    }
    for (size_t i = 0; i < r->nprocs; i++) {
        struct rproc *p = &r->procs[i];
        FdTable *t = p->fdtable;

        if (!owns_table(p))
            continue;
        qsort(t->fds, t->n_fds, sizeof(*t->fds), by_number);
        for (size_t k = 0; k < t->n_fds; k++) {
            struct rofd *d = restore_ofd(r, t->fds[k]->ofd);
            if (!d || t->fds[k]->fd - (uint32_t)r->ctl_fd < r->ctl_fds || (k && t->fds[k]->fd == t->fds[k - 1]->fd))
                return err_set(err, EINVAL, "process %d: fd %u: the image does not say what it is", p->pid,
                               t->fds[k]->fd);
            if (d->proc)
                continue;
            d->proc = p;
            d->remote = (int)t->fds[k]->fd;
        }
    }
    return 0;
}

/* Numbers that must stay: the control sockets of all that share the table, ascending. */
static uint32_t controls(const struct restore *r, const struct rproc *p, int *out)
{
    uint32_t n = 0;

    for (size_t i = 0; i < r->nprocs; i++) {
        const struct rproc *q = &r->procs[i];
        if (!q->alive || (q != p && q->process->files_owner != p->pid))
            continue;
        uint32_t at = n++;
        for (; at && out[at - 1] > q->inj.remote_ctl; at--)
            out[at] = out[at - 1];
        out[at] = q->inj.remote_ctl;
    }
    return n;
}

/* Whatever came by fork from the driver is closed. Its limit of open files came, too, which is as high as may be. */
static int clear_table(struct restore *r, struct rproc *p, struct err *err)
{
    _cleanup_batch_ struct inj_batch b = {0};
    _cleanup_free_ int *keep = calloc(r->nprocs + 1, sizeof(*keep));
    uint32_t n;
    int from = 0;

    if (!keep)
        return err_set(err, ENOMEM, "out of memory");
    if (inj_begin(&b, &p->inj, err) < 0)
        return -err->code;
    n = controls(r, p, keep);
    for (uint32_t i = 0; i < n; i++) {
        if (keep[i] > from)
            inj_call(&b, BLOB_MUST, SYS_close_range, from, keep[i] - 1, 0);
        from = keep[i] + 1;
    }
    inj_call(&b, BLOB_MUST, SYS_close_range, from, ~0u, 0);
    if (inj_run(&b, err) < 0)
        return -err->code;
    return inj_check(&b, err, "closing descriptors");
}

static int move(struct rproc *p, const struct fd_move *moves, uint32_t n, struct err *err)
{
    _cleanup_batch_ struct inj_batch b = {0};

    if (inj_begin(&b, &p->inj, err) < 0)
        return -err->code;
    for (uint32_t i = 0; i < n; i++) {
        const struct fd_move *m = &moves[i];

        if (m->from != m->to) {
            inj_call(&b, BLOB_MUST, SYS_dup3, m->from, m->to, m->cloexec ? O_CLOEXEC : 0);
            inj_call(&b, BLOB_MUST, SYS_close, m->from);
        } else if (!m->cloexec) {
            inj_call(&b, BLOB_MUST, SYS_fcntl, m->from, F_SETFD, 0);
        }
    }
    if (inj_run(&b, err) < 0)
        return -err->code;
    return inj_check(&b, err, "descriptors");
}

/* It has arrived where it is looked for later. A copy stays only where its signals are still to be set. */
static void let_pass(struct rproc *p, struct rofd *d, int number)
{
    if (!d->object->ops->passing || d->fd < 0)
        return;
    d->placed = d->placed || (d->proc == p && d->remote == number);
    if (!d->placed || d->msg->owner || d->msg->owner_sig)
        return;
    close(d->fd);
    d->fd = -1;
}

static int send_some(struct restore *r, struct rproc *p, Fd *const *fds, uint32_t n, struct err *err)
{
    int ours[INJ_MAX_FDS], theirs[INJ_MAX_FDS], wanted[INJ_MAX_FDS];
    bool cloexec[INJ_MAX_FDS];
    struct fd_move moves[INJ_MAX_FDS];

    for (uint32_t i = 0; i < n; i++) {
        struct rofd *d = restore_ofd(r, fds[i]->ofd);
        int picked = d->object->ops->pick ? d->object->ops->pick(r, d, fds[i]->fd) : -1;
        if (d->object->ops->passing && restore_ofd_fd(r, d, err) < 0)
            return err_wrap(err, "process %d: fd %u", p->pid, fds[i]->fd);
        ours[i] = picked >= 0 ? picked : d->fd;
        wanted[i] = (int)fds[i]->fd;
        cloexec[i] = fds[i]->cloexec;
    }
    if (inj_send_fds(&p->inj, ours, theirs, n, err) < 0)
        return -err->code;
    if (fd_moves(theirs, wanted, cloexec, n, moves, err) < 0)
        return err_wrap(err, "process %d", p->pid);
    if (move(p, moves, n, err) < 0)
        return -err->code;
    for (uint32_t i = 0; i < n; i++)
        let_pass(p, restore_ofd(r, fds[i]->ofd), (int)fds[i]->fd);
    return 0;
}

static int fill_table(struct restore *r, struct rproc *p, struct err *err)
{
    const FdTable *t = p->fdtable;

    if (clear_table(r, p, err) < 0)
        return -err->code;
    for (size_t at = 0; at < t->n_fds; at += INJ_MAX_FDS) {
        size_t n = t->n_fds - at < INJ_MAX_FDS ? t->n_fds - at : INJ_MAX_FDS;
        if (send_some(r, p, t->fds + at, (uint32_t)n, err) < 0)
            return -err->code;
    }
    return 0;
}

int rebuild_fd_tables(struct restore *r, struct err *err)
{
    if (check_tables(r, err) < 0 || open_all(r, err) < 0)
        return -err->code;
    for (size_t i = 0; i < r->nprocs; i++)
        if (owns_table(&r->procs[i]) && fill_table(r, &r->procs[i], err) < 0)
            return -err->code;
    return 0;
}

/* ---- who gets SIGIO ---- */

/*
 * The kernel remembers as whom F_SETOWN was called (sigio_perm in fs/fcntl.c), so it is called as them where
 * we may. Raw calls: glibc would want all threads to agree.
 */
static int set_owner_as(int fd, const struct f_owner_ex *owner, uint32_t uid, uint32_t euid)
{
    bool other = geteuid() == 0 && (uid || euid);
    int r, saved;

    if (other && syscall(SYS_setresuid, uid, euid, 0) < 0)
        other = false;
    r = fcntl(fd, F_SETOWN_EX, owner);
    saved = errno;
    if (other && syscall(SYS_setresuid, 0, 0, 0) < 0)
        return -EPERM;
    return r < 0 ? -saved : 0;
}

/* The owner in the driver's numbers; false: it is not in the images, and whoever has its number now must not
 * be hit. */
static bool owner_here(const struct restore *r, const Ofd *m, struct f_owner_ex *owner)
{
    pid_t pid = 0;

    for (size_t i = 0; !pid && i < r->nprocs; i++) {
        const struct rproc *p = &r->procs[i];
        if (m->owner_type == F_OWNER_PID && p->pid == m->owner)
            pid = p->host_pid;
        else if (m->owner_type == F_OWNER_PGRP && p->process->pgid == m->owner && p->alive)
            pid = (pid_t)syscall(SYS_getpgid, p->host_pid);
        for (size_t t = 0; m->owner_type == F_OWNER_TID && !pid && t < p->nthreads; t++)
            if (p->threads[t]->tid == m->owner)
                pid = p->host_pid == p->pid ? m->owner : t == 0 ? p->host_pid : 0;
    }
    *owner = (struct f_owner_ex){.type = (int)m->owner_type, .pid = pid};
    return pid > 0;
}

/* SIGIO's si_fd is the number under which O_ASYNC was set, so it is set in a process that has the
 * description. */
static int set_async(struct rofd *d, struct err *err)
{
    uint32_t flags = d->msg->flags & (SETTABLE | O_ASYNC);
    int64_t ret;

    if (!(d->msg->flags & O_ASYNC) || !d->proc)
        return 0;
    if (inj_syscall(&d->proc->inj, &ret, err, SYS_fcntl, (uint64_t[6]){(uint64_t)d->remote, F_SETFL, flags}) <
        0)
        return -err->code;
    return inj_failed(ret) ? err_set(err, (int)-ret, "O_ASYNC: %s", strerror((int)-ret)) : 0;
}

static int arm_owner(struct restore *r, struct rofd *d, struct err *err)
{
    const Ofd *m = d->msg;
    struct f_owner_ex owner;
    int e;

    if (d->fd < 0 || (m->flags & O_PATH) || d->object->ops->borrowed)
        return 0;
    if (m->owner_sig && fcntl(d->fd, F_SETSIG, (int)m->owner_sig) < 0)
        return err_errno(err, "F_SETSIG");
    if (m->owner && owner_here(r, m, &owner)) {
        e = set_owner_as(d->fd, &owner, m->owner_uid, m->owner_euid);
        if (e < 0)
            return err_set(err, -e, "F_SETOWN to %d: %s", m->owner, strerror(-e));
    } else if (m->owner) {
        log_trace("open file %llu: its signals went to %d, which is not restored", (unsigned long long)m->id,
                  m->owner);
    }
    return set_async(d, err);
}

int arm_objects(struct restore *r, struct err *err)
{
    for (struct rofd *d = r->ofds; d; d = d->next) {
        if (arm_owner(r, d, err) == 0)
            continue;
        return d->proc ? err_wrap(err, "process %d: fd %d", d->proc->pid, d->remote) : -err->code;
    }
    return arm_kinds(r, err);
}
