/*
 * Terminals outside the tree. dmtcp_restart's own stands in: its standard streams, where they are a terminal,
 * else /dev/tty. What was a standard stream of the program becomes that stream of dmtcp_restart even if it is
 * no terminal, so that `dmtcp_restart … >log` does what it looks like. The mode in which a program had set
 * its terminal (an editor's raw mode) is set on the new one, and whoever draws on it is told to draw anew.
 */
#include <asm/termbits.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/log.h"
#include "base/util.h"
#include "restorer/place.h"
#include "restorer/tty.h"
#include "restorer/ttyrole.h"

static bool is_terminal(int fd)
{
    struct termios2 t;

    return fd >= 0 && ioctl(fd, TCGETS2, &t) == 0;
}

static int own_stream(const struct restore *r)
{
    for (int i = 0; i < 3; i++)
        if (is_terminal(r->options.stdio[i]))
            return r->options.stdio[i];
    return -1;
}

int terminal_own(const struct restore *r)
{
    int fd = own_stream(r);

    return fd >= 0 ? fcntl(fd, F_DUPFD_CLOEXEC, 0) : open("/dev/tty", O_RDWR | O_NOCTTY | O_CLOEXEC);
}

/* A description of its own, so that flags set on it are not dmtcp_restart's; where that is not allowed, a
 * copy. */
static int reopen(int fd, uint32_t flags)
{
    char path[48];
    int other;

    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    other = open(path, (int)(flags & (O_ACCMODE | O_NONBLOCK)) | O_NOCTTY | O_CLOEXEC);
    return other >= 0 ? other : fcntl(fd, F_DUPFD_CLOEXEC, 0);
}

int terminal_open(struct restore *r, struct robject *o, struct rofd *d, int *fd, struct err *err)
{
    const Tty *m = (const Tty *)o->msg;
    _cleanup_close_ int own = terminal_own(r);

    if (own < 0 && m->stream < 3)
        *fd = fcntl(r->options.stdio[m->stream], F_DUPFD_CLOEXEC, 0);
    else if (own < 0)
        return err_set(err, ENOTTY, "%.*s was a terminal, and dmtcp_restart has none", (int)m->path.len,
                       (char *)m->path.data);
    else if (d->msg->path.len == 8 && !memcmp(d->msg->path.data, "/dev/tty", 8))
        *fd = open("/dev/tty", (int)(d->msg->flags & (O_ACCMODE | O_NONBLOCK)) | O_NOCTTY | O_CLOEXEC);
    else
        *fd = -1;
    if (*fd < 0 && own >= 0)
        *fd = reopen(own, d->msg->flags);
    return *fd < 0 ? err_errno(err, "the terminal that stands in") : 0;
}

struct stream {
    const struct restore *r;
    uint32_t number;
};

static bool is_stream(const Fd *f, void *arg)
{
    return f->fd == ((struct stream *)arg)->number;
}

/* Standard streams that dmtcp_restart has somewhere else than on its terminal. */
int terminal_place(struct restore *r, struct robject *o, struct err *err)
{
    for (struct rofd *d = r->ofds; d; d = d->next) {
        if (d->object != o)
            continue;
        for (struct stream s = {r, 0}; s.number < 3; s.number++) {
            int fd = r->options.stdio[s.number];

            if (fd >= 0 && !is_terminal(fd) && place_everywhere(r, d->msg->id, fd, is_stream, &s, err) < 0)
                return -err->code;
        }
    }
    return 0;
}

/* ---- sessions ---- */

#define OUTSIDE_SESSION INT_MAX /* a number that is no process */

static bool leads_with_terminal(const struct rproc *p)
{
    const Process *m = p->process;

    return m->sid == p->pid && m->had_tty && !m->tty_inside && m->state != 1;
}

static void join_outside(struct restore *r, pid_t sid)
{
    for (size_t i = 0; i < r->nprocs; i++)
        if (r->procs[i].process->sid == sid)
            r->procs[i].process->sid = OUTSIDE_SESSION;
}

void terminal_plan(struct restore *r)
{
    _cleanup_close_ int tty = open("/dev/tty", O_RDWR | O_NOCTTY | O_CLOEXEC);
    struct sigaction ignore = {.sa_handler = SIG_IGN}, before;

    for (size_t i = 0; tty >= 0 && i < r->nprocs; i++) {
        if (r->procs[i].parent || !leads_with_terminal(&r->procs[i]))
            continue;
        if (getsid(0) != getpid()) {
            restore_note(r,
                         "process %d led the session of its terminal; here a shell does, and it joins that",
                         r->procs[i].pid);
            join_outside(r, r->procs[i].pid);
            continue;
        }
        sigaction(SIGHUP, &ignore, &before); /* a leader that gives its terminal up hangs up its own group */
        ioctl(tty, TIOCNOTTY);
        sigaction(SIGHUP, &before, NULL);
        return;
    }
}

