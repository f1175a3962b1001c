/*
 * UDP, UDP-Lite, ICMP and raw sockets: address, groups; what waits in them; and last whom they are connected to,
 * because a connected socket takes messages from its peer only.
 *
 * A message is sent again from the address that it came from: by the socket of the images that has it, by a temporary
 * one, or, when the address is not one of this host, through a raw socket, which takes CAP_NET_RAW. Where that is
 * missing too the message is lost, as the network may lose it, with a warning. (ICMP and raw sockets: dgramagain.c.)
 */
#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/util.h"
#include "restorer/inet.h"

static bool is_udp(const struct rinet *u)
{
    return u->m->socket->type == SOCK_DGRAM &&
           (u->m->socket->protocol == IPPROTO_UDP || u->m->socket->protocol == IPPROTO_UDPLITE);
}

static int join_group(struct rinet *u, const InetGroup *g, struct err *err)
{
    size_t size = GROUP_FILTER_SIZE(g->n_sources + 1);
    _cleanup_free_ struct group_filter *f = calloc(1, size);
    struct group_req q = {.gr_interface = g->ifindex};
    char name[IF_NAMESIZE] = "";
    int level;

    if (!f)
        return err_set(err, ENOMEM, "out of memory");
    if (g->group.len > sizeof(q.gr_group) || g->group.len < sizeof(sa_family_t) || g->n_sources > 64)
        return err_set(err, EINVAL, "a multicast group that cannot be one");
    /* Interfaces are numbered anew on another host or boot; their names tell more. */
    if (g->ifname.len && g->ifname.len < sizeof(name)) {
        memcpy(name, g->ifname.data, g->ifname.len);
        q.gr_interface = if_nametoindex(name) ? if_nametoindex(name) : g->ifindex;
    }
    memcpy(&q.gr_group, g->group.data, g->group.len);
    level = q.gr_group.ss_family == AF_INET6 ? IPPROTO_IPV6 : IPPROTO_IP;
    if (setsockopt(u->fd, level, MCAST_JOIN_GROUP, &q, sizeof(q)) < 0)
        return err_errno(err, "a multicast group on interface %s", name);
    if (g->mode == MCAST_EXCLUDE && !g->n_sources)
        return 0;
    f->gf_interface = q.gr_interface;
    f->gf_group = q.gr_group;
    f->gf_fmode = g->mode;
    for (size_t i = 0; i < g->n_sources; i++)
        if (g->sources[i].len <= sizeof(f->gf_slist[0]))
            memcpy(&f->gf_slist[f->gf_numsrc++], g->sources[i].data, g->sources[i].len);
    if (setsockopt(u->fd, level, MCAST_MSFILTER, f, (socklen_t)GROUP_FILTER_SIZE(f->gf_numsrc)) < 0)
        return err_errno(err, "the sources of a multicast group");
    return 0;
}

int dgram_build(struct rinet *u, struct err *err)
{
    union address a;
    socklen_t len = inet_address(&u->m->local, &a);

    u->fd = socket_make(u->m->socket, err);
    if (u->fd < 0 || dgram_deafen(u, err) < 0)
        return -err->code;
    if (u->m->socket->type == SOCK_RAW && a.sa.sa_family == AF_INET)
        a.v4.sin_port = 0; /* that is the protocol */
    else if (u->m->socket->type == SOCK_RAW)
        a.v6.sin6_port = 0;
    if ((u->local.port || !inet_is_any(&u->local)) && bind(u->fd, &a.sa, len) < 0)
        return inet_bind_error(&u->local, errno, err);
    for (size_t i = 0; i < u->m->n_groups; i++)
        if (join_group(u, u->m->groups[i], err) < 0)
            return -err->code;
    return 0;
}

/* ---- what waits ---- */

static int by_local(const void *x, const void *y)
{
    return memcmp(&(*(struct rinet *const *)x)->local, &(*(struct rinet *const *)y)->local, sizeof(struct inet_end));
}

struct directory {
    const struct restore *r;
    struct rinet **list;
    size_t n;
};

/* Bound to this address, or to the wildcard address and this port. */
static struct rinet *look_up(const struct directory *d, const struct inet_end *e)
{
    static const uint8_t any[3][16] = {{0}, {[10] = 0xff, [11] = 0xff}};
    struct rinet key = {.local = *e}, *k = &key, **found = NULL;

    for (int i = 0; !found && i < 3; i++) {
        found = d->n ? bsearch(&k, d->list, d->n, sizeof(*d->list), by_local) : NULL;
        if (i < 2)
            memcpy(key.local.addr, any[i], 16);
    }
    return found ? *found : NULL;
}

/* Where a message must be sent to reach u: the wildcard address is reached on the loopback interface. */
static socklen_t target_of(const struct rinet *u, const union address *sender, union address *to)
{
    socklen_t len = inet_address(&u->m->local, to);

    if (!inet_is_any(&u->local))
        return len;
    if (to->sa.sa_family == AF_INET)
        to->v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    else if (IN6_IS_ADDR_V4MAPPED(&sender->v6.sin6_addr))
        memcpy(&to->v6.sin6_addr, (uint8_t[16]){[10] = 0xff, [11] = 0xff, 127, 0, 0, 1}, 16);
    else
        to->v6.sin6_addr = in6addr_loopback;
    return len;
}

