/*
 * Sockets of every family: how the tracer gets hold of one, and what all have in common.
 */
#include "tracer/socket.h"

#include <errno.h>
#include <linux/filter.h>
#include <string.h>

#include "base/sockbuf.h"
#include "base/util.h"

struct sockets *sockets_of(struct ckpt *c, struct err *err)
{
    if (!c->sockets)
        c->sockets = arena_alloc(c->arena, sizeof(struct sockets));
    if (!c->sockets)
        err_set(err, ENOMEM, "out of memory");
    return c->sockets;
}

int sockopt_int(int fd, int level, int name, int missing)
{
    int v = 0;
    socklen_t n = sizeof(v);

    return getsockopt(fd, level, name, &v, &n) < 0 ? missing : v;
}

bool socket_is(const struct fd_info *fi, int family)
{
    struct err err;
    _cleanup_close_ int fd = -1;

    if (!S_ISSOCK(fi->st.st_mode) || strncmp(fi->link, "socket:[", 8) != 0)
        return false;
    fd = ckpt_get_fd(fi->proc, fi->fd, &err);
    return fd >= 0 && sockopt_int(fd, SOL_SOCKET, SO_DOMAIN, -1) == family;
}

ProtobufCBinaryData socket_name(struct ckpt *c, int fd, bool peer)
{
    struct sockaddr_storage a;
    socklen_t n = sizeof(a);
    int r = peer ? getpeername(fd, (void *)&a, &n) : getsockname(fd, (void *)&a, &n);

    if (r < 0 || n > sizeof(a))
        return (ProtobufCBinaryData){0};
    return arena_bytes(c->arena, &a, n);
}

/* A classic filter; the kernel counts in instructions here. What was attached as eBPF can't be read back. */
static int collect_filter(struct ckpt *c, int fd, Socket *m, struct err *err)
{
    socklen_t n = 0;
    struct sock_filter *f;

    if (getsockopt(fd, SOL_SOCKET, SO_GET_FILTER, NULL, &n) < 0) {
        if (errno == EACCES)
            return err_set(err, ENOTSUP, "has an eBPF filter, which can't be saved");
        return err_errno(err, "reading the filter");
    }
    if (n == 0)
        return 0;
    f = arena_alloc(c->arena, n * sizeof(*f));
    if (!f)
        return err_set(err, ENOMEM, "out of memory");
    if (getsockopt(fd, SOL_SOCKET, SO_GET_FILTER, f, &n) < 0)
        return err_errno(err, "reading the filter");
    m->filter = (ProtobufCBinaryData){n * sizeof(*f), (void *)f};
    return 0;
}

int socket_collect(struct ckpt *c, int fd, const struct stat *st, Socket **out, struct err *err)
{
    Socket *m = arena_alloc(c->arena, sizeof(*m));

    if (!m)
        return err_set(err, ENOMEM, "out of memory");
    socket__init(m);
    m->family = (uint32_t)sockopt_int(fd, SOL_SOCKET, SO_DOMAIN, 0);
    m->type = (uint32_t)sockopt_int(fd, SOL_SOCKET, SO_TYPE, 0);
    m->protocol = (uint32_t)sockopt_int(fd, SOL_SOCKET, SO_PROTOCOL, 0);
    m->sndbuf = (uint32_t)sockopt_int(fd, SOL_SOCKET, SO_SNDBUF, 0);
    m->rcvbuf = (uint32_t)sockopt_int(fd, SOL_SOCKET, SO_RCVBUF, 0);
    m->buf_lock = (uint32_t)sockopt_int(fd, SOL_SOCKET, SO_BUF_LOCK, 3);
    m->ino = st->st_ino;
    m->uid = st->st_uid;
    m->gid = st->st_gid;
    *out = m;
    if (collect_filter(c, fd, m, err) < 0)
        return -err->code;
    return sockopt_collect(c, fd, m, err);
}
