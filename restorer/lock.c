/*
 * Locks are taken by the processes that held them, through their own fd numbers: a POSIX lock belongs to
 * whoever asks, and a lease remembers the fd number for siginfo's si_fd. A lease that was being broken is
 * broken again by an open(2) that does not wait; the program was told of it before the checkpoint, so the
 * signal of this second time goes to nobody.
 */
#include "restorer/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/syscall.h>

#include "base/util.h"
#include "image/lock.h"
#include "restorer/place.h"

static int one_call(struct inj *inj, struct err *err, int64_t *ret, long nr, uint64_t a, uint64_t b,
                    uint64_t c)
{
    *ret = -EIO;
    return inj_syscall(inj, ret, err, nr, (uint64_t[6]){a, b, c});
}

static int lock_failed(const struct rproc *p, int fd, int64_t ret, const char *what, struct err *err)
{
    int code = (int)-ret;

    if (code == EAGAIN || code == EACCES)
        return err_set(err, code, "process %d: fd %d: %s: somebody else holds a lock on the file", p->pid, fd,
                       what);
    return err_set(err, code, "process %d: fd %d: %s: %s", p->pid, fd, what, strerror(code));
}

/* fcntl(2) with a struct flock, in the process. */
static int record_lock(struct rproc *p, int fd, int cmd, uint32_t type, uint64_t start, int64_t len,
                       struct err *err)
{
    struct flock fl = {.l_type = (short)type, .l_whence = SEEK_SET, .l_start = (off_t)start, .l_len = len};
    _cleanup_batch_ struct inj_batch b = {0};
    uint32_t call;

    if (inj_begin(&b, &p->inj, err) < 0)
        return -err->code;
    call = inj_call(&b, 0, SYS_fcntl, fd, cmd, inj_data(&b, &fl, sizeof(fl)));
    if (inj_run(&b, err) < 0)
        return -err->code;
    if (inj_failed(inj_ret(&b, call)))
        return lock_failed(p, fd, inj_ret(&b, call), "lock", err);
    return 0;
}

/* The number under which process p has the description; -1: it has none. */
static int fd_of(const struct rproc *p, uint64_t ofd)
{
    for (size_t i = 0; p->fdtable && i < p->fdtable->n_fds; i++)
        if (p->fdtable->fds[i]->ofd == ofd)
            return (int)p->fdtable->fds[i]->fd;
    return -1;
}

static int restore_posix(struct rproc *p, struct err *err)
{
    for (size_t i = 0; p->fdtable && i < p->fdtable->n_locks; i++) {
        const PosixLock *l = p->fdtable->locks[i];
        int fd = fd_of(p, l->ofd);

        if (fd < 0)
            return err_set(err, EINVAL, "process %d: a lock on a file that it has not open", p->pid);
        if (record_lock(p, fd, F_SETLK, l->type, l->start, l->len, err) < 0)
            return -err->code;
    }
    return 0;
}

static int set_lease(struct rproc *p, int fd, uint32_t type, struct err *err)
{
    int64_t ret;

    if (one_call(&p->inj, err, &ret, SYS_fcntl, (uint64_t)fd, F_SETLEASE, type) < 0)
        return -err->code;
    return inj_failed(ret) ? lock_failed(p, fd, ret, "lease", err) : 0;
}

/*
 * Break a lease as it was being broken: an open for writing asks that it goes, one for reading that it
 * becomes a read lease. F_SETLEASE made the process the owner of the description's signals if it had none;
 * signal 0 in F_SETSIG means SIGIO, so the owner is taken away for the moment.
 */
static int break_lease(struct rproc *p, int fd, uint32_t to, struct err *err)
{
    char path[48];
    int64_t ret;

    if (one_call(&p->inj, err, &ret, SYS_fcntl, (uint64_t)fd, F_SETOWN, 0) < 0)
        return -err->code;
    snprintf(path, sizeof(path), "/proc/%d/fd/%d", p->host_pid, fd);
    _cleanup_close_ int other = open(path, (to == F_RDLCK ? O_RDONLY : O_WRONLY) | O_NONBLOCK | O_CLOEXEC);
    if (other >= 0 || errno != EWOULDBLOCK)
        return err_set(err, EIO, "process %d: fd %d: its lease cannot be broken as it was being", p->pid, fd);
    return 0;
}

static int restore_lock(struct rproc *p, int fd, const FileLock *l, struct err *err)
{
    int64_t ret;

    switch (l->kind) {
    case FILE_LOCK_FLOCK:
        if (one_call(&p->inj, err, &ret, SYS_flock, (uint64_t)fd,
                     (l->type == F_WRLCK ? LOCK_EX : LOCK_SH) | LOCK_NB, 0) < 0)
            return -err->code;
        return inj_failed(ret) ? lock_failed(p, fd, ret, "flock", err) : 0;
    case FILE_LOCK_OFD:
        return record_lock(p, fd, F_OFD_SETLK, l->type, l->start, l->len, err);
    case FILE_LOCK_LEASE:
        if (set_lease(p, fd, l->type, err) < 0)
            return -err->code;
        return l->breaking ? break_lease(p, fd, l->breaking_to, err) : 0;
    default:
        return err_set(err, EINVAL, "process %d: fd %d: a lock of unknown kind %u", p->pid, fd, l->kind);
    }
}

/* F_SETLEASE and breaking it change who gets the description's signals: put back what the image says. */
static int restore_owner(struct rproc *p, int fd, const Ofd *m, struct err *err)
{
    struct f_owner_ex owner = {.type = (int)m->owner_type, .pid = m->owner};
    _cleanup_batch_ struct inj_batch b = {0};
    uint32_t call;

    if (inj_begin(&b, &p->inj, err) < 0)
        return -err->code;
    call = inj_call(&b, 0, SYS_fcntl, fd, F_SETOWN_EX, inj_data(&b, &owner, sizeof(owner)));
    if (inj_run(&b, err) < 0)
        return -err->code;
    if (inj_failed(inj_ret(&b, call)) && m->owner)
        return lock_failed(p, fd, inj_ret(&b, call), "owner of its signals", err);
    return 0;
}

static int restore_ofd_locks(struct restore *r, struct rofd *d, struct err *err)
{
    struct rproc *p;
    bool lease = false;
    uint32_t fd;

    if (!d->msg->n_locks)
        return 0;
    p = place_holder(r, d->msg->id, &fd);
    if (!p)
        return err_set(err, EINVAL, "a lock on an open file that no process has");
    for (size_t i = 0; i < d->msg->n_locks; i++) {
        if (restore_lock(p, (int)fd, d->msg->locks[i], err) < 0)
            return -err->code;
        lease |= d->msg->locks[i]->kind == FILE_LOCK_LEASE;
    }
    return lease ? restore_owner(p, (int)fd, d->msg, err) : 0;
}

int restore_locks(struct restore *r, struct err *err)
{
    for (struct rofd *d = r->ofds; d; d = d->next)
        if (restore_ofd_locks(r, d, err) < 0)
            return -err->code;
    for (size_t i = 0; i < r->nprocs; i++)
        if (restore_posix(&r->procs[i], err) < 0)
            return -err->code;
    return 0;
}
