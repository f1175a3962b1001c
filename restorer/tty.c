/*
 * Pseudo-terminals of the tree. They are made before the first process, with the numbers they had where those
 * are free: devpts gives the lowest, so others are made and closed again until the wanted one comes. A number
 * that is taken by somebody else's terminal cannot be had; then the terminal has another one, and a note says
 * so.
 */
#include "restorer/tty.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

#include "base/log.h"
#include "base/util.h"
#include "restorer/place.h"
#include "restorer/ttyrole.h"

#define TRY_MAX 4096 /* the kernel's own default limit of pseudo-terminals, kernel.pty.max */

static const Tty *tty_of(const struct robject *o)
{
    return (const Tty *)o->msg;
}

static struct robject *find_pty(const struct restore *r, uint64_t rdev)
{
    for (struct robject *o = r->objects; o; o = o->next)
        if (o->ops && o->ops->kind == KIND_TTY && tty_of(o)->type == TTY_PTY && tty_of(o)->rdev == rdev)
            return o;
    return NULL;
}

/* ---- making them ---- */

/* O_CLOEXEC given to TIOCGPTPEER would stay among the status flags, and fdinfo show it of all descriptors for
 * ever. */
int tty_open_slave(int master, uint32_t flags)
{
    int fd = ioctl(master, TIOCGPTPEER, flags);

    if (fd >= 0)
        fcntl(fd, F_SETFD, FD_CLOEXEC);
    return fd;
}

static int open_master(int *index, struct err *err)
{
    int fd = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC);

    if (fd < 0)
        return err_errno(err, "/dev/ptmx");
    if (ioctl(fd, TIOCGPTN, index) < 0) {
        err_errno(err, "number of a pseudo-terminal");
        close(fd);
        return -err->code;
    }
    return fd;
}

/*
 * The master with the wanted number. Those that come before it are kept until then, or they would come again.
 * When a higher number comes, the wanted one is taken: that one is as good as any.
 */
static int master_with(int wanted, int *got, struct err *err)
{
    _cleanup_free_ int *spare = malloc(TRY_MAX * sizeof(*spare));
    int n = 0, fd = -1;

    while (spare && n < TRY_MAX) {
        fd = open_master(got, err);
        if (fd < 0 || *got >= wanted)
            break;
        spare[n++] = fd;
        fd = -1;
    }
    for (int i = 0; i < n; i++)
        close(spare[i]);
    if (fd < 0 && !err->code)
        err_set(err, spare ? ENOSPC : ENOMEM, "no pseudo-terminal with a number as high as %d can be had",
                wanted);
    return fd < 0 ? -err->code : fd;
}

static void set_node(const Tty *m, int slave)
{
    char path[48];

    /* An ordinary user's terminals are the user's anyway, and no other's can be made. */
    if (fchown(slave, m->uid, m->gid) < 0 && errno != EPERM)
        log_trace("/dev/pts/%u: owner: %s", m->index, strerror(errno));
    snprintf(path, sizeof(path), "/proc/self/fd/%d", slave);
    if (chmod(path, m->mode) < 0)
        log_trace("/dev/pts/%u: mode: %s", m->index, strerror(errno));
}

static int make_pty(struct restore *r, struct robject *o, struct err *err)
{
    const Tty *m = tty_of(o);
    struct rtty *t = restore_alloc(r, sizeof(*t));
    int index = -1, unlocked = 0;

    if (!t)
        return err_set(err, ENOMEM, "out of memory");
    err->code = 0;
    o->priv = t;
    o->fd = master_with(m->type == TTY_HUNG ? 0 : (int)m->index, &index, err);
    if (o->fd < 0)
        return err_wrap(err, "/dev/pts/%u", m->index);
    if (index != (int)m->index && m->type == TTY_PTY)
        restore_note(r, "/dev/pts/%u is taken: that terminal is /dev/pts/%d now", m->index, index);
    if (ioctl(o->fd, TIOCSPTLCK, &unlocked) < 0)
        return err_errno(err, "/dev/pts/%d: unlocking", index);
    t->slave = tty_open_slave(o->fd, O_RDWR | O_NOCTTY);
    if (t->slave < 0)
        return err_errno(err, "/dev/pts/%d", index);
    if (m->winsize.len == sizeof(struct winsize))
        ioctl(o->fd, TIOCSWINSZ, m->winsize.data); /* now, when there is nobody to be told of it */
    if (m->type == TTY_PTY)
        set_node(m, t->slave);
    return 0;
}

