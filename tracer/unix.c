/*
 * AF_UNIX sockets: what one is, who is at its other end, and what waits in it. Everything is asked of the
 * tracer's own copy of the fd, or of sock_diag(7); the processes do nothing.
 *
 * A connection that nobody has accepted yet has an end that no fd leads to. What was written to it can't be
 * looked at (unixpending.c deals with that).
 */
#include "tracer/unix.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/sockios.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/un.h>

#include "base/util.h"
#include "tracer/outside.h"
#include "tracer/peek.h"
#include "tracer/sockdiag.h"
#include "tracer/socket.h"

static Unix *unix_of(const struct object *o)
{
    return (Unix *)o->msg;
}

static bool unix_probe(const struct fd_info *fi)
{
    return socket_is(fi, AF_UNIX);
}

/* ---- what it is ---- */

static ProtobufCBinaryData unix_name(struct ckpt *c, int fd, bool peer)
{
    ProtobufCBinaryData a = socket_name(c, fd, peer);
    size_t skip = offsetof(struct sockaddr_un, sun_path);

    if (a.len <= skip)
        return (ProtobufCBinaryData){0};
    return (ProtobufCBinaryData){a.len - skip, a.data + skip};
}

static SockCred *peer_cred(struct ckpt *c, int fd)
{
    struct ucred u;
    socklen_t n = sizeof(u);
    SockCred *m;

    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &u, &n) < 0 || u.pid == 0)
        return NULL;
    m = arena_alloc(c->arena, sizeof(*m));
    if (!m)
        return NULL;
    sock_cred__init(m);
    m->pid = u.pid;
    m->uid = u.uid;
    m->gid = u.gid;
    return m;
}

/* Type and states in the words of the record. */
static int collect_state(struct object *o, const struct unix_diag *d, struct err *err)
{
    Unix *m = unix_of(o);

    m->socket->shutdown = d->shutdown & 3;
    m->state = d->state == TCP_LISTEN ? UNIX_LISTENING : d->has_peer ? UNIX_CONNECTED : UNIX_IDLE;
    if (d->state == TCP_LISTEN)
        m->backlog = d->wqueue;
    if (m->socket->type != SOCK_STREAM && m->socket->type != SOCK_DGRAM && m->socket->type != SOCK_SEQPACKET)
        return err_set(err, ENOTSUP, "a unix socket of type %u", m->socket->type);
    return 0;
}

/* What poll(2) says: an error that waits can be seen, but which it is only by taking it. */
static int collect_events(Unix *m, int fd, struct err *err)
{
    struct pollfd p = {.fd = fd, .events = POLLPRI};

    if (poll(&p, 1, 0) < 0)
        return err_errno(err, "poll");
    if (p.revents & POLLPRI && m->socket->type == SOCK_STREAM && m->state == UNIX_CONNECTED)
        return err_set(err, ENOTSUP, "urgent data (MSG_OOB) waits in it, which can't be saved yet");
    if (p.revents & POLLERR) {
        if (m->socket->type == SOCK_DGRAM)
            return err_set(err, ENOTSUP, "an error waits to be reported, which can't be saved");
        m->reset = true; /* the only one there is: ECONNRESET, the peer went away without reading all */
    }
    return 0;
}

