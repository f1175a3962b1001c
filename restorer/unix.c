/*
 * AF_UNIX sockets: which object is which, and whether the records make sense. All sockets are made at once when the
 * first is asked for, and all are filled at once: what is at one end is made of what the record of the other
 * says.
 *
 * unixbuild.c makes them, unixjoin.c the connections that went through a listening socket, unixbind.c the
 * names, unixfill.c what waits in them.
 */
#include "restorer/unix.h"

#include <errno.h>
#include <string.h>

#include "base/util.h"

struct runix *runix_find(const struct restore *r, uint64_t id)
{
    struct robject *o = id ? restore_object(r, id) : NULL;

    return o && o->ops == &unix_ops ? o->priv : NULL;
}

static int check_queue(const struct restore *r, const Unix *m, struct err *err)
{
    for (size_t i = 0; i < m->n_queue; i++) {
        const UnixMessage *u = m->queue[i];
        if (u->sender.len > sizeof(((struct sockaddr_un *)0)->sun_path) || u->n_ofds > INJ_MAX_FDS)
            return err_set(err, EINVAL, "a message that cannot be one");
        for (size_t k = 0; k < u->n_ofds; k++)
            if (!restore_ofd(r, u->ofds[k]))
                return err_set(err, EINVAL, "a message with an open file that is not there");
    }
    return 0;
}

static int unix_prepare(struct restore *r, struct robject *o, struct err *err)
{
    const Unix *m = (const Unix *)o->msg;
    struct rsockets *s = rsockets_of(r, err);
    struct runix *u = restore_alloc(r, sizeof(*u));
    size_t max = sizeof(((struct sockaddr_un *)0)->sun_path);

    if (!s || !u)
        return err_set(err, ENOMEM, "out of memory");
    o->priv = u;
    *u = (struct runix){.o = o, .m = m, .fd = -1, .node = -1, .temp = -1};
    s->n_unixes++;
    if (socket_check(m->socket, AF_UNIX, err) < 0)
        return -err->code;
    if ((m->socket->type != SOCK_STREAM && m->socket->type != SOCK_DGRAM && m->socket->type != SOCK_SEQPACKET) ||
        m->socket->protocol || m->state < UNIX_IDLE || m->state > UNIX_CONNECTED || m->peer_state > PEER_OUTSIDE ||
        m->name.len > max || m->peer_name.len > max || m->backlog > INT32_MAX)
        return err_set(err, EINVAL, "the record of a socket makes no sense");
    if (check_queue(r, m, err) < 0)
        return -err->code;
    return m->file && m->state != UNIX_CONNECTED ? unix_check_file(m->file, err) : 0;
}

/* The other end must be what a kernel could have connected it to. */
static int find_peer(const struct restore *r, struct runix *u, struct err *err)
{
    struct runix *p = runix_find(r, u->m->peer);
    bool stream = u->m->socket->type != SOCK_DGRAM;

    if (u->m->state != UNIX_CONNECTED || (u->m->peer_state != PEER_OBJECT && u->m->peer_state != PEER_WAITING))
        return 0;
    if (!p || p->m->socket->type != u->m->socket->type)
        return err_set(err, EINVAL, "connected to what is not there");
    if (u->m->peer_state == PEER_WAITING)
        return stream && p->m->state == UNIX_LISTENING ? 0
                                                       : err_set(err, EINVAL, "waits for what does not listen");
    u->peer = p;
    if (stream && (p == u || p->m->peer != u->m->id || p->m->peer_state != PEER_OBJECT))
        return err_set(err, EINVAL, "connected to what is connected to something else");
    return 0;
}

static int unix_rebuild(struct restore *r, struct robject *o, struct err *err)
{
    struct rsockets *s = r->sockets;
    size_t n = 0;

    if (s->unix_built)
        return 0;
    s->unix_built = true;
    s->unixes = restore_alloc(r, (s->n_unixes + 1) * sizeof(*s->unixes));
    if (!s->unixes)
        return err_set(err, ENOMEM, "out of memory");
    for (struct robject *k = r->objects; k; k = k->next)
        if (k->ops == &unix_ops && n < s->n_unixes)
            s->unixes[n++] = k->priv;
    for (size_t i = 0; i < n; i++)
        if (find_peer(r, s->unixes[i], err) < 0)
            return -err->code;
    return unix_build(r, s, err);
}

/* A socket has one description; from here on the fd is that one's. */
static int unix_open(struct restore *r, struct robject *o, struct rofd *d, int *fd, struct err *err)
{
    struct runix *u = o->priv;

    if (o->fd < 0 || u->fd < 0)
        return err_set(err, EINVAL, "a socket that is open twice");
    *fd = o->fd;
    o->fd = -1;
    return 0;
}

static int unix_refill(struct restore *r, struct robject *o, struct err *err)
{
    struct rsockets *s = r->sockets;

    if (s->unix_filled)
        return 0;
    s->unix_filled = true;
    return unix_fill(r, s, err);
}

const struct rebuild_ops unix_ops = {
    .kind = KIND_UNIX,
    .descriptor = &unix__descriptor,
    .prepare = unix_prepare,
    .rebuild = unix_rebuild,
    .open = unix_open,
    .refill = unix_refill,
};
