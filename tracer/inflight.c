/*
 * Descriptions that are in no descriptor table, because they wait in a socket to be received. Peeking gives the
 * tracer fds of its own for them; those that no process has open are looked at through /proc/self, by a
 * stand-in for the process that has the socket.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>

#include "base/util.h"
#include "tracer/ckpt.h"

#define KCMP_FILE 0 /* enum kcmp_type */

int collect_in_flight(struct ckpt *c, struct err *err)
{
    for (struct object *o = c->objects; o; o = o->next)
        if (o->ops->in_flight && o->ops->in_flight(c, o, err) < 0)
            return -err->code;
    return 0;
}

static struct proc *stand_in(struct ckpt *c, struct proc *holder, struct err *err)
{
    struct proc *p = arena_alloc(c->arena, sizeof(*p));

    if (!p) {
        err_set(err, ENOMEM, "out of memory");
        return NULL;
    }
    *p = (struct proc){.pid = getpid(), .ppid = getppid(), .pidfd = -1, .process = holder->process};
    p->files_proc = p->mm_proc = p;
    p->stands_for = holder->stands_for ? holder->stands_for : holder;
    return p;
}

static int find_known(struct ckpt *c, int fd, const struct stat *st, struct ofd **out, struct err *err)
{
    for (struct ofd *d = c->ofds; d; d = d->next) {
        if (d->st.st_ino != st->st_ino || d->st.st_dev != st->st_dev)
            continue;
        switch (syscall(SYS_kcmp, getpid(), ckpt_fd_task(d->proc), KCMP_FILE, fd, d->fd)) {
        case 0:
            *out = d;
            return 0;
        case -1:
            return err_errno(err, "which descriptors are the same open file cannot be told: kcmp(2)");
        default:
            break;
        }
    }
    return 0;
}

int ckpt_own_ofd(struct ckpt *c, struct proc *holder, int fd, struct ofd **out, bool *keep, struct err *err)
{
    _cleanup_close_ int fd_dir = open("/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    _cleanup_close_ int info_dir = open("/proc/self/fdinfo", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct fd_info fi;
    struct stat st;
    struct proc *p;

    *out = NULL;
    *keep = false;
    if (fstat(fd, &st) < 0 || fd_dir < 0 || info_dir < 0)
        return err_errno(err, "an fd in flight");
    if (find_known(c, fd, &st, out, err) < 0 || *out)
        return *out ? 0 : -err->code;
    p = stand_in(c, holder, err);
    if (!p || ckpt_read_fd(c, p, (int[2]){fd_dir, info_dir}, fd, &fi, err) < 0)
        return -err->code;
    *keep = true;
    if (ckpt_add_ofd(c, &fi, out, err) < 0)
        return err_wrap(err, "in flight: %s", fi.link);
    return 0;
}