static int unix_collect(struct ckpt *c, const struct fd_info *fi, struct object *o, struct err *err)
{
    struct unix_sock *k = arena_alloc(c->arena, sizeof(*k));
    Unix *m = arena_alloc(c->arena, sizeof(*m));
    struct unix_table *t;
    _cleanup_close_ int fd = -1;

    if (!k || !m)
        return err_set(err, ENOMEM, "out of memory");
    unix__init(m);
    m->id = o->id;
    o->msg = &m->base;
    o->priv = k;
    k->fi = arena_dup(c->arena, fi, sizeof(*fi));
    if (!k->fi)
        return err_set(err, ENOMEM, "out of memory");
    fd = ckpt_get_fd(fi->proc, fi->fd, err);
    if (fd < 0 || unix_table_get(c, &t, err) < 0)
        return -err->code;
    k->diag = unix_table_find(t, fi->st.st_ino);
    if (!k->diag)
        return err_set(err, ENOTSUP, "it belongs to another network namespace");
    if (socket_collect(c, fd, &fi->st, &m->socket, err) < 0 || collect_state(o, k->diag, err) < 0 ||
        collect_events(m, fd, err) < 0)
        return -err->code;
    m->name = unix_name(c, fd, false);
    m->peer_name = unix_name(c, fd, true);
    m->peer_cred = peer_cred(c, fd);
    return unix_locate(c, fd, o, err);
}

/* ---- what waits in it ---- */

struct queue {
    struct ckpt *c;
    struct object *o;
};

static int keep_open(struct ckpt *c, struct unix_sock *k, int fd, struct err *err)
{
    struct kept *f = arena_alloc(c->arena, sizeof(*f));

    if (!f)
        return err_set(err, ENOMEM, "out of memory");
    *f = (struct kept){.fd = fd, .next = k->kept};
    k->kept = f;
    return 0;
}

static int take_fds(struct queue *q, UnixMessage *u, struct peeked *p, struct err *err)
{
    struct unix_sock *k = q->o->priv;

    u->ofds = arena_alloc(q->c->arena, (p->nfds + 1) * sizeof(*u->ofds));
    if (!u->ofds)
        return err_set(err, ENOMEM, "out of memory");
    for (uint32_t i = 0; i < p->nfds; i++) {
        struct ofd *d;
        bool keep;
        if (ckpt_own_ofd(q->c, q->o->proc, p->fds[i], &d, &keep, err) < 0)
            return -err->code;
        u->ofds[u->n_ofds++] = d->msg->id;
        if (!keep)
            continue;
        if (keep_open(q->c, k, p->fds[i], err) < 0)
            return -err->code;
        p->fds[i] = -1;
    }
    return 0;
}

static int take_message(void *arg, struct peeked *p, struct err *err)
{
    struct queue *q = arg;
    Unix *m = unix_of(q->o);
    UnixMessage *u = arena_alloc(q->c->arena, sizeof(*u));
    size_t skip = offsetof(struct sockaddr_un, sun_path);

    if (!u)
        return err_set(err, ENOMEM, "out of memory");
    unix_message__init(u);
    u->data = arena_bytes(q->c->arena, p->data, p->len);
    if (p->from_len > skip && m->socket->type != SOCK_STREAM)
        u->sender = arena_bytes(q->c->arena, (char *)&p->from + skip, p->from_len - skip);
    if (u->data.len != p->len)
        return err_set(err, ENOMEM, "out of memory");
    if (p->has_cred && p->cred.pid) {
        u->cred = arena_alloc(q->c->arena, sizeof(*u->cred));
        if (!u->cred)
            return err_set(err, ENOMEM, "out of memory");
        sock_cred__init(u->cred);
        u->cred->pid = p->cred.pid;
        u->cred->uid = p->cred.uid;
        u->cred->gid = p->cred.gid;
    }
    arena_push(q->c->arena, (void ***)&m->queue, &m->n_queue, u);
    return p->nfds ? take_fds(q, u, p, err) : 0;
}

static int unix_in_flight(struct ckpt *c, struct object *o, struct err *err)
{
    struct unix_sock *k = o->priv;
    Unix *m = unix_of(o);
    bool stream = m->socket->type == SOCK_STREAM;
    struct queue q = {c, o};
    _cleanup_close_ int fd = -1;

    if (m->state == UNIX_LISTENING || (m->state == UNIX_IDLE && m->socket->type != SOCK_DGRAM))
        return 0;
    if (stream && k->diag->rqueue == 0)
        return 0;
    fd = ckpt_get_fd(k->fi->proc, k->fi->fd, err);
    if (fd < 0 || peek_messages(fd, stream, take_message, &q, err) < 0)
        return ckpt_fd_err(k->fi, err);
    return 0;
}

