/*
 * Terminals. The two ends of a pseudo-terminal are one object, known by its number in its devpts. If a
 * process of the tree holds the master, the tree is the terminal, and all of it is saved. If not, somebody
 * outside is: a user's terminal, for which dmtcp_restart's own stands in; then only its mode and size are of
 * interest. Which of the two it is shows when all descriptors have been seen (match).
 */
#include "tracer/tty.h"

#include <asm/termbits.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>

#include "base/util.h"

#ifndef TIOCGPTPEER
#define TIOCGPTPEER _IO('T', 0x41)
#endif

#define MAJOR_TTY  4   /* virtual consoles and serial lines */
#define MAJOR_AUX  5   /* /dev/tty, /dev/console, /dev/ptmx */
#define MAJOR_PTS  136 /* to 143 */
#define MINOR_PTMX 2

static bool is_pts(dev_t rdev)
{
    return major(rdev) >= MAJOR_PTS && major(rdev) < MAJOR_PTS + 8;
}

static bool is_master(const struct fd_info *fi)
{
    return fi->st.st_rdev == makedev(MAJOR_AUX, MINOR_PTMX);
}

/* Serial lines of other drivers and hypervisor consoles: Documentation/admin-guide/devices.txt. */
static bool tty_probe(const struct fd_info *fi)
{
    unsigned m = major(fi->st.st_rdev);

    if (!S_ISCHR(fi->st.st_mode) || (fi->flags & O_PATH))
        return false;
    return m == MAJOR_TTY || (m == MAJOR_AUX && minor(fi->st.st_rdev) <= MINOR_PTMX) ||
           is_pts(fi->st.st_rdev) || m == 188 || m == 204 || m == 229;
}

/* The file system and number of a master's slave, whether or not that may be opened. */
static int master_slave(const struct fd_info *fi, struct stat *st, struct err *err)
{
    _cleanup_close_ int fd = ckpt_get_fd(fi->proc, fi->fd, err), slave = -1;

    if (fd < 0)
        return fd;
    slave = ioctl(fd, TIOCGPTPEER, O_PATH | O_CLOEXEC);
    if (slave < 0 || fstat(slave, st) < 0)
        return err_errno(err, "finding its slave");
    return 0;
}

/* /dev/tty and /dev/console stand for another one. The devpts of the process tells which /dev/pts/N is meant.
 */
static int real_device(const struct fd_info *fi, dev_t *rdev, dev_t *dev, struct err *err)
{
    _cleanup_close_ int fd = ckpt_get_fd(fi->proc, fi->fd, err);
    char path[64];
    unsigned number;
    struct stat st;

    if (fd < 0)
        return fd;
    *dev = 0;
    *rdev = fi->st.st_rdev;
    if (ioctl(fd, TIOCGDEV, &number) < 0)
        return errno == EIO || errno == ENOTTY ? 0 : err_errno(err, "finding the terminal that it is");
    *rdev = makedev((number >> 8) & 0xfff, (number & 0xff) | ((number >> 12) & 0xfff00));
    snprintf(path, sizeof(path), "/proc/%d/root/dev/pts/%u", fi->proc->pid, minor(*rdev));
    if (is_pts(*rdev) && stat(path, &st) == 0 && st.st_rdev == *rdev)
        *dev = st.st_dev;
    return 0;
}

static int tty_identify(struct ckpt *c, const struct fd_info *fi, struct object *o, struct err *err)
{
    dev_t rdev = fi->st.st_rdev, dev = 0;
    struct stat st;

    if (is_master(fi)) {
        if (master_slave(fi, &st, err) < 0)
            return -err->code;
        dev = st.st_dev;
        rdev = st.st_rdev;
    } else if (is_pts(rdev)) {
        dev = fi->st.st_dev;
        /* Its name is gone because its master is; the number may belong to another one now. */
        if (fi->st.st_nlink == 0) {
            o->key = "hung";
            o->key_len = 4;
        }
    } else if (real_device(fi, &rdev, &dev, err) < 0) {
        return -err->code;
    }
    o->dev = dev;
    o->ino = rdev;
    return 0;
}

static int tty_collect(struct ckpt *c, const struct fd_info *fi, struct object *o, struct err *err)
{
    struct tty_seen *seen = arena_alloc(c->arena, sizeof(*seen));
    Tty *m = arena_alloc(c->arena, sizeof(*m));

    if (!seen || !m)
        return err_set(err, ENOMEM, "out of memory");
    tty__init(m);
    m->id = o->id;
    m->rdev = o->ino;
    m->index = is_pts(o->ino) ? minor(o->ino) : 0;
    m->stream = 3;
    seen->hung = o->key_len != 0;
    o->msg = &m->base;
    o->priv = seen;
    return 0;
}

