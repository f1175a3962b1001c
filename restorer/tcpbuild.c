/*
 * Making TCP sockets: those that listen, are bound, or are nothing yet; then connections (tcpjoin.c); then
 * what waits to be accepted, and who is still connecting.
 *
 * Until everything stands each socket has SO_REUSEADDR, so that connections and who listens at their port can
 * be made in any order. Of several sockets that listen at one address (SO_REUSEPORT) only one does while
 * connections are made, so that they arrive there.
 */
#include <errno.h>
#include <linux/filter.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/ports.h"
#include "base/util.h"
#include "restorer/inet.h"

#define PACED 256u /* connections that wait at one socket and are kept apart in time */

static bool is_plain(const struct rinet *u)
{
    return u->m->state == TCP_LISTEN || (u->m->state == TCP_CLOSE && !u->m->got_fin);
}

/* Has it an address of its own? Wildcard and port 0 are what every new socket has. */
static bool is_bound(const struct rinet *u)
{
    return u->local.port != 0 || !inet_is_any(&u->local);
}

static int make_plain(struct rinet *u, struct err *err)
{
    union address a;
    socklen_t len = inet_address(&u->m->local, &a);
    int one = 1, no_port = u->local.port == 0;

    u->fd = socket_make(u->m->socket, err);
    if (u->fd < 0)
        return -err->code;
    setsockopt(u->fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (!is_bound(u))
        return 0;
    if (no_port)
        setsockopt(u->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof(one));
    return inet_bind(u->fd, &a, len, err);
}

static int start_listening(struct rinet *u, struct err *err)
{
    if (u->listening)
        return 0;
    u->listening = true;
    return listen(u->fd, (int)u->m->backlog) < 0 ? err_errno(err, "listen") : 0;
}

static int by_local(const void *x, const void *y)
{
    const struct rinet *a = *(struct rinet *const *)x, *b = *(struct rinet *const *)y;
    int c;

    if (a->local.port != b->local.port)
        return a->local.port < b->local.port ? -1 : 1;
    c = memcmp(a->local.addr, b->local.addr, sizeof(a->local.addr));
    if (!c && a->m->socket->family != b->m->socket->family)
        c = a->m->socket->family < b->m->socket->family ? -1 : 1;
    return c ? c : a->o->id < b->o->id ? -1 : a->o->id > b->o->id;
}

static bool same_place(const struct rinet *a, const struct rinet *b)
{
    return inet_same(&a->local, &b->local) && a->m->socket->family == b->m->socket->family;
}

/* ---- what waits to be accepted ---- */

static int one_waiting(struct rsockets *s, struct rinet *listener, uint64_t id, struct err *err)
{
    struct robject *o = id ? restore_object(s->r, id) : NULL;
    struct rinet *client = o && o->ops == &inet_ops ? o->priv : NULL;
    _cleanup_close_ int gone = -1;

    if (id && (!client || client->joined || client->m->peer_state != PEER_WAITING))
        return err_set(err, EINVAL, "a connection waits whose other end is not there");
    if (client) {
        client->joined = true;
        client->fd = socket_make(client->m->socket, err);
        return client->fd < 0 ? -err->code : inet_connect(client->fd, &client->m->local, &client->m->remote, true, err);
    }
    /* Closed by its client already. Where from it came, nobody knows any more. */
    union address a;
    ProtobufCBinaryData any = {0}, to = {0};
    to.len = inet_address(&listener->m->local, &a);
    to.data = (uint8_t *)&a;
    if (inet_is_any(&listener->local) && a.sa.sa_family == AF_INET)
        a.v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    else if (inet_is_any(&listener->local))
        a.v6.sin6_addr = in6addr_loopback;
    union address from = {.sa.sa_family = a.sa.sa_family};
    any.len = to.len;
    any.data = (uint8_t *)&from;
    gone = socket(a.sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    return gone < 0 ? err_errno(err, "a socket") : inet_connect(gone, &any, &to, true, err);
}

/* All sockets of a group listen by now: have the kernel give everything to number n of them. */
static void direct(struct rinet *const *group, size_t size, size_t n)
{
    struct sock_filter code[] = {BPF_STMT(BPF_RET | BPF_K, (uint32_t)n)};
    struct sock_fprog p = {1, code};
    int zero = 0;

    if (size > 1 && n < size)
        setsockopt(group[0]->fd, SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &p, sizeof(p));
    else if (size > 1)
        setsockopt(group[0]->fd, SOL_SOCKET, 68 /* SO_DETACH_REUSEPORT_BPF */, &zero, sizeof(zero));
}

/* How long the kernel's jiffies are, and a little more. */
static int tick_ms(void)
{
    struct timespec t;

    return clock_getres(CLOCK_MONOTONIC_COARSE, &t) == 0 ? (int)(t.tv_nsec / 1000000) + 2 : 12;
}

static int fill_backlog(struct rsockets *s, struct rinet *u, struct err *err)
{
    const Inet *m = u->m;

    /* A connection too many can have got in, when the client was quicker than the server. */
    if (m->n_pending && listen(u->fd, (int)m->backlog + (int)m->n_pending) < 0)
        return err_errno(err, "listen");
    for (size_t i = 0; i < m->n_pending; i++) {
        if (i && i < PACED) /* the next checkpoint tells their order by age */
            poll(NULL, 0, tick_ms());
        if (one_waiting(s, u, m->pending[i], err) < 0)
            return -err->code;
    }
    return m->n_pending && listen(u->fd, (int)m->backlog) < 0 ? err_errno(err, "listen") : 0;
}

/* Accepted sockets inherit options, so these are set before, and were not yet when connections were made. */
static int finish_group(struct rsockets *s, struct rinet **group, size_t n, struct err *err)
{
    bool waiting = false;

    for (size_t i = 0; i < n; i++) {
        if (start_listening(group[i], err) < 0 || socket_late(group[i]->fd, group[i]->m->socket, err) < 0)
            return -err->code;
        waiting |= group[i]->m->n_pending > 0;
    }
    for (size_t i = 0; waiting && i < n; i++) {
        direct(group, n, i);
        if (fill_backlog(s, group[i], err) < 0)
            return -err->code;
    }
    if (waiting)
        direct(group, n, n);
    return 0;
}

/* ---- all ---- */

static int connect_late(struct rsockets *s, struct err *err)
{
    for (size_t i = 0; i < s->n_inets; i++) {
        struct rinet *u = s->inets[i];
        if (!rinet_is_tcp(u) || u->m->state != TCP_SYN_SENT)
            continue;
        u->fd = socket_make(u->m->socket, err);
        if (u->fd < 0 || inet_connect(u->fd, &u->m->local, &u->m->remote, false, err) < 0)
            return -err->code;
    }
    return 0;
}

/* The remains of connections between sockets of the images keep these from being made again in any order. */
static int clear_ports(const struct rsockets *s, struct err *err)
{
    struct ports ports = {0};

    for (size_t i = 0; i < s->n_inets; i++)
        if (rinet_is_tcp(s->inets[i]) && s->inets[i]->local.port) {
            ports_add(&ports, s->inets[i]->local.port);
            if (s->inets[i]->m->peer_state != PEER_OUTSIDE && s->inets[i]->remote.port)
                ports_add(&ports, s->inets[i]->remote.port);
        }
    return ports_clear(&ports, &ports, err);
}

static int build(struct rsockets *s, struct rinet **list, struct err *err)
{
    size_t n = 0;

    for (size_t i = 0; i < s->n_inets; i++) {
        struct rinet *u = s->inets[i];
        if (!rinet_is_tcp(u) || !is_plain(u))
            continue;
        if (make_plain(u, err) < 0)
            return -err->code;
        if (u->m->state == TCP_LISTEN)
            list[n++] = u;
    }
    qsort(list, n, sizeof(*list), by_local);
    for (size_t i = 0; i < n; i++)
        if ((i == 0 || !same_place(list[i], list[i - 1])) && start_listening(list[i], err) < 0)
            return -err->code;
    if (tcp_join(s, err) < 0)
        return -err->code;
    for (size_t i = 0, end; i < n; i = end) {
        for (end = i + 1; end < n && same_place(list[i], list[end]);)
            end++;
        if (finish_group(s, list + i, end - i, err) < 0)
            return -err->code;
    }
    return connect_late(s, err);
}

int tcp_build(struct rsockets *s, struct err *err)
{
    _cleanup_free_ struct rinet **list = calloc(s->n_inets + 1, sizeof(*list));

    if (s->n_inets && clear_ports(s, err) < 0)
        return -err->code;
    return list ? build(s, list, err) : err_set(err, ENOMEM, "out of memory");
}