/* ---- who is at the other end ---- */

static struct object *by_ino(struct ckpt *c, const struct object *o, uint32_t ino)
{
    return ino ? ckpt_find_object(c, &unix_ops, o->dev, ino, NULL, 0) : NULL;
}

static int outside_peer(struct ckpt *c, struct object *o, struct err *err)
{
    struct unix_sock *k = o->priv;
    Unix *m = unix_of(o);
    const char *name = m->peer_name.len && m->peer_name.data[0] ? (const char *)m->peer_name.data : NULL;

    if (m->socket->type == SOCK_DGRAM && m->peer_name.len) {
        m->peer_state = PEER_OUTSIDE;
        return 0;
    }
    if (k->fi->stream >= 0)
        return outside_become(c, o, OUTSIDE_SOCKET, k->fi->stream, k->fi->streams, err);
    if (name)
        err_set(err, ENOTSUP, "connected to \"%.108s\" outside of the computation", name);
    else
        err_set(err, ENOTSUP, "connected to a process outside of the computation");
    return ckpt_fd_err(k->fi, err);
}

static int match_listener(struct ckpt *c, struct object *o, const struct unix_table *t, struct err *err)
{
    struct unix_sock *k = o->priv;
    Unix *m = unix_of(o);

    for (uint32_t i = 0; i < k->diag->npending; i++) {
        UnixPending *p = arena_alloc(c->arena, sizeof(*p));
        const struct unix_diag *d = unix_table_find(t, k->diag->pending[i]);
        struct object *client = by_ino(c, o, k->diag->pending[i]);
        if (!p)
            return err_set(err, ENOMEM, "out of memory");
        if (!client || !d || d->wqueue) {
            err_set(err, EAGAIN, "a connection waits to be accepted %s",
                    client ? "and has data in it, which can't be read before"
                           : "whose other end is closed or outside of the computation");
            return ckpt_fd_err(k->fi, err);
        }
        unix_pending__init(p);
        p->client = client->id;
        arena_push(c->arena, (void ***)&m->pending, &m->n_pending, p);
    }
    return 0;
}

static int match_peer(struct ckpt *c, struct object *o, const struct unix_table *t, struct err *err)
{
    struct unix_sock *k = o->priv;
    Unix *m = unix_of(o);
    uint32_t listener = k->diag->peer ? 0 : unix_table_listener(t, o->ino);
    struct object *peer = by_ino(c, o, listener ? listener : k->diag->peer);

    if (!k->diag->peer && !listener) {
        m->peer_state = PEER_CLOSED;
        return 0;
    }
    if (!peer || peer->ops != &unix_ops)
        return outside_peer(c, o, err);
    m->peer_state = listener ? PEER_WAITING : PEER_OBJECT;
    m->peer = peer->id;
    return 0;
}

static int unix_match(struct ckpt *c, struct object *o, struct err *err)
{
    struct unix_table *t;

    if (unix_table_get(c, &t, err) < 0)
        return -err->code;
    switch (unix_of(o)->state) {
    case 2:
        return match_listener(c, o, t, err);
    case 3:
        return match_peer(c, o, t, err);
    default:
        return 0;
    }
}

static void unix_release(struct ckpt *c, struct object *o)
{
    struct unix_sock *k = o->priv;

    for (struct kept *f = k ? k->kept : NULL; f; f = f->next)
        close(f->fd);
    if (k)
        k->kept = NULL;
}

const struct kind_ops unix_ops = {
    .kind = KIND_UNIX,
    .probe = unix_probe,
    .collect = unix_collect,
    .in_flight = unix_in_flight,
    .match = unix_match,
    .release = unix_release,
};