static int tty_describe(struct ckpt *c, const struct fd_info *fi, struct ofd *d, struct err *err)
{
    struct tty_seen *seen = d->object->priv;
    Tty *m = (Tty *)d->object->msg;

    if (fi->stream >= 0 && (unsigned)fi->stream < m->stream)
        m->stream = (unsigned)fi->stream;
    if (is_master(fi)) {
        d->msg->end = 1;
        seen->master = fi->proc;
        seen->master_fd = fi->fd;
        seen->master_flags = fi->flags;
        return 0;
    }
    d->msg->end = 2;
    d->msg->path = arena_text(c->arena, fi->link);
    if (!seen->slave) {
        seen->slave = fi->proc;
        seen->slave_fd = fi->fd;
        m->path = d->msg->path;
    }
    return 0;
}

static int get_mode(struct ckpt *c, int fd, Tty *m, struct err *err)
{
    struct termios2 t;
    struct winsize w;

    if (ioctl(fd, TCGETS2, &t) < 0)
        return errno == EIO && m->type == TTY_OUTSIDE ? 0 : err_errno(err, "asking for its mode");
    m->termios = arena_bytes(c->arena, &t, sizeof(t));
    if (ioctl(fd, TIOCGWINSZ, &w) == 0)
        m->winsize = arena_bytes(c->arena, &w, sizeof(w));
    return 0;
}

static int get_slave_state(const struct tty_seen *seen, Tty *m, struct err *err)
{
    _cleanup_close_ int fd = ckpt_get_fd(seen->slave, seen->slave_fd, err);
    int n = 0;

    if (fd < 0)
        return fd;
    if (ioctl(fd, TIOCGETD, &n) == 0 && n != 0)
        return err_set(err, EOPNOTSUPP,
                       "the terminal has line discipline %d; only the usual one can be saved", n);
    m->exclusive = ioctl(fd, TIOCGEXCL, &n) == 0 && n;
    return 0;
}

/* Its processes: who has it as controlling terminal finds it inside. */
static void mark_processes(struct ckpt *c, const Tty *m)
{
    for (size_t i = 0; i < c->nprocs; i++) {
        Process *p = c->procs[i]->process;
        if (p && p->had_tty && is_pts(p->tty) && minor(p->tty) == m->index)
            p->tty_inside = true;
    }
}

static int match_pty(struct ckpt *c, const struct tty_seen *seen, Tty *m, struct err *err)
{
    _cleanup_close_ int fd = ckpt_get_fd(seen->master, seen->master_fd, err), node = -1;
    struct pollfd p = {.fd = fd};
    struct stat st;
    int n = 0;

    if (fd < 0 || get_mode(c, fd, m, err) < 0 || (seen->slave && get_slave_state(seen, m, err) < 0))
        return -err->code;
    m->locked = ioctl(fd, TIOCGPTLCK, &n) == 0 && n;
    m->packet = ioctl(fd, TIOCGPKT, &n) == 0 && n;
    poll(&p, 1, 0);
    m->fresh = !seen->slave && !(p.revents & POLLHUP);
    node = ioctl(fd, TIOCGPTPEER, O_PATH | O_CLOEXEC);
    if (node < 0 || fstat(node, &st) < 0)
        return err_errno(err, "/dev/pts/%u", m->index);
    m->uid = st.st_uid;
    m->gid = st.st_gid;
    m->mode = st.st_mode & 07777;
    mark_processes(c, m);
    return 0;
}

static int match_outside(struct ckpt *c, const struct tty_seen *seen, Tty *m, struct err *err)
{
    _cleanup_close_ int fd = ckpt_get_fd(seen->slave, seen->slave_fd, err);

    return fd < 0 ? fd : get_mode(c, fd, m, err);
}

static int tty_wrap(const struct object *o, const struct tty_seen *seen, struct err *err)
{
    const struct proc *p = seen->master ? seen->master : seen->slave;

    return err_wrap(err, "process %d: fd %d: terminal %u:%u", p->pid,
                    seen->master ? seen->master_fd : seen->slave_fd, major(o->ino), minor(o->ino));
}

static int tty_match(struct ckpt *c, struct object *o, struct err *err)
{
    const struct tty_seen *seen = o->priv;
    Tty *m = (Tty *)o->msg;
    int r = 0;

    m->type = seen->hung ? TTY_HUNG : seen->master ? TTY_PTY : TTY_OUTSIDE;
    if (m->type == TTY_PTY)
        r = match_pty(c, seen, m, err);
    else if (m->type == TTY_OUTSIDE)
        r = match_outside(c, seen, m, err);
    return r < 0 ? tty_wrap(o, seen, err) : 0;
}

static int tty_peek(struct ckpt *c, struct object *o, struct err *err)
{
    const struct tty_seen *seen = o->priv;
    Tty *m = (Tty *)o->msg;

    if (m->type == TTY_PTY && tty_save_queues(c, seen, m, err) < 0)
        return tty_wrap(o, seen, err);
    return 0;
}

const struct kind_ops tty_ops = {
    .kind = KIND_TTY,
    .probe = tty_probe,
    .identify = tty_identify,
    .collect = tty_collect,
    .describe = tty_describe,
    .match = tty_match,
    .peek_send = tty_peek,
};
