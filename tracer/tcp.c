/*
 * TCP: in which state a socket is and who is at the other end: a socket of the checkpoint, one that waits to be
 * accepted there, one that its program has closed, or somebody outside.
 *
 * Connections that wait to be accepted are not listed by any socket. They are found in the table of all sockets: no
 * fd leads to them, and they have not sent anything, so that the time since they did is their age, which gives the
 * order in which accept(2) returns them (to a tick of the kernel's clock).
 */
#include <errno.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/util.h"
#include "tracer/inet.h"
#include "tracer/outside.h"

/* States of a socket that has sent, or got, the end of the stream. */
static bool has_sent_fin(uint32_t state)
{
    return state == TCP_FIN_WAIT1 || state == TCP_FIN_WAIT2 || state == TCP_CLOSING || state == TCP_LAST_ACK;
}

static bool has_got_fin(uint32_t state)
{
    return state == TCP_CLOSE_WAIT || state == TCP_CLOSING || state == TCP_LAST_ACK;
}

/*
 * An error that waits can be seen, but which one only by taking it. A connection that was reset says ECONNRESET,
 * one that never came about ECONNREFUSED: other errors are rare and are reported as the one of these that fits.
 */
static int collect_events(Inet *m, const struct inet_sock *k, int fd, struct err *err)
{
    struct pollfd p = {.fd = fd, .events = POLLRDHUP};

    if (poll(&p, 1, 0) < 0)
        return err_errno(err, "poll");
    if (m->state == TCP_CLOSE && (p.revents & POLLERR))
        m->error = k->tcp.negotiated ? ECONNRESET : ECONNREFUSED;
    else if (p.revents & POLLERR)
        return err_set(err, ENOTSUP, "an error or a message of the error queue waits, which can't be saved");
    /* A connection that is over is told from none by its being shut down. */
    if (m->state == TCP_CLOSE && (p.revents & POLLRDHUP))
        m->sent_fin = m->got_fin = true;
    return 0;
}

int tcp_collect(struct ckpt *c, int fd, struct object *o, struct err *err)
{
    struct inet_sock *k = o->priv;
    Inet *m = inet_of(o);

    if (tcp_state(fd, &k->tcp, err) < 0)
        return -err->code;
    if (k->tcp.state != TCP_LISTEN && ioctl(fd, SIOCOUTQ, &k->outq) < 0)
        return err_errno(err, "SIOCOUTQ");
    m->state = k->tcp.state;
    m->backlog = k->tcp.backlog;
    m->sent_fin = has_sent_fin(m->state);
    m->got_fin = has_got_fin(m->state);
    if (m->state == TCP_SYN_RECV)
        return err_set(err, EAGAIN, "a connection that is just being made");
    return collect_events(m, k, fd, err);
}

static int outside(struct ckpt *c, struct object *o, struct err *err)
{
    struct inet_sock *k = o->priv;
    Inet *m = inet_of(o);
    _cleanup_close_ int fd = -1;
    char text[64];

    if (k->fi->stream >= 0)
        return outside_become(c, o, OUTSIDE_SOCKET, k->fi->stream, k->fi->streams, err);
    m->peer_state = PEER_OUTSIDE;
    m->ext = c->options.ext_tcp == EXT_TCP_RESET ? EXT_RESET : EXT_KEEP;
    if (m->ext == EXT_RESET)
        return 0;
    err_set(err, ENOTSUP, "--ext-tcp=refuse");
    if (c->options.ext_tcp != EXT_TCP_REFUSE) {
        fd = ckpt_get_fd(k->fi->proc, k->fi->fd, err);
        if (fd >= 0 && tcp_keep_allowed(fd, err) == 0)
            return 0;
    }
    return err_wrap(err, "connected to %s outside of the computation, which --ext-tcp=reset would give up",
                    inet_text(&k->remote, text, sizeof(text)));
}

/* The other end is on this host, but no fd leads to it. */
static int ownerless(struct ckpt *c, struct object *o, const struct tcp_table *t, const struct inet_entry *e,
                     struct err *err)
{
    struct inet_sock *k = o->priv;
    Inet *m = inet_of(o);
    struct object *listener;

