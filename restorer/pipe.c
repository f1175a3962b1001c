/*
 * Pipes and FIFOs. A pipe is made and filled when the first process is to get an end; further descriptions of an end
 * are opened through /proc/self/fd. A FIFO is opened by its name; to keep
 * open(2) from waiting for the other end, and the content from getting lost, the driver has both ends open
 * until the programs run.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include "base/log.h"
#include "base/util.h"
#include "image/pipe.pb-c.h"
#include "restorer/fd.h"

#define LARGE_FILE 0100000u /* the kernel's O_LARGEFILE, which the headers hide */

struct rpipe {
    char *path;      /* FIFO; NULL: a pipe */
    int read, write; /* the driver's ends */
    bool read_taken, write_taken;
};

static const Pipe *pipe_of(const struct robject *o)
{
    return (const Pipe *)o->msg;
}

static bool is_fifo(int fd)
{
    struct stat st;

    return fstat(fd, &st) == 0 && S_ISFIFO(st.st_mode);
}

static int pipe_prepare(struct restore *r, struct robject *o, struct err *err)
{
    const Pipe *m = pipe_of(o);
    struct rpipe *k = restore_alloc(r, sizeof(*k));

    if (!k)
        return err_set(err, ENOMEM, "out of memory");
    o->priv = k;
    k->read = k->write = -1;
    if (!m->fifo_path.len)
        return 0;
    if (memchr(m->fifo_path.data, '\0', m->fifo_path.len) || m->fifo_path.data[0] != '/' ||
        m->fifo_path.len >= PATH_MAX)
        return err_set(err, EINVAL, "a path that cannot be one");
    k->path = restore_text(r, &m->fifo_path);
    if (!k->path)
        return err_set(err, ENOMEM, "out of memory");
    if (m->deleted)
        return 0;
    o->fd = open(k->path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (o->fd < 0)
        return err_errno(err, "%s", k->path);
    return is_fifo(o->fd) ? 0 : err_set(err, ESTALE, "%s is not a FIFO any more", k->path);
}

/* ---- making ---- */

/* A FIFO that has lost its name: made under it again if that is free. */
static int nameless_fifo(struct restore *r, struct robject *o, const char *path, struct err *err)
{
    const Pipe *m = pipe_of(o);
    _cleanup_free_ char *dir = NULL, *other = NULL;
    const char *made = NULL;

    if (mkfifo(path, 0600) == 0) {
        made = path;
    } else {
        dir = format("%s/dmtcp-XXXXXX", r->options.tmpdir ? r->options.tmpdir : "/tmp");
        if (!dir || !mkdtemp(dir) || !(other = format("%s/fifo", dir)) || mkfifo(other, 0600) < 0)
            return err_errno(err, "a FIFO in the place of %s", path);
        made = other;
    }
    o->fd = open(made, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (o->fd >= 0 && chown(made, m->uid, m->gid) == 0)
        chmod(made, m->mode & 07777);
    unlink(made);
    if (other)
        rmdir(dir);
    return o->fd < 0 ? err_errno(err, "a FIFO in the place of %s", path) : 0;
}

/* Both ends at once never wait. Nothing is kept open of one whose reader has not seen a writer yet: it must
 * not now. */
static int open_fifo(struct robject *o, struct rpipe *k, struct err *err)
{
    if (pipe_of(o)->no_hangup && !pipe_of(o)->n_buffers)
        return 0;
    k->write = reopen(o->fd, O_RDWR | O_NONBLOCK);
    k->read = k->write < 0 ? k->write : reopen(o->fd, O_RDONLY | O_NONBLOCK);
    if (k->read < 0)
        return err_set(err, -k->read, "%s: %s", k->path, strerror(-k->read));
    return 0;
}

static int put_buffers(const Pipe *m, int fd, struct err *err)
{
    int flags = O_NONBLOCK;

    for (size_t i = 0; i < m->n_buffers; i++) {
        const PipeBuffer *b = m->buffers[i];
        int want = O_NONBLOCK | (b->packet ? O_DIRECT : 0);

        if (want != flags && fcntl(fd, F_SETFL, want) < 0)
            return err_errno(err, "packet mode");
        flags = want;
        if (b->data.len && write(fd, b->data.data, b->data.len) != (ssize_t)b->data.len)
            return err_set(err, ENOSPC, "what waits in it does not fit");
    }
    return 0;
}

static int fill_pipe(const struct robject *o, const struct rpipe *k, struct err *err)
{
    const Pipe *m = pipe_of(o);
    int waiting = 0;

    if (k->write < 0)
        return 0;
    if (m->size && m->size <= INT_MAX && fcntl(k->write, F_GETPIPE_SZ) != (int)m->size &&
        fcntl(k->write, F_SETPIPE_SZ, (int)m->size) < 0)
        return err_errno(err, "a size of %u bytes", m->size);
    if (k->path && ioctl(k->write, FIONREAD, &waiting) == 0 && waiting > 0) {
        log_note("%s is not empty: what waited in it at the checkpoint is not put there again", k->path);
        return 0;
    }
    return put_buffers(m, k->write, err);
}

static int pipe_rebuild(struct restore *r, struct robject *o, struct err *err)
{
    struct rpipe *k = o->priv;

    if (k->path) {
        if (o->fd < 0 && nameless_fifo(r, o, k->path, err) < 0)
            return -err->code;
        if (open_fifo(o, k, err) < 0)
            return -err->code;
        return fill_pipe(o, k, err) < 0 ? err_wrap(err, "%s", k->path) : 0;
    }
    return 0; /* when it is opened: there may be many */
}

static int make_pipe(struct robject *o, struct rpipe *k, struct err *err)
{
    int pair[2];

    if (pipe2(pair, O_CLOEXEC | O_NONBLOCK) < 0)
        return err_errno(err, "pipe");
    o->fd = k->read = pair[0];
    k->write = pair[1];
    return fill_pipe(o, k, err);
}

/*
 * The first description of each end is the one that pipe2(2) made; what was opened through /proc says O_LARGEFILE, as
 * further ones do.
 */
static int open_end(const struct robject *o, struct rpipe *k, uint32_t flags, bool by_path)
{
    uint32_t mode = flags & (O_ACCMODE | LARGE_FILE);
    int fd;

    if (by_path || ((mode != O_RDONLY || k->read_taken) && (mode != O_WRONLY || k->write_taken)))
        return reopen(o->fd, flags | O_NONBLOCK);
    fd = fcntl(mode == O_RDONLY ? k->read : k->write, F_DUPFD_CLOEXEC, 3);
    *(mode == O_RDONLY ? &k->read_taken : &k->write_taken) = true;
    return fd < 0 ? -errno : fd;
}

static void drop_ends(struct robject *o, struct rpipe *k)
{
    if (k->read >= 0)
        close(k->read);
    if (k->write >= 0)
        close(k->write);
    o->fd = k->read = k->write = -1;
}

/* Packet mode cannot be asked for in open(2); the core sets it with the other flags. */
static int pipe_open(struct restore *r, struct robject *o, struct rofd *d, int *fd, struct err *err)
{
    struct rpipe *k = o->priv;
    uint32_t flags = open_flags(d->msg) & ~(uint32_t)(O_DIRECT | O_PATH);

    (void)r;
    if (!k->path && o->fd < 0 && make_pipe(o, k, err) < 0)
        return -err->code;
    *fd = k->path ? reopen(o->fd, flags | O_NONBLOCK) : open_end(o, k, flags, d->msg->flags & O_PATH);
    if (!k->path && !o->unopened)
        drop_ends(o, k);
    if (*fd < 0)
        return err_set(err, -*fd, "%s: %s", k->path ? k->path : "a pipe's end", strerror(-*fd));
    return 0;
}

const struct rebuild_ops pipe_ops = {
    .kind = KIND_PIPE,
    .descriptor = &pipe__descriptor,
    .prepare = pipe_prepare,
    .rebuild = pipe_rebuild,
    .open = pipe_open,
    .passing = true,
};
