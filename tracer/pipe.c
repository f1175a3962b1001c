/*
 * Pipes and FIFOs. What waits in one is read without taking it: tee(2) gives a pipe of our own references to
 * the same pages. Whether somebody outside the tree holds an end is told by counting the ends inside: when
 * nobody inside holds one, poll(2) at the other says whether it is closed or somebody else's.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/util.h"
#include "image/pipe.pb-c.h"
#include "tracer/ckpt.h"
#include "tracer/file.h"
#include "tracer/outside.h"

#define END_READ  1u /* Ofd.end */
#define END_WRITE 2u

struct pipe {
    struct fd_info *end[2]; /* some descriptor for reading, for writing */
    uint32_t streams;
    int stream;
    bool packets; /* somebody writes packets */
};

static bool pipe_probe(const struct fd_info *fi)
{
    return S_ISFIFO(fi->st.st_mode) && !(fi->flags & O_PATH);
}

/* The name of a FIFO, and whether it still has it. */
static int locate(struct ckpt *c, const struct fd_info *fi, Pipe *m, struct err *err)
{
    size_t gone = deleted_suffix(fi->link);
    struct stat now;

    m->mode = fi->st.st_mode & 07777;
    m->fifo_path = arena_text(c->arena, fi->link);
    if (!m->fifo_path.data)
        return err_set(err, ENOMEM, "out of memory");
    if (lstat(fi->link, &now) == 0 && now.st_ino == fi->st.st_ino && now.st_dev == fi->st.st_dev)
        return 0;
    if (!gone)
        return err_set(err, ENOTSUP, "its path leads to something else here (another mount namespace?)");
    m->deleted = true;
    m->fifo_path.len = gone;
    m->fifo_path.data[gone] = '\0';
    return 0;
}

static int pipe_collect(struct ckpt *c, const struct fd_info *fi, struct object *o, struct err *err)
{
    Pipe *m = arena_alloc(c->arena, sizeof(*m));
    struct pipe *k = arena_alloc(c->arena, sizeof(*k));
    int size;

    if (!m || !k)
        return err_set(err, ENOMEM, "out of memory");
    pipe__init(m);
    o->msg = &m->base;
    o->priv = k;
    k->stream = -1;
    m->id = o->id;
    m->ino = fi->st.st_ino;
    m->uid = fi->st.st_uid;
    m->gid = fi->st.st_gid;
    _cleanup_close_ int fd = ckpt_get_fd(fi->proc, fi->fd, err);
    if (fd < 0)
        return fd;
    size = fcntl(fd, F_GETPIPE_SZ);
    if (size < 0)
        return err_errno(err, "asking for its size");
    m->size = (uint32_t)size;
    return fi->link[0] == '/' ? locate(c, fi, m, err) : 0;
}

static int pipe_describe(struct ckpt *c, const struct fd_info *fi, struct ofd *d, struct err *err)
{
    struct pipe *k = d->object->priv;
    struct fd_info *copy = arena_dup(c->arena, fi, sizeof(*fi));
    uint32_t mode = fi->flags & O_ACCMODE;

    if (!copy)
        return err_set(err, ENOMEM, "out of memory");
    d->msg->end = mode == O_RDONLY ? END_READ : mode == O_WRONLY ? END_WRITE : END_READ | END_WRITE;
    if (d->msg->end & END_READ)
        k->end[0] = k->end[0] ? k->end[0] : copy;
    if (d->msg->end & END_WRITE) {
        k->end[1] = k->end[1] ? k->end[1] : copy;
        k->packets |= (fi->flags & O_DIRECT) != 0;
    }
    k->streams |= fi->streams;
    if (fi->stream >= 0 && (k->stream < 0 || fi->stream < k->stream))
        k->stream = fi->stream;
    return 0;
}

/* What poll(2) says at one end. */
static int poll_end(const struct fd_info *fi, short *revents, struct err *err)
{
    _cleanup_close_ int fd = ckpt_get_fd(fi->proc, fi->fd, err);
    struct pollfd p = {.fd = fd};

    if (fd < 0)
        return ckpt_fd_err(fi, err);
    if (poll(&p, 1, 0) < 0)
        return err_errno(err, "poll");
    *revents = p.revents;
    return 0;
}