int terminal_acquire(struct restore *r, struct rproc *leader, struct err *err)
{
    int own = own_stream(r);
    int64_t ret;

    if (own < 0)
        return 0;
    if (remote_tty_ioctl(leader, own, TIOCSCTTY, NULL, &ret, err) < 0)
        return -err->code;
    if (inj_failed(ret))
        restore_note(r, "process %d has no controlling terminal any more: %s", leader->pid,
                     strerror((int)-ret));
    return 0;
}

/* The group that the program had in the foreground, if it is one of the tree's own and not that of
 * dmtcp_restart. */
static const struct rproc *foreground(const struct restore *r)
{
    for (size_t i = 0; i < r->nprocs; i++) {
        const struct rproc *p = &r->procs[i];

        if (p->alive && p->process->had_tty && !p->process->tty_inside &&
            p->process->pgid == p->process->tty_pgrp && restore_proc(r, p->process->pgid))
            return p;
    }
    return NULL;
}

/* By the leader, if it is the tree's session; else by the driver, if dmtcp_restart is in the foreground
 * itself. */
int terminal_foreground(struct restore *r, struct err *err)
{
    const struct rproc *p = foreground(r);
    struct rproc *leader = p ? restore_proc(r, p->process->sid) : NULL;
    int own = own_stream(r), now = -1;
    sigset_t ttou, before;
    int64_t ret;

    if (!p || own < 0)
        return 0;
    if (leader && leader->alive)
        return remote_tty_ioctl(leader, own, TIOCSPGRP, &p->process->pgid, &ret, err);
    if (ioctl(own, TIOCGPGRP, &now) < 0 || now != getpgrp())
        return 0;
    sigemptyset(&ttou);
    sigaddset(&ttou, SIGTTOU);
    sigprocmask(SIG_BLOCK, &ttou, &before);
    if (ioctl(own, TIOCSPGRP, &p->process->pgid) < 0)
        restore_note(r, "group %d cannot be in the foreground: %s", p->process->pgid, strerror(errno));
    sigprocmask(SIG_SETMASK, &before, NULL);
    return 0;
}

/* ---- its mode ---- */

/* Was the tree in the foreground of it? Then its mode is the tree's. */
static bool in_foreground(const struct restore *r, uint64_t rdev, pid_t *group)
{
    for (size_t i = 0; i < r->nprocs; i++) {
        const Process *p = r->procs[i].process;

        if (p->had_tty && !p->tty_inside && p->tty == rdev && p->pgid == p->tty_pgrp) {
            *group = p->pgid;
            return true;
        }
    }
    return false;
}

/* A full-screen program must draw anew on a screen that is not the one it knew; others care for a new size
 * only. */
static void tell(const struct restore *r, pid_t group)
{
    for (size_t i = 0; i < r->nprocs; i++)
        if (r->procs[i].alive && r->procs[i].process->pgid == group)
            syscall(SYS_pidfd_send_signal, r->procs[i].inj.pidfd, SIGWINCH, NULL, 0);
}

int terminal_arm(struct restore *r, struct robject *o, struct err *err)
{
    const Tty *m = (const Tty *)o->msg;
    _cleanup_close_ int own = terminal_own(r);
    struct winsize now = {0};
    struct termios2 t;
    sigset_t ttou, before;
    pid_t group, fg;

    if (own < 0 || m->termios.len != sizeof(t) || !in_foreground(r, m->rdev, &group))
        return 0;
    if (ioctl(own, TIOCGPGRP, &fg) == 0 && fg != group && fg != getpgrp())
        return 0; /* the restart is in the background: the terminal's mode is somebody else's */
    memcpy(&t, m->termios.data, sizeof(t));
    sigemptyset(&ttou);
    sigaddset(&ttou, SIGTTOU);
    sigprocmask(SIG_BLOCK, &ttou, &before);
    if (ioctl(own, TCSETS2, &t) < 0)
        restore_note(r, "the terminal's mode could not be set as it was: %s", strerror(errno));
    sigprocmask(SIG_SETMASK, &before, NULL);
    ioctl(own, TIOCGWINSZ, &now);
    if (!(t.c_lflag & ICANON) || m->winsize.len != sizeof(now) || memcmp(&now, m->winsize.data, sizeof(now)))
        tell(r, group);
    return 0;
}
