/*
 * pidfds. fdinfo tells the process or thread; one that is not in the tree could be any other program after
 * a restart, so it is refused. A pidfd outlives its process: one that was reaped already is kept with its
 * exit status, where the kernel still tells it (6.15).
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/util.h"
#include "image/pidfd.pb-c.h"
#include "tracer/ckpt.h"

/* linux/pidfd.h, struct pidfd_info of the first version; PIDFD_THREAD is O_EXCL there too. */
struct pidfd_exit_info {
    uint64_t mask, cgroupid;
    uint32_t ids[11];
    int32_t exit_code;
};
#define PIDFD_GET_INFO_V0 _IOWR(0xff, 11, struct pidfd_exit_info)
#define PIDFD_INFO_EXIT   (1u << 3)

static bool pidfd_probe(const struct fd_info *fi)
{
    return !strcmp(fi->link, "anon_inode:[pidfd]") || !strncmp(fi->link, "pidfd:[", 7);
}

static uint32_t exit_status(const struct fd_info *fi)
{
    struct pidfd_exit_info info = {.mask = PIDFD_INFO_EXIT};
    struct err ignored;
    _cleanup_close_ int fd = ckpt_get_fd(fi->proc, fi->fd, &ignored);

    if (fd < 0 || ioctl(fd, PIDFD_GET_INFO_V0, &info) < 0 || !(info.mask & PIDFD_INFO_EXIT))
        return 0;
    return (uint32_t)info.exit_code;
}

static bool has_thread(const struct ckpt *c, pid_t tid)
{
    for (size_t i = 0; i < c->nprocs; i++)
        for (size_t k = 0; k < c->procs[i]->nthreads; k++)
            if (c->procs[i]->threads[k].tid == tid)
                return true;
    return false;
}

static int pidfd_collect(struct ckpt *c, const struct fd_info *fi, struct object *o, struct err *err)
{
    Pidfd *m = arena_alloc(c->arena, sizeof(*m));
    const char *line = strstr(fi->fdinfo, "\nPid:");

    if (!line)
        return err_set(err, EPROTO, "its fdinfo names no process");
    pidfd__init(m);
    m->id = o->id;
    m->thread = fi->flags & O_EXCL;
    m->pid = (int32_t)strtol(line + 5, NULL, 10);
    if (m->pid < 0) {
        m->pid = 0;
        m->exit_status = exit_status(fi);
    } else if (m->pid == 0) {
        return err_set(err, EOPNOTSUPP, "a pidfd of a process in another pid namespace");
    } else if (!ckpt_find_proc(c, m->pid) && !(m->thread && has_thread(c, m->pid))) {
        return err_set(err, EOPNOTSUPP, "a pidfd of process %d, which is not in the computation", m->pid);
    }
    o->msg = &m->base;
    return 0;
}

const struct kind_ops pidfd_ops = {
    .kind = KIND_PIDFD,
    .per_description = true,
    .probe = pidfd_probe,
    .collect = pidfd_collect,
};
