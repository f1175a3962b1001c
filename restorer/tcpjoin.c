/*
 * TCP connections both of whose ends are in the images, or whose other end is gone: made again by a real connect
 * and accept between the same addresses. That takes no rights, and leaves to the kernel what both ends must
 * agree on. The server's end is accepted from the socket that listens at its address, or from a temporary one.
 */
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/util.h"
#include "restorer/inet.h"

/* One end of a connection that is to be: an object, or what stands in for it. */
struct side {
    struct rinet *u;             /* NULL: a stand-in */
    uint32_t family;
    ProtobufCBinaryData local, remote;
};

struct acceptor {
    int fd;
    bool own; /* temporary */
};

static struct side side_of(struct rinet *u)
{
    return (struct side){.u = u, .family = u->m->socket->family, .local = u->m->local, .remote = u->m->remote};
}

static struct side other_side(const struct rinet *u)
{
    return (struct side){.family = u->m->socket->family, .local = u->m->remote, .remote = u->m->local};
}

/* Who listens at the address of this end now? */
static struct rinet *listener_of(const struct rsockets *s, const struct side *d)
{
    struct inet_end e;

    inet_end_of(d->local.data, d->local.len, &e);
    for (int any = 0; any < 2; any++)
        for (size_t i = 0; i < s->n_listening; i++) {
            struct rinet *u = s->listening[i];
            if (u->local.port == e.port && u->m->socket->family == d->family &&
                (any ? inet_is_any(&u->local) : inet_same(&u->local, &e)))
                return u;
        }
    return NULL;
}

static uint16_t port_of(const struct side *d)
{
    struct inet_end e;

    inet_end_of(d->local.data, d->local.len, &e);
    return e.port;
}