static int by_index(const void *a, const void *b)
{
    uint32_t x = tty_of(*(struct robject *const *)a)->index, y = tty_of(*(struct robject *const *)b)->index;

    return x < y ? -1 : x > y;
}

/* In the order of their numbers, so that none takes another's. */
int tty_make_all(struct restore *r, struct err *err)
{
    _cleanup_free_ struct robject **all = NULL;
    size_t n = 0;

    for (struct robject *o = r->objects; o; o = o->next)
        n++;
    all = malloc((n + 1) * sizeof(*all));
    if (!all)
        return err_set(err, ENOMEM, "out of memory");
    n = 0;
    for (struct robject *o = r->objects; o; o = o->next)
        if (o->ops && o->ops->kind == KIND_TTY && tty_of(o)->type == TTY_PTY && !o->priv)
            all[n++] = o;
    qsort(all, n, sizeof(*all), by_index);
    for (size_t i = 0; i < n; i++)
        if (make_pty(r, all[i], err) < 0)
            return -err->code;
    return 0;
}

/* ---- sessions ---- */

/* Send fd to the process and run ioctl(fd, request, arg) there, arg pointing to an int if value is not NULL.
 */
int remote_tty_ioctl(struct rproc *p, int fd, unsigned long request, const int *value, int64_t *ret,
                     struct err *err)
{
    _cleanup_batch_ struct inj_batch b = {0};
    uint32_t call;
    int remote;

    if (inj_send_fds(&p->inj, &fd, &remote, 1, err) < 0 || inj_begin(&b, &p->inj, err) < 0)
        return -err->code;
    call = inj_call(&b, 0, SYS_ioctl, remote, request, value ? inj_data(&b, value, sizeof(*value)) : 0);
    inj_call(&b, 0, SYS_close, remote);
    if (inj_run(&b, err) < 0)
        return -err->code;
    *ret = inj_ret(&b, call);
    return 0;
}

int tty_acquire(struct restore *r, struct rproc *leader, struct err *err)
{
    struct robject *o = leader->process->tty_inside ? find_pty(r, leader->process->tty) : NULL;
    int64_t ret;

    if (!o)
        return leader->process->had_tty ? terminal_acquire(r, leader, err) : 0;
    if (remote_tty_ioctl(leader, ((struct rtty *)o->priv)->slave, TIOCSCTTY, NULL, &ret, err) < 0)
        return -err->code;
    if (inj_failed(ret))
        return err_set(err, (int)-ret, "process %d: taking its controlling terminal: %s", leader->pid,
                       strerror((int)-ret));
    return 0;
}

int tty_foreground(struct restore *r, struct err *err)
{
    for (size_t i = 0; i < r->nprocs; i++) {
        struct rproc *p = &r->procs[i];
        const Process *m = p->process;
        struct robject *o = p->alive && m->tty_inside && m->sid == p->pid ? find_pty(r, m->tty) : NULL;
        int64_t ret;

        if (!o || m->tty_pgrp <= 0)
            continue;
        if (remote_tty_ioctl(p, ((struct rtty *)o->priv)->slave, TIOCSPGRP, &m->tty_pgrp, &ret, err) < 0)
            return -err->code;
        if (inj_failed(ret) && ret != -ESRCH) /* a group whose last process has ended */
            return err_set(err, (int)-ret, "process %d: foreground group %d of its terminal: %s", p->pid,
                           m->tty_pgrp, strerror((int)-ret));
    }
    return terminal_foreground(r, err);
}