static int pipe_match(struct ckpt *c, struct object *o, struct err *err)
{
    struct pipe *k = o->priv;
    Pipe *m = (Pipe *)o->msg;
    short revents = 0;

    if (k->end[0] && k->end[1])
        return 0;
    if (k->end[0]) {
        if (poll_end(k->end[0], &revents, err) < 0)
            return -err->code;
        if (revents & POLLHUP)
            return 0;
        m->outside = 2;
        m->no_hangup = true;
    } else if (k->end[1]) {
        if (poll_end(k->end[1], &revents, err) < 0)
            return -err->code;
        if (revents & POLLERR)
            return 0;
        m->outside = 1;
    }
    if (m->fifo_path.len)
        return 0; /* its name leads there again */
    return outside_become(c, o, OUTSIDE_PIPE,
                          k->stream >= 0 ? k->stream
                          : k->end[1]    ? 1
                                         : 0,
                          k->streams, err);
}

/* ---- content ---- */

static void close_pair(int (*pair)[2])
{
    for (int i = 0; i < 2; i++)
        if ((*pair)[i] >= 0)
            close((*pair)[i]);
}

static int add_buffer(struct ckpt *c, Pipe *m, const void *data, size_t n, bool packet, struct err *err)
{
    PipeBuffer *b = arena_alloc(c->arena, sizeof(*b));

    if (!b)
        return err_set(err, ENOMEM, "out of memory");
    pipe_buffer__init(b);
    b->data = arena_bytes(c->arena, data, n);
    b->packet = packet;
    if (b->data.len != n)
        return err_set(err, ENOMEM, "out of memory");
    arena_push(c->arena, (void ***)&m->buffers, &m->n_buffers, b);
    return 0;
}

/*
 * Read what is in our own copy. A read ends behind a packet, so one that gives less than there is was ended
 * by one; of the last piece only the writer's mode tells.
 */
static int read_copy(struct ckpt *c, Pipe *m, int fd, size_t total, bool packets, struct err *err)
{
    _cleanup_free_ char *buf = malloc(total);

    if (!buf)
        return err_set(err, ENOMEM, "out of memory");
    while (total) {
        ssize_t n = read(fd, buf, total);
        if (n <= 0)
            return n < 0 ? err_errno(err, "reading a copy of its content")
                         : err_set(err, EIO, "its content ended early");
        total -= (size_t)n;
        if (add_buffer(c, m, buf, (size_t)n, total || packets, err) < 0)
            return -err->code;
    }
    return 0;
}

static int copy_content(struct ckpt *c, const struct fd_info *fi, Pipe *m, bool packets, struct err *err)
{
    __attribute__((cleanup(close_pair))) int own[2] = {-1, -1};
    _cleanup_close_ int fd = ckpt_get_fd(fi->proc, fi->fd, err);
    int waiting = 0;
    ssize_t n;

    if (fd < 0)
        return fd;
    if (ioctl(fd, FIONREAD, &waiting) < 0)
        return err_errno(err, "asking how much is in it");
    if (waiting <= 0)
        return 0;
    if (pipe2(own, O_CLOEXEC | O_NONBLOCK) < 0)
        return err_errno(err, "making a pipe for its content");
    /* As many slots as it has, so that all of it fits. */
    if (fcntl(own[1], F_GETPIPE_SZ) < (int)m->size && fcntl(own[1], F_SETPIPE_SZ, (int)m->size) < 0)
        return err_errno(err, "a pipe as large as it (%u bytes)", m->size);
    n = tee(fd, own[1], (size_t)waiting, SPLICE_F_NONBLOCK);
    if (n != waiting)
        return n < 0 ? err_errno(err, "tee(2)")
                     : err_set(err, EIO, "only %zd of %d bytes could be copied", n, waiting);
    return read_copy(c, m, own[0], (size_t)n, packets, err);
}

static int pipe_peek(struct ckpt *c, struct object *o, struct err *err)
{
    struct pipe *k = o->priv;
    Pipe *m = (Pipe *)o->msg;

    if (!k->end[0])
        return 0;
    if (copy_content(c, k->end[0], m, k->packets, err) < 0)
        return ckpt_fd_err(k->end[0], err);
    return 0;
}

const struct kind_ops pipe_ops = {
    .kind = KIND_PIPE,
    .probe = pipe_probe,
    .collect = pipe_collect,
    .describe = pipe_describe,
    .match = pipe_match,
    .peek_receive = pipe_peek,
};
