/*
 * Internet sockets: which object is which, and whether the records make sense. As with unix sockets all are made
 * when the first is asked for, since what is at one end is in the record of the other.
 *
 * tcpbuild.c makes listening and idle TCP sockets, tcpjoin.c connections, tcpfill.c what waits in them; dgram.c
 * is about UDP and its kin.
 */
#include "restorer/inet.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <string.h>

#include "base/util.h"

bool rinet_is_tcp(const struct rinet *u)
{
    return u->m->socket->type == SOCK_STREAM;
}

socklen_t inet_address(const ProtobufCBinaryData *from, union address *a)
{
    socklen_t n = (socklen_t)(from->len < sizeof(*a) ? from->len : sizeof(*a));

    memset(a, 0, sizeof(*a));
    memcpy(a, from->data, n);
    return n;
}

static bool is_address(const ProtobufCBinaryData *b, uint32_t family)
{
    union address a;
    socklen_t n = inet_address(b, &a);

    return (n == sizeof(a.v4) && a.sa.sa_family == AF_INET && family == AF_INET) ||
           (n == sizeof(a.v6) && a.sa.sa_family == AF_INET6 && family == AF_INET6);
}

static int check(const Inet *m, struct err *err)
{
    uint32_t family = m->socket ? m->socket->family : 0;

    if (socket_check(m->socket, family == AF_INET6 ? AF_INET6 : AF_INET, err) < 0)
        return -err->code;
    if (!is_address(&m->local, family) || (m->remote.len && !is_address(&m->remote, family)) || m->state > TCP_CLOSING ||
        m->peer_state > PEER_OUTSIDE || m->backlog > INT32_MAX || m->error > 4095 || m->ext > EXT_RESET)
        return err_set(err, EINVAL, "the record of a socket makes no sense");
    for (size_t i = 0; i < m->n_queue; i++)
        if (m->queue[i]->sender.len && !is_address(&m->queue[i]->sender, family))
            return err_set(err, EINVAL, "a message from an address that is none");
    for (size_t i = 0; i < m->n_bytes; i++)
        if (!m->bytes[i]->data.len)
            return err_set(err, EINVAL, "a piece of no bytes");
    return 0;
}

bool inet_keeps(const struct restore *r, const Inet *m)
{
    return r->options.ext_tcp != EXT_TCP_RESET && m->ext != EXT_RESET;
}

/* What dmtcp_restart was told about connections that lead out. */
static int check_outside(const struct restore *r, const struct rinet *u, struct err *err)
{
    char text[64];

    if (u->m->peer_state != PEER_OUTSIDE || !u->m->remote.len)
        return 0;
    if (r->options.ext_tcp == EXT_TCP_REFUSE)
        return err_set(err, ENOTSUP, "a connection with %s outside of the computation (--ext-tcp=refuse)",
                       inet_text(&u->remote, text, sizeof(text)));
    if (r->options.ext_tcp == EXT_TCP_KEEP && u->m->ext == EXT_RESET)
        return err_set(err, ENOTSUP, "the connection with %s was given up at the checkpoint (--ext-tcp=reset there)",
                       inet_text(&u->remote, text, sizeof(text)));
    return 0;
}

static int inet_prepare(struct restore *r, struct robject *o, struct err *err)
{
    const Inet *m = (const Inet *)o->msg;
    struct rsockets *s = rsockets_of(r, err);
    struct rinet *u = restore_alloc(r, sizeof(*u));

    if (!s || !u)
        return err_set(err, ENOMEM, "out of memory");
    o->priv = u;
    *u = (struct rinet){.o = o, .m = m, .fd = -1, .temp = -1};
    s->n_inets++;
    if (check(m, err) < 0)
        return -err->code;
    inet_end_of(m->local.data, m->local.len, &u->local);
    if (m->remote.len)
        inet_end_of(m->remote.data, m->remote.len, &u->remote);
    if (m->peer_state == PEER_OUTSIDE && inet_keeps(r, m))
        tcp_adopt_find(s);
    return check_outside(r, u, err);
}

static int find_peer(const struct restore *r, struct rinet *u, struct err *err)
{
    struct robject *o = u->m->peer_state == PEER_OBJECT ? restore_object(r, u->m->peer) : NULL;
    struct rinet *p;

    if (u->m->peer_state != PEER_OBJECT)
        return 0;
    p = o && o->ops == &inet_ops ? o->priv : NULL;
    if (!p || !rinet_is_tcp(u) || !rinet_is_tcp(p) || p->m->peer != u->m->id || p->m->peer_state != PEER_OBJECT)
        return err_set(err, EINVAL, "connected to what is not connected to it");
    u->peer = p;
    return 0;
}

static int inet_rebuild(struct restore *r, struct robject *o, struct err *err)
{
    struct rsockets *s = r->sockets;
    size_t n = 0;

    if (s->inet_built)
        return 0;
    s->inet_built = true;
    s->inets = restore_alloc(r, (s->n_inets + 1) * sizeof(*s->inets));
    if (!s->inets)
        return err_set(err, ENOMEM, "out of memory");
    for (struct robject *k = r->objects; k; k = k->next)
        if (k->ops == &inet_ops && n < s->n_inets)
            s->inets[n++] = k->priv;
    for (size_t i = 0; i < n; i++)
        if (find_peer(r, s->inets[i], err) < 0)
            return -err->code;
    if (tcp_build(s, err) < 0)
        return -err->code;
    for (size_t i = 0; i < n; i++)
        if (!rinet_is_tcp(s->inets[i]) && dgram_build(s->inets[i], err) < 0)
            return -err->code;
    return 0;
}

static int inet_open(struct restore *r, struct robject *o, struct rofd *d, int *fd, struct err *err)
{
    struct rinet *u = o->priv;

    if (o->fd >= 0 || u->fd < 0)
        return err_set(err, EINVAL, "a socket that is open twice");
    *fd = u->fd;
    o->fd = u->fd;
    return 0;
}

static int inet_refill(struct restore *r, struct robject *o, struct err *err)
{
    struct rsockets *s = r->sockets;

    if (s->inet_filled)
        return 0;
    s->inet_filled = true;
    return tcp_fill(s, err) < 0 || dgram_fill(s, err) < 0 ? -err->code : 0;
}

static int inet_go(struct restore *r, struct robject *o, struct err *err)
{
    struct rsockets *s = r->sockets;

    if (s->inet_lives)
        return 0;
    s->inet_lives = true;
    return tcp_keep_live(s, err);
}

const struct rebuild_ops inet_ops = {
    .kind = KIND_INET,
    .descriptor = &inet__descriptor,
    .prepare = inet_prepare,
    .rebuild = inet_rebuild,
    .open = inet_open,
    .refill = inet_refill,
    .go = inet_go,
};
