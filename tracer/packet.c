/*
 * Packet sockets. What no system call on the socket tells (memberships, whether it has rings) is in the kernel's table
 * (sock_diag(7)). Frames that wait can't be looked at behind the first, so the checkpoint is tried again soon.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <linux/netlink.h>
#include <linux/packet_diag.h>
#include <linux/sock_diag.h>
#include <net/if.h>
#include <poll.h>
#include <string.h>

#include "base/sockdiag.h"
#include "base/util.h"
#include "image/packet.pb-c.h"
#include "tracer/socket.h"

static bool packet_probe(const struct fd_info *fi)
{
    return socket_is(fi, AF_PACKET);
}

struct search {
    struct ckpt *c;
    Packet *m;
    uint64_t ino;
    bool found;
};

static ProtobufCBinaryData name_of(struct ckpt *c, uint32_t ifindex)
{
    char name[IF_NAMESIZE] = "";

    return arena_text(c->arena, ifindex && if_indextoname(ifindex, name) ? name : "");
}

static int add_member(struct search *s, const struct packet_diag_mclist *l, struct err *err)
{
    PacketMember *k = arena_alloc(s->c->arena, sizeof(*k));

    if (!k)
        return err_set(err, ENOMEM, "out of memory");
    packet_member__init(k);
    k->ifindex = l->pdmc_index;
    k->ifname = name_of(s->c, k->ifindex);
    k->type = l->pdmc_type;
    k->count = l->pdmc_count;
    k->address = arena_bytes(s->c->arena, l->pdmc_addr, l->pdmc_alen <= 32 ? l->pdmc_alen : 32);
    arena_push(s->c->arena, (void ***)&s->m->members, &s->m->n_members, k);
    return 0;
}

static int attribute(struct search *s, const struct nlattr *a, struct err *err)
{
    const void *v = (const char *)a + NLA_HDRLEN;
    size_t n = a->nla_len - NLA_HDRLEN;

    switch (a->nla_type & NLA_TYPE_MASK) {
    case PACKET_DIAG_RX_RING:
        return err_set(err, ENOTSUP, "a packet socket with a ring for receiving (PACKET_RX_RING), which can't be saved");
    case PACKET_DIAG_TX_RING:
        return err_set(err, ENOTSUP, "a packet socket with a ring for sending (PACKET_TX_RING), which can't be saved");
    case PACKET_DIAG_FANOUT:
        s->m->in_fanout = true;
        return 0;
    case PACKET_DIAG_MCLIST:
        for (size_t at = 0; at + sizeof(struct packet_diag_mclist) <= n; at += sizeof(struct packet_diag_mclist))
            if (add_member(s, (const void *)((const char *)v + at), err) < 0)
                return -err->code;
        return 0;
    default:
        return 0;
    }
}

static int answer(void *arg, const void *payload, size_t n, struct err *err)
{
    struct search *s = arg;
    const struct packet_diag_msg *m = payload;
    size_t at = NLMSG_ALIGN(sizeof(*m));

    if (n < sizeof(*m) || m->pdiag_ino != s->ino)
        return 0;
    s->found = true;
    while (at + NLA_HDRLEN <= n) {
        const struct nlattr *a = (const void *)((const char *)payload + at);
        if (a->nla_len < NLA_HDRLEN || at + a->nla_len > n)
            break;
        if (attribute(s, a, err) < 0)
            return -err->code;
        at += NLA_ALIGN(a->nla_len);
    }
    return 0;
}

static int look_up(struct ckpt *c, Packet *m, uint64_t ino, struct err *err)
{
    struct {
        struct nlmsghdr h;
        struct packet_diag_req r;
    } q = {
        .h = {.nlmsg_len = sizeof(q), .nlmsg_type = SOCK_DIAG_BY_FAMILY, .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP},
        .r = {.sdiag_family = AF_PACKET, .pdiag_show = PACKET_SHOW_INFO | PACKET_SHOW_MCLIST | PACKET_SHOW_RING_CFG |
                                                       PACKET_SHOW_FANOUT},
    };
    struct search s = {c, m, ino, false};

    if (diag_dump(&q, sizeof(q), answer, &s, err) < 0)
        return -err->code;
    return s.found ? 0 : err_set(err, ENOTSUP, "it belongs to another network namespace");
}

static int collect_fanout(int fd, Packet *m, struct err *err)
{
    if (!m->in_fanout)
        return 0;
    m->fanout = (uint32_t)sockopt_int(fd, SOL_PACKET, PACKET_FANOUT, 0);
    if ((m->fanout >> 16 & 0xff) >= PACKET_FANOUT_CBPF)
        return err_set(err, ENOTSUP, "a packet socket of a fanout group with a program, which can't be saved");
    return 0;
}

static int packet_collect(struct ckpt *c, const struct fd_info *fi, struct object *o, struct err *err)
{
    _cleanup_close_ int fd = ckpt_get_fd(fi->proc, fi->fd, err);
    struct pollfd p = {.fd = fd, .events = POLLIN};
    struct sockaddr_ll a = {0};
    socklen_t n = sizeof(a);
    Packet *m = arena_alloc(c->arena, sizeof(*m));

    if (fd < 0)
        return -err->code;
    if (!m)
        return err_set(err, ENOMEM, "out of memory");
    packet__init(m);
    m->id = o->id;
    o->msg = &m->base;
    if (socket_collect(c, fd, &fi->st, &m->socket, err) < 0 || look_up(c, m, fi->st.st_ino, err) < 0 ||
        collect_fanout(fd, m, err) < 0)
        return -err->code;
    if (getsockname(fd, (void *)&a, &n) < 0)
        return err_errno(err, "getsockname");
    m->protocol = ntohs(a.sll_protocol);
    m->ifindex = (uint32_t)a.sll_ifindex;
    m->ifname = name_of(c, m->ifindex);
    if (poll(&p, 1, 0) < 0)
        return err_errno(err, "poll");
    if (p.revents & POLLERR)
        return err_set(err, EAGAIN, "a packet socket with an error that was not read yet, which can't be saved");
    if (p.revents & POLLIN)
        return err_set(err, EAGAIN, "frames wait in a packet socket, which can't be saved before they are read");
    return 0;
}

const struct kind_ops packet_ops = {
    .kind = KIND_PACKET,
    .probe = packet_probe,
    .collect = packet_collect,
};
