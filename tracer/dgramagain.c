/*
 * Which packets that wait in ICMP and raw sockets can be made to come again at a restart, without anybody else taking
 * notice: those that come to an address of this host, and that the kernel itself does nothing about.
 */
#include <errno.h>
#include <netinet/icmp6.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/ip_icmp.h>
#include <string.h>

#include "base/util.h"
#include "tracer/inet.h"

/* An address that can be bound is one of this host's (or a group's). */
static bool is_local(const void *addr, socklen_t len)
{
    struct sockaddr_storage a = {0};
    _cleanup_close_ int fd = -1;

    memcpy(&a, addr, len < sizeof(a) ? len : sizeof(a));
    ((struct sockaddr_in *)&a)->sin_port = 0; /* at the same place in both families */
    fd = socket(a.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    return fd >= 0 && bind(fd, (void *)&a, len) == 0;
}

static int check_ping(const Inet *m, const InetMessage *k, struct err *err)
{
    int family = (int)m->socket->family;
    _cleanup_close_ int raw = -1;

    if (k->data.len < 8 || k->data.data[0] != (family == AF_INET ? ICMP_ECHOREPLY : ICMP6_ECHO_REPLY))
        return err_set(err, EAGAIN, "a packet waits that is no echo reply, which can't be saved before it is read");
    if (is_local(k->sender.data, (socklen_t)k->sender.len))
        return 0;
    raw = socket(family, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW);
    return raw >= 0 ? 0 : err_set(err, EAGAIN, "an echo reply of another host waits, which only root (CAP_NET_RAW) can "
                                  "make come again");
}

/* The kernel acts on what comes with these, or its modules do. */
static bool kernel_acts(uint32_t protocol)
{
    static const uint8_t known[] = {IPPROTO_HOPOPTS, IPPROTO_IGMP, IPPROTO_IPIP, IPPROTO_TCP, IPPROTO_UDP, IPPROTO_DCCP,
                                    IPPROTO_IPV6, IPPROTO_ROUTING, IPPROTO_FRAGMENT, IPPROTO_GRE, IPPROTO_ESP, IPPROTO_AH,
                                    IPPROTO_NONE, IPPROTO_DSTOPTS, IPPROTO_PIM, IPPROTO_COMP, 115 /* L2TP */,
                                    IPPROTO_SCTP, IPPROTO_UDPLITE, IPPROTO_MPLS};

    return memchr(known, (int)protocol, sizeof(known)) != NULL;
}

static bool is_answer(uint32_t protocol, const uint8_t *icmp, size_t n)
{
    if (!n)
        return false;
    if (protocol == IPPROTO_ICMP)
        return icmp[0] == ICMP_ECHOREPLY || icmp[0] == ICMP_TIMESTAMPREPLY;
    return icmp[0] == ICMP6_ECHO_REPLY;
}

/* IPv4 has the header in front; over IPv6 the socket's own address must tell where the packet went. */
static int check_raw(const Inet *m, const InetMessage *k, struct err *err)
{
    struct sockaddr_in to = {.sin_family = AF_INET};
    const struct iphdr *h = (const void *)k->data.data;
    uint32_t protocol = m->socket->protocol;
    size_t skip = 0;

    if (m->socket->family == AF_INET) {
        if (k->data.len < sizeof(*h) || k->data.len < h->ihl * 4u || ntohs(h->tot_len) != k->data.len)
            return err_set(err, EAGAIN, "a packet waits without a whole header, which can't be saved before it is read");
        memcpy(&to.sin_addr, &h->daddr, sizeof(to.sin_addr));
        skip = h->ihl * 4u;
        protocol = h->protocol;
    }
    if (kernel_acts(protocol) || ((protocol == IPPROTO_ICMP || protocol == IPPROTO_ICMPV6) &&
                                  !is_answer(protocol, k->data.data + skip, k->data.len - skip)))
        return err_set(err, EAGAIN, "a packet of protocol %u waits, of which the kernel, too, would take notice if it came "
                       "again: it can't be saved before it is read", protocol);
    if (m->socket->family == AF_INET && (IN_MULTICAST(ntohl(to.sin_addr.s_addr)) || to.sin_addr.s_addr == INADDR_BROADCAST ||
                                         !is_local(&to, sizeof(to))))
        return err_set(err, EAGAIN, "a packet to many waits, which can't be saved before it is read");
    return 0;
}

int dgram_check_again(const Inet *m, int fd, const InetMessage *k, struct err *err)
{
    char device[64] = "";
    socklen_t n = sizeof(device);

    if (m->socket->type == SOCK_DGRAM)
        return check_ping(m, k, err);
    if (getsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, device, &n) == 0 && device[0] && strcmp(device, "lo") != 0)
        return err_set(err, EAGAIN, "packets of interface %s wait, which can't be saved before they are read", device);
    return check_raw(m, k, err);
}