/* ---- descriptions ---- */

static int tty_prepare(struct restore *r, struct robject *o, struct err *err)
{
    const Tty *m = tty_of(o);

    if (m->type < TTY_PTY || m->type > TTY_HUNG || m->index > 1u << 20)
        return err_set(err, EINVAL, "a terminal of unknown type");
    return 0;
}

static int tty_rebuild(struct restore *r, struct robject *o, struct err *err)
{
    if (tty_of(o)->type == TTY_OUTSIDE || o->priv)
        return 0;
    return make_pty(r, o, err);
}

/* /dev/tty, by a process that has this terminal as its own: then it is called that again. */
static int open_dev_tty(struct restore *r, const Tty *m, uint32_t flags, int *fd, struct err *err)
{
    *fd = -1;
    for (size_t i = 0; i < r->nprocs && *fd < 0; i++) {
        struct rproc *p = &r->procs[i];
        _cleanup_batch_ struct inj_batch b = {0};
        uint32_t call;

        if (!p->alive || !p->process->tty_inside || p->process->tty != m->rdev)
            continue;
        if (inj_begin(&b, &p->inj, err) < 0)
            return -err->code;
        call = inj_call(&b, 0, SYS_openat, AT_FDCWD, inj_str(&b, "/dev/tty"), flags | O_CLOEXEC);
        if (inj_run(&b, err) < 0)
            return -err->code;
        if (inj_failed(inj_ret(&b, call)))
            continue;
        *fd = inj_get_fd(&p->inj, (int)inj_ret(&b, call), err);
        inj_reset(&b);
        inj_call(&b, 0, SYS_close, inj_ret(&b, call));
        if (*fd < 0 || inj_run(&b, err) < 0)
            return -err->code;
    }
    return 0;
}

static int open_slave(struct restore *r, struct robject *o, struct rofd *d, int *fd, struct err *err)
{
    uint32_t flags = (d->msg->flags & (O_ACCMODE | O_NONBLOCK)) | O_NOCTTY;

    *fd = -1;
    if (d->msg->path.len == 8 && !memcmp(d->msg->path.data, "/dev/tty", 8) &&
        open_dev_tty(r, tty_of(o), flags, fd, err) < 0)
        return -err->code;
    if (*fd < 0)
        *fd = tty_open_slave(o->fd, flags);
    return *fd < 0 ? err_errno(err, "/dev/pts/%u", tty_of(o)->index) : 0;
}

static int tty_open(struct restore *r, struct robject *o, struct rofd *d, int *fd, struct err *err)
{
    if (tty_of(o)->type == TTY_OUTSIDE)
        return terminal_open(r, o, d, fd, err);
    if (d->msg->end != 1)
        return open_slave(r, o, d, fd, err);
    *fd = fcntl(o->fd, F_DUPFD_CLOEXEC, 0); /* a master has one description only, made with it */
    return *fd < 0 ? err_errno(err, "master of /dev/pts/%u", tty_of(o)->index) : 0;
}

static int tty_refill(struct restore *r, struct robject *o, struct err *err)
{
    if (tty_of(o)->type == TTY_OUTSIDE)
        return terminal_place(r, o, err);
    if (tty_fill(o, err) < 0)
        return err_wrap(err, "/dev/pts/%u", tty_of(o)->index);
    if (tty_of(o)->type == TTY_HUNG) { /* hangs up those who have the slave */
        close(o->fd);
        o->fd = -1;
    }
    return 0;
}

static int tty_arm(struct restore *r, struct robject *o, struct err *err)
{
    return tty_of(o)->type == TTY_OUTSIDE ? terminal_arm(r, o, err) : 0;
}

const struct rebuild_ops tty_ops = {
    .kind = KIND_TTY,
    .descriptor = &tty__descriptor,
    .prepare = tty_prepare,
    .rebuild = tty_rebuild,
    .open = tty_open,
    .refill = tty_refill,
    .arm = tty_arm,
};