static int temporary(const struct side *d, struct acceptor *a, struct err *err)
{
    union address addr;
    socklen_t len = inet_address(&d->local, &addr);
    _cleanup_close_ int fd = socket((int)d->family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int one = 1;

    if (fd < 0)
        return err_errno(err, "a socket");
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (inet_bind(fd, &addr, len, err) < 0)
        return -err->code;
    if (listen(fd, 16) < 0)
        return err_errno(err, "listen");
    *a = (struct acceptor){take_fd(&fd), true};
    return 0;
}

/* Somebody outside can be quicker to connect to a port that is open again: he is turned away. */
static int accept_from(const struct acceptor *a, const ProtobufCBinaryData *client, struct err *err)
{
    struct inet_end want, got;
    char text[64];

    inet_end_of(client->data, client->len, &want);
    for (;;) {
        struct pollfd p = {.fd = a->fd, .events = POLLIN};
        union address from;
        socklen_t n = sizeof(from);
        int fd;
        if (poll(&p, 1, 10000) <= 0)
            return err_set(err, ETIMEDOUT, "a connection of the images does not arrive");
        fd = accept4(a->fd, &from.sa, &n, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0 && (errno == EAGAIN || errno == ECONNABORTED || errno == EINTR))
            continue;
        if (fd < 0)
            return err_errno(err, "accept");
        if (inet_end_of(&from, n, &got) && inet_same(&got, &want))
            return fd;
        log_note("a connection from %s came during the restart and was closed", inet_text(&got, text, sizeof(text)));
        close(fd);
    }
}

static int new_client(const struct side *d, struct err *err)
{
    int fd;

    if (d->u)
        return socket_make(d->u->m->socket, err);
    fd = socket((int)d->family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    return fd < 0 ? err_errno(err, "a socket") : fd;
}

static void settle(const struct side *d, const struct side *other, int fd)
{
    if (d->u) {
        d->u->fd = fd;
        d->u->joined = true;
    } else {
        other->u->temp = fd;
    }
}

static int join(const struct rsockets *s, const struct side *client, const struct side *server, struct err *err)
{
    const struct rinet *l = listener_of(s, server);
    struct acceptor a = {l ? l->fd : -1, false};
    _cleanup_close_ int fd = -1;
    int accepted;

    if (!l && temporary(server, &a, err) < 0)
        return -err->code;
    fd = new_client(client, err);
    accepted = fd < 0 || inet_connect(fd, &client->local, &client->remote, true, err) < 0
                   ? -err->code : accept_from(&a, &client->local, err);
    if (a.own)
        close(a.fd);
    if (accepted < 0)
        return accepted;
    settle(client, server, take_fd(&fd));
    settle(server, client, accepted);
    return server->u ? socket_early(accepted, server->u->m->socket, err) : 0;
}

static bool has_reuse(const struct rinet *u)
{
    for (size_t i = 0; u && i < u->m->socket->n_options; i++)
        if (u->m->socket->options[i]->level == SOL_SOCKET && u->m->socket->options[i]->name == SO_REUSEADDR)
            return true;
    return false;
}

/*
 * Which end was the server? It does not show in the sockets. Where somebody listens he is; else servers mostly have
 * SO_REUSEADDR, and a port that was asked for. It matters when what remains of other connections keeps the port: a
 * client's can be had all the same.
 */
static int like_server(const struct rsockets *s, const struct side *d)
{
    return (listener_of(s, d) ? 8 : 0) + (has_reuse(d->u) ? 4 : 0) + inet_looks_bound(port_of(d));
}

static int join_pair(const struct rsockets *s, const struct side *a, const struct side *b, struct err *err)
{
    int like = like_server(s, a) - like_server(s, b);
    bool a_serves = like ? like > 0 : port_of(a) < port_of(b);

    return a_serves ? join(s, b, a, err) : join(s, a, b, err);
}

/* Connected to itself: both SYNs cross. */
static int join_self(struct rinet *u, struct err *err)
{
    u->fd = socket_make(u->m->socket, err);
    u->joined = true;
    return u->fd < 0 ? -err->code : inet_connect(u->fd, &u->m->local, &u->m->remote, true, err);
}

/* ---- connections that are over ---- */

/* An address of the loopback interface, any port, of the family. */
static ProtobufCBinaryData loopback(const struct rinet *u, union address *a)
{
    static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
    bool v4 = !memcmp(u->local.addr, mapped, 12);

    memset(a, 0, sizeof(*a));
    a->sa.sa_family = (sa_family_t)u->m->socket->family;
    if (u->m->socket->family == AF_INET) {
        a->v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        return (ProtobufCBinaryData){sizeof(a->v4), (uint8_t *)a};
    }
    a->v6.sin6_addr = in6addr_loopback;
    if (v4)
        memcpy(&a->v6.sin6_addr, (uint8_t[16]){[10] = 0xff, [11] = 0xff, 127, 0, 0, 1}, 16);
    return (ProtobufCBinaryData){sizeof(a->v6), (uint8_t *)a};
}

static int own_address(int fd, ProtobufCBinaryData *b, union address *a, struct err *err)
{
    socklen_t n = sizeof(*a);

    if (getsockname(fd, &a->sa, &n) < 0)
        return err_errno(err, "getsockname");
    *b = (ProtobufCBinaryData){n, (uint8_t *)a};
    return 0;
}

/*
 * A socket whose connection has ended: connected to a stand-in, which sends what was not read yet and ends it the
 * same way. It keeps its address if that is to be had.
 */
static int join_ended(struct rinet *u, struct err *err)
{
    union address to_addr, from_addr, none_addr = {.sa.sa_family = (sa_family_t)u->m->socket->family};
    ProtobufCBinaryData to = loopback(u, &to_addr), from = {0}, none = {to.len, (uint8_t *)&none_addr};
    struct side d = {.family = u->m->socket->family, .local = to};
    struct acceptor a = {-1, true};
    _cleanup_close_ int listener = -1;
    int one = 1;

    u->joined = true;
    if (temporary(&d, &a, err) < 0)
        return -err->code;
    listener = a.fd;
    if (own_address(listener, &to, &to_addr, err) < 0)
        return -err->code;
    u->fd = socket_make(u->m->socket, err);
    if (u->fd < 0)
        return -err->code;
    if (u->m->error == ECONNREFUSED) {
        close(take_fd(&listener));
        return inet_connect(u->fd, &none, &to, false, err);
    }
    setsockopt(u->fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (u->local.port) {
        union address mine;
        socklen_t len = inet_address(&u->m->local, &mine);
        if (bind(u->fd, &mine.sa, len) < 0)
            log_trace("an ended connection's port %u is not free", u->local.port);
    }
    if (inet_connect(u->fd, &none, &to, true, err) < 0 || own_address(u->fd, &from, &from_addr, err) < 0)
        return -err->code;
    u->temp = accept_from(&a, &from, err);
    return u->temp < 0 ? -err->code : 0;
}

/* ---- all ---- */

static int join_one(struct rsockets *s, struct rinet *u, struct err *err)
{
    struct side mine = side_of(u), theirs;

    if (u->joined || u->m->state == TCP_LISTEN || u->m->state == TCP_SYN_SENT || u->m->peer_state == PEER_WAITING)
        return 0;
    if (u->m->state == TCP_CLOSE)
        return u->m->got_fin ? join_ended(u, err) : 0;
    if (u->m->peer_state == PEER_OUTSIDE)
        return inet_keeps(s->r, u->m) ? tcp_keep(s, u, err) : join_ended(u, err);
    if (!u->m->remote.len || (u->m->peer_state != PEER_OBJECT && u->m->peer_state != PEER_CLOSED))
        return err_set(err, EINVAL, "a connection with nobody");
    if (u->peer == u)
        return join_self(u, err);
    theirs = u->peer ? side_of(u->peer) : other_side(u);
    return join_pair(s, &mine, &theirs, err);
}

int tcp_join(struct rsockets *s, struct err *err)
{
    int r = 0;

    s->listening = calloc(s->n_inets + 1, sizeof(*s->listening));
    if (!s->listening)
        return err_set(err, ENOMEM, "out of memory");
    for (size_t i = 0; i < s->n_inets; i++)
        if (s->inets[i]->listening)
            s->listening[s->n_listening++] = s->inets[i];
    for (size_t i = 0; r == 0 && i < s->n_inets; i++)
        if (rinet_is_tcp(s->inets[i]))
            r = join_one(s, s->inets[i], err);
    free(s->listening);
    s->listening = NULL;
    return r;
}
