/*
 * Packet sockets. They are made with no protocol, so that nothing arrives before the filter is there; interfaces are
 * found by name, since numbers are given anew.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <string.h>

#include "base/util.h"
#include "image/packet.pb-c.h"
#include "restorer/socket.h"

static const Packet *packet_of(const struct robject *o)
{
    return (const Packet *)o->msg;
}

static int packet_prepare(struct restore *r, struct robject *o, struct err *err)
{
    const Packet *m = packet_of(o);

    (void)r;
    if (socket_check(m->socket, AF_PACKET, err) < 0)
        return -err->code;
    for (size_t i = 0; i < m->n_members; i++)
        if (m->members[i]->address.len > 32 || m->members[i]->ifname.len >= IF_NAMESIZE || m->members[i]->count > 65536)
            return err_set(err, EINVAL, "the record of a packet socket makes no sense");
    return m->ifname.len < IF_NAMESIZE && m->protocol <= UINT16_MAX
               ? 0 : err_set(err, EINVAL, "the record of a packet socket makes no sense");
}

static int interface_of(uint32_t ifindex, const ProtobufCBinaryData *ifname, int *found, struct err *err)
{
    char name[IF_NAMESIZE] = "";

    *found = 0;
    if (!ifindex)
        return 0;
    memcpy(name, ifname->data, ifname->len);
    *found = (int)if_nametoindex(name);
    return *found ? 0 : err_set(err, ENODEV, "there is no interface \"%s\" here", name);
}

static int join(int fd, const PacketMember *k, struct err *err)
{
    struct {
        struct packet_mreq m;
        uint8_t more[24]; /* the kernel's packet_mreq_max */
    } q = {.m = {.mr_type = (unsigned short)k->type, .mr_alen = (unsigned short)k->address.len}};

    if (interface_of(k->ifindex, &k->ifname, &q.m.mr_ifindex, err) < 0)
        return -err->code;
    memcpy(q.m.mr_address, k->address.data, k->address.len < 8 ? k->address.len : 8);
    if (k->address.len > 8)
        memcpy(q.more, k->address.data + 8, k->address.len - 8);
    for (uint32_t i = 0; i < k->count; i++)
        if (setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &q, sizeof(q)) < 0)
            return err_errno(err, "PACKET_ADD_MEMBERSHIP");
    return 0;
}

static int build(int fd, const Packet *m, struct err *err)
{
    struct sockaddr_ll a = {.sll_family = AF_PACKET, .sll_protocol = htons((uint16_t)m->protocol)};
    uint32_t fanout = m->fanout;

    if (socket_late(fd, m->socket, err) < 0 || interface_of(m->ifindex, &m->ifname, &a.sll_ifindex, err) < 0)
        return -err->code;
    for (size_t i = 0; i < m->n_members; i++)
        if (join(fd, m->members[i], err) < 0)
            return -err->code;
    if ((m->protocol || m->ifindex) && bind(fd, (void *)&a, sizeof(a)) < 0)
        return err_errno(err, "bind");
    if (m->in_fanout && setsockopt(fd, SOL_PACKET, PACKET_FANOUT, &fanout, sizeof(fanout)) < 0)
        return err_errno(err, "PACKET_FANOUT");
    return 0;
}

static int packet_open(struct restore *r, struct robject *o, struct rofd *d, int *fd, struct err *err)
{
    const Packet *m = packet_of(o);

    (void)r;
    (void)d;
    *fd = socket_make(m->socket, err);
    if (*fd < 0 || build(*fd, m, err) == 0)
        return *fd < 0 ? -err->code : 0;
    close(*fd);
    *fd = -1;
    return err_wrap(err, "packet socket %llu", (unsigned long long)m->socket->ino);
}

const struct rebuild_ops packet_ops = {
    .kind = KIND_PACKET,
    .descriptor = &packet__descriptor,
    .prepare = packet_prepare,
    .open = packet_open,
};