    if (e->state != TCP_ESTABLISHED && e->state != TCP_CLOSE_WAIT && e->state != TCP_SYN_RECV) {
        m->peer_state = PEER_CLOSED;
        return 0;
    }
    listener = tcp_table_listener(t, &e->local, false);
    if (!listener)
        return outside(c, o, err);
    /* What waits there can't be read before it is accepted. SYN and FIN count as a byte each. */
    if (k->tcp.acked + k->outq > 1u + m->sent_fin)
        return err_set(err, EAGAIN, "has sent data that nobody can read before the connection is accepted");
    m->peer_state = PEER_WAITING;
    return 0;
}

static int find_peer(struct ckpt *c, struct object *o, const struct tcp_table *t, struct err *err)
{
    struct inet_sock *k = o->priv;
    Inet *m = inet_of(o);
    const struct inet_entry *e;

    k->peer = tcp_table_object(t, &k->remote, &k->local);
    if (k->peer) {
        m->peer_state = PEER_OBJECT;
        m->peer = k->peer->id;
        return 0;
    }
    e = tcp_table_entry(t, &k->remote, &k->local);
    if (e && e->ino == 0)
        return ownerless(c, o, t, e, err);
    if (!e && m->got_fin) {
        m->peer_state = PEER_CLOSED;
        return 0;
    }
    return outside(c, o, err);
}

struct waiting {
    struct ckpt *c;
    const struct tcp_table *t;
};

static int one_waiting(void *arg, const struct inet_entry *e, struct err *err)
{
    struct waiting *w = arg;
    struct object *listener = tcp_table_listener(w->t, &e->local, true);
    struct object *client = tcp_table_object(w->t, &e->remote, &e->local);
    struct inet_sock *k = listener ? listener->priv : NULL;
    Inet *m = listener ? inet_of(listener) : NULL;
    uint64_t *more;

    if (!listener)
        return 0;
    k->waiting++;
    if (!client && e->state == TCP_ESTABLISHED)
        return 0; /* of somebody outside, who will be told */
    if (!client && e->rqueue > 1)
        return err_set(err, EAGAIN, "a connection waits to be accepted with data that can't be read before");
    more = arena_alloc(w->c->arena, (m->n_pending + 1) * sizeof(*more));
    if (!more)
        return err_set(err, ENOMEM, "out of memory");
    if (m->n_pending)
        memcpy(more, m->pending, m->n_pending * sizeof(*more));
    more[m->n_pending++] = client ? client->id : 0;
    m->pending = more;
    return 0;
}

/* All that wait, at any listening socket, when the first of them is asked. */
static int find_waiting(struct ckpt *c, const struct tcp_table *t, struct err *err)
{
    struct sockets *s = c->sockets;
    struct waiting w = {c, t};

    if (s->tcp_waiting)
        return 0;
    s->tcp_waiting = true;
    return tcp_table_waiting(t, one_waiting, &w, err);
}

/* getpeername(2) does not say yet where to. */
static int connecting(struct ckpt *c, Inet *m, const struct inet_sock *k, struct err *err)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(k->entry->remote.port)};
    struct sockaddr_in6 b = {.sin6_family = AF_INET6, .sin6_port = a.sin_port};
    bool v4 = m->socket->family == AF_INET;

    memcpy(&a.sin_addr, k->entry->remote.addr + 12, 4);
    memcpy(&b.sin6_addr, k->entry->remote.addr, 16);
    m->remote = arena_bytes(c->arena, v4 ? (void *)&a : (void *)&b, v4 ? sizeof(a) : sizeof(b));
    return m->remote.len ? 0 : err_set(err, ENOMEM, "out of memory");
}

int tcp_match(struct ckpt *c, struct object *o, struct err *err)
{
    struct inet_sock *k = o->priv;
    Inet *m = inet_of(o);
    struct tcp_table *t;

    if (m->state == TCP_CLOSE)
        return 0;
    if (tcp_table_get(c, &t, err) < 0)
        return -err->code;
    k->entry = tcp_table_inode(t, o->ino);
    if (!k->entry)
        return err_set(err, ENOTSUP, "it belongs to another network namespace");
    m->socket->shutdown = k->entry->shutdown & 3;
    if (m->state == TCP_LISTEN)
        return find_waiting(c, t, err);
    if (m->state == TCP_SYN_SENT)
        return connecting(c, m, k, err);
    return find_peer(c, o, t, err);
}
