/*
 * Internet sockets: what all protocols have in common, and which file knows the protocol of one. A checkpoint's
 * network namespace is the tracer's.
 */
#include "tracer/inet.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>

#include "base/util.h"
#include "tracer/outside.h"

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif

Inet *inet_of(const struct object *o)
{
    return o->ops == &inet_ops ? (Inet *)o->msg : NULL;
}

bool inet_is_tcp(const struct object *o)
{
    const Inet *m = inet_of(o);

    return m && m->socket->type == SOCK_STREAM;
}

static bool inet_probe(const struct fd_info *fi)
{
    return socket_is(fi, AF_INET) || socket_is(fi, AF_INET6);
}

/* Things that a program can add to a socket and that nobody can take over. */
static int refuse(int fd, const Socket *s, struct err *err)
{
    char ulp[16] = "";
    socklen_t n = sizeof(ulp) - 1;

    if (s->protocol == IPPROTO_MPTCP)
        return err_set(err, ENOTSUP, "a Multipath TCP socket, which can't be saved");
    if (s->type == SOCK_STREAM && getsockopt(fd, IPPROTO_TCP, TCP_ULP, ulp, &n) == 0 && ulp[0])
        return err_set(err, ENOTSUP, "TCP with the upper layer \"%s\" in the kernel, which can't be saved", ulp);
    if (s->type == SOCK_STREAM && s->protocol != IPPROTO_TCP)
        return err_set(err, ENOTSUP, "a stream socket of protocol %u", s->protocol);
    if (s->type != SOCK_STREAM && s->type != SOCK_DGRAM && s->type != SOCK_RAW)
        return err_set(err, ENOTSUP, "an internet socket of type %u", s->type);
    return 0;
}

static int inet_collect(struct ckpt *c, const struct fd_info *fi, struct object *o, struct err *err)
{
    struct inet_sock *k = arena_alloc(c->arena, sizeof(*k));
    Inet *m = arena_alloc(c->arena, sizeof(*m));
    _cleanup_close_ int fd = -1;

    if (!k || !m)
        return err_set(err, ENOMEM, "out of memory");
    inet__init(m);
    m->id = o->id;
    o->msg = &m->base;
    o->priv = k;
    k->fi = arena_dup(c->arena, fi, sizeof(*fi));
    if (!k->fi)
        return err_set(err, ENOMEM, "out of memory");
    fd = ckpt_get_fd(fi->proc, fi->fd, err);
    if (fd < 0 || socket_collect(c, fd, &fi->st, &m->socket, err) < 0 || refuse(fd, m->socket, err) < 0)
        return -err->code;
    m->local = socket_name(c, fd, false);
    m->remote = socket_name(c, fd, true);
    inet_end_of(m->local.data, m->local.len, &k->local);
    if (m->remote.len)
        inet_end_of(m->remote.data, m->remote.len, &k->remote);
    return inet_is_tcp(o) ? tcp_collect(c, fd, o, err) : dgram_collect(c, fd, o, err);
}

static int inet_match(struct ckpt *c, struct object *o, struct err *err)
{
    struct inet_sock *k = o->priv;

    return inet_is_tcp(o) && tcp_match(c, o, err) < 0 ? ckpt_fd_err(k->fi, err) : 0;
}

static int inet_settle(struct ckpt *c, struct object *o, struct err *err)
{
    return inet_is_tcp(o) ? tcp_settle(c, err) : 0;
}

static int inet_peek(struct ckpt *c, struct object *o, struct err *err)
{
    struct inet_sock *k = o->priv;
    _cleanup_close_ int fd = ckpt_get_fd(k->fi->proc, k->fi->fd, err);

    if (fd < 0 || (inet_is_tcp(o) ? tcp_peek(c, fd, o, err) : dgram_peek(c, fd, o, err)) < 0)
        return ckpt_fd_err(k->fi, err);
    return 0;
}

static void inet_release(struct ckpt *c, struct object *o)
{
    tcp_keep_release(c, o);
}

const struct kind_ops inet_ops = {
    .kind = KIND_INET,
    .probe = inet_probe,
    .collect = inet_collect,
    .match = inet_match,
    .peek_send = inet_settle,
    .peek_receive = inet_peek,
    .release = inet_release,
};