static int temporary(const struct rinet *u, const union address *from, socklen_t len)
{
    int fd = socket((int)u->m->socket->family, SOCK_DGRAM | SOCK_CLOEXEC, (int)u->m->socket->protocol), one = 1;

    if (fd < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (bind(fd, &from->sa, len) == 0)
        return fd;
    close(fd);
    return -1;
}

/* An IPv4 datagram with a header of our own; IPv6 has no such thing without knowing the link. */
static bool send_raw(const struct rinet *u, const union address *from, const union address *to, const InetMessage *k)
{
    struct {
        uint8_t version, tos;
        uint16_t len, id, frag;
        uint8_t ttl, protocol;
        uint16_t check;
        uint32_t src, dst;
        uint16_t sport, dport, ulen, ucheck;
    } __attribute__((packed)) h = {.version = 0x45, .ttl = 64, .protocol = IPPROTO_UDP};
    struct iovec iov[2] = {{&h, sizeof(h)}, {k->data.data, k->data.len}};
    struct msghdr m = {.msg_name = (void *)to, .msg_namelen = sizeof(to->v4), .msg_iov = iov, .msg_iovlen = 2};
    _cleanup_close_ int fd = -1;

    if (from->sa.sa_family != AF_INET || u->m->socket->protocol != IPPROTO_UDP || k->data.len > 65535 - sizeof(h))
        return false;
    fd = socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW);
    h.src = from->v4.sin_addr.s_addr;
    h.dst = to->v4.sin_addr.s_addr;
    h.sport = from->v4.sin_port;
    h.dport = to->v4.sin_port;
    h.ulen = htons((uint16_t)(8 + k->data.len));
    return fd >= 0 && sendmsg(fd, &m, 0) >= 0;
}

static int send_one(const struct directory *d, struct rinet *u, const InetMessage *k, struct err *err)
{
    union address from, to;
    socklen_t from_len = inet_address(&k->sender, &from), to_len;
    _cleanup_close_ int temp = -1;
    struct rinet *s;
    struct inet_end e;
    char text[64];
    int fd;

    if (!k->sender.len || !inet_end_of(&from, from_len, &e))
        return err_set(err, EINVAL, "a message from an address that is none");
    to_len = target_of(u, &from, &to);
    /* Of several sockets with one address the one that is connected to the sender gets it. */
    if (connect(u->fd, &from.sa, from_len) < 0)
        log_trace("a datagram's sender %s can't be connected to", inet_text(&e, text, sizeof(text)));
    s = look_up(d, &e);
    fd = s ? s->fd : (temp = temporary(u, &from, from_len));
    if (fd >= 0 && sendto(fd, k->data.data, k->data.len, MSG_DONTWAIT | MSG_NOSIGNAL, &to.sa, to_len) >= 0)
        return 0;
    if (!send_raw(u, &from, &to, k))
        restore_note(d->r, "a datagram of %zu bytes from %s that waited in a socket is lost: %s", k->data.len,
                     inet_text(&e, text, sizeof(text)), strerror(errno));
    return 0;
}

static int fill_one(const struct rsockets *s, const struct directory *d, struct rinet *u, struct err *err)
{
    union address none = {.sa.sa_family = AF_UNSPEC}, a;
    socklen_t len;
    char text[64];

    if (u->m->n_queue) {
        socket_widen(u->fd, SO_RCVBUF);
        for (size_t i = 0; i < u->m->n_queue; i++)
            if ((is_udp(u) ? send_one(d, u, u->m->queue[i], err) : dgram_again(s, u, u->m->queue[i], err)) < 0)
                return -err->code;
        if (is_udp(u))
            connect(u->fd, &none.sa, sizeof(none.sa));
        socket_narrow(u->fd, u->m->socket);
    }
    len = inet_address(&u->m->remote, &a);
    if (u->m->remote.len && connect(u->fd, &a.sa, len) < 0)
        return err_errno(err, "connecting to %s", inet_text(&u->remote, text, sizeof(text)));
    return 0;
}

int dgram_fill(struct rsockets *s, struct err *err)
{
    _cleanup_free_ struct rinet **list = calloc(s->n_inets + 1, sizeof(*list));
    struct directory d = {.r = s->r, .list = list};

    if (!list)
        return err_set(err, ENOMEM, "out of memory");
    for (size_t i = 0; i < s->n_inets; i++)
        if (is_udp(s->inets[i]) && s->inets[i]->local.port)
            list[d.n++] = s->inets[i];
    qsort(list, d.n, sizeof(*list), by_local);
    for (size_t i = 0; i < s->n_inets; i++)
        if (!rinet_is_tcp(s->inets[i]) && fill_one(s, &d, s->inets[i], err) < 0)
            return err_wrap(err, "datagram socket %llu", (unsigned long long)s->inets[i]->m->socket->ino);
    for (size_t i = 0; i < s->n_inets; i++)
        if (!rinet_is_tcp(s->inets[i]))
            dgram_listen(s->inets[i]);
    for (size_t i = 0; i < s->n_inets; i++)
        if (!rinet_is_tcp(s->inets[i]) && socket_late(s->inets[i]->fd, s->inets[i]->m->socket, err) < 0)
            return err_wrap(err, "datagram socket %llu", (unsigned long long)s->inets[i]->m->socket->ino);
    return 0;
}
