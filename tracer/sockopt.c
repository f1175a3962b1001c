/*
 * Socket options. Rather than to know what every option means, this reads all that can be read, from the socket
 * and from a new socket of the same sort, and keeps those that differ; the restorer sets them again in the same
 * order. What must be dealt with by hand (buffer sizes, filters, memberships) is elsewhere.
 */
#include <errno.h>
#include <linux/icmp.h>
#include <linux/if_packet.h>
#include <linux/in6.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <poll.h>
#include <string.h>

#include "base/sockdiag.h"
#include "base/util.h"
#include "tracer/socket.h"

#define MAX_VALUE 64u /* bytes */

enum {
    ANY = 0,
    V4 = 1,
    V6 = 2,
    TCP = 4,
    DGRAM = 8,
    RAW = 16,
    UNIX = 32,
    NETLINK = 64,
    PACKET = 128,
    IDLE = 256,      /* not while connected: then it tells what was negotiated */
    PACKETS = 512,   /* not TCP */
};

struct sockopt {
    int level, name;
    uint16_t where; /* which sockets have it: bits above */
    uint8_t size;   /* of the value at most */
};

/*
 * Numbers in place of names: newer than the C library's headers (include/uapi/asm-generic/socket.h and its kin).
 * Not here because the kernel changes them by itself: SO_INCOMING_CPU, TCP_QUICKACK.
 * IP_TOS sets the priority too, so it comes first.
 */
static const struct sockopt options[] = {
    {SOL_SOCKET, SO_DEBUG, ANY, 4},
    {SOL_SOCKET, SO_REUSEADDR, ANY, 4},
    {SOL_SOCKET, SO_REUSEPORT, ANY, 4},
    {SOL_SOCKET, SO_BINDTODEVICE, ANY, 16},
    {SOL_SOCKET, SO_DONTROUTE, ANY, 4},
    {SOL_SOCKET, SO_BROADCAST, ANY, 4},
    {SOL_SOCKET, SO_KEEPALIVE, ANY, 4},
    {SOL_SOCKET, SO_OOBINLINE, ANY, 4},
    {SOL_SOCKET, SO_NO_CHECK, ANY, 4},
    {SOL_SOCKET, SO_LINGER, ANY, 8},
    {SOL_SOCKET, SO_PASSCRED, UNIX | NETLINK, 4},
    {SOL_SOCKET, SO_PASSSEC, ANY, 4},
    {SOL_SOCKET, 76 /* SO_PASSPIDFD */, UNIX | NETLINK, 4},
    {SOL_SOCKET, 83 /* SO_PASSRIGHTS */, UNIX, 4},
    {SOL_SOCKET, SO_RCVLOWAT, ANY, 4},
    {SOL_SOCKET, SO_RCVTIMEO, ANY, 16},
    {SOL_SOCKET, SO_SNDTIMEO, ANY, 16},
    {SOL_SOCKET, SO_TIMESTAMP, ANY, 4},
    {SOL_SOCKET, SO_TIMESTAMPNS, ANY, 4},
    {SOL_SOCKET, 63 /* SO_TIMESTAMP_NEW */, ANY, 4},
    {SOL_SOCKET, 64 /* SO_TIMESTAMPNS_NEW */, ANY, 4},
    {SOL_SOCKET, SO_TIMESTAMPING, ANY, 8},
    {SOL_SOCKET, 65 /* SO_TIMESTAMPING_NEW */, ANY, 8},
    {SOL_SOCKET, SO_MARK, ANY, 4},
    {SOL_SOCKET, 82 /* SO_RCVMARK's kin: SO_RCVPRIORITY */, ANY, 4},
    {SOL_SOCKET, 75 /* SO_RCVMARK */, ANY, 4},
    {SOL_SOCKET, SO_RXQ_OVFL, ANY, 4},
    {SOL_SOCKET, SO_WIFI_STATUS, ANY, 4},
    {SOL_SOCKET, SO_NOFCS, ANY, 4},
    {SOL_SOCKET, SO_SELECT_ERR_QUEUE, ANY, 4},
    {SOL_SOCKET, SO_BUSY_POLL, ANY, 4},
    {SOL_SOCKET, 69 /* SO_PREFER_BUSY_POLL */, ANY, 4},
    {SOL_SOCKET, SO_MAX_PACING_RATE, ANY, 8},
    {SOL_SOCKET, SO_ZEROCOPY, ANY, 4},
    {SOL_SOCKET, 61 /* SO_TXTIME */, ANY, 8},
    {SOL_SOCKET, SO_PEEK_OFF, ANY, 4},
    {SOL_SOCKET, SO_LOCK_FILTER, ANY, 4},
    {SOL_IP, IP_TOS, V4 | V6, 4},
    {SOL_IP, IP_TTL, V4 | V6, 4},
    {SOL_IP, IP_HDRINCL, V4 | RAW, 4},
    {SOL_IP, IP_OPTIONS, V4, 40},
    {SOL_IP, IP_RECVOPTS, V4 | V6, 4},
    {SOL_IP, IP_RETOPTS, V4 | V6, 4},
    {SOL_IP, IP_PKTINFO, V4 | V6, 4},
    {SOL_IP, IP_MTU_DISCOVER, V4 | V6, 4},
    {SOL_IP, IP_RECVERR, V4 | V6, 4},
    {SOL_IP, IP_RECVTTL, V4 | V6, 4},
    {SOL_IP, IP_RECVTOS, V4 | V6, 4},
    {SOL_IP, IP_FREEBIND, V4 | V6, 4},
    {SOL_IP, IP_PASSSEC, V4 | V6, 4},
    {SOL_IP, IP_TRANSPARENT, V4 | V6, 4},
    {SOL_IP, IP_ORIGDSTADDR, V4 | V6, 4},
    {SOL_IP, IP_MINTTL, V4 | V6, 4},
    {SOL_IP, IP_NODEFRAG, V4 | RAW, 4},
    {SOL_IP, IP_CHECKSUM, V4 | V6, 4},
    {SOL_IP, IP_BIND_ADDRESS_NO_PORT, V4 | V6, 4},
    {SOL_IP, 25 /* IP_RECVFRAGSIZE */, V4 | V6, 4},
    {SOL_IP, 26 /* IP_RECVERR_RFC4884 */, V4 | V6, 4},
    {SOL_IP, IP_MULTICAST_IF, V4 | PACKETS, 4},
    {SOL_IP, IP_MULTICAST_TTL, V4 | PACKETS, 4},
    {SOL_IP, IP_MULTICAST_LOOP, V4 | PACKETS, 4},
    {SOL_IP, IP_MULTICAST_ALL, V4 | PACKETS, 4},
    {SOL_IP, IP_UNICAST_IF, V4, 4},
    {SOL_IP, 51 /* IP_LOCAL_PORT_RANGE */, V4 | V6, 4},
    {SOL_IPV6, IPV6_V6ONLY, V6, 4},
    {SOL_IPV6, IPV6_UNICAST_HOPS, V6, 4},
    {SOL_IPV6, IPV6_MULTICAST_IF, V6 | PACKETS, 4},
    {SOL_IPV6, IPV6_MULTICAST_HOPS, V6 | PACKETS, 4},
    {SOL_IPV6, IPV6_MULTICAST_LOOP, V6 | PACKETS, 4},
    {SOL_IPV6, 29 /* IPV6_MULTICAST_ALL */, V6 | PACKETS, 4},
    {SOL_IPV6, IPV6_MTU_DISCOVER, V6, 4},
    {SOL_IPV6, IPV6_RECVERR, V6, 4},
    {SOL_IPV6, IPV6_CHECKSUM, V6 | RAW, 4},
    {SOL_IPV6, IPV6_RECVPKTINFO, V6, 4},
    {SOL_IPV6, IPV6_RECVHOPLIMIT, V6, 4},
    {SOL_IPV6, IPV6_RECVHOPOPTS, V6, 4},
    {SOL_IPV6, IPV6_RECVRTHDR, V6, 4},
    {SOL_IPV6, IPV6_RECVDSTOPTS, V6, 4},
    {SOL_IPV6, IPV6_RECVTCLASS, V6, 4},
    {SOL_IPV6, IPV6_TCLASS, V6, 4},
    {SOL_IPV6, IPV6_RECVPATHMTU, V6, 4},
    {SOL_IPV6, IPV6_DONTFRAG, V6, 4},
    {SOL_IPV6, IPV6_FLOWINFO, V6, 4},
    {SOL_IPV6, 33 /* IPV6_FLOWINFO_SEND */, V6, 4},
    {SOL_IPV6, IPV6_AUTOFLOWLABEL, V6, 4},
    {SOL_IPV6, IPV6_ADDR_PREFERENCES, V6, 4},
    {SOL_IPV6, IPV6_MINHOPCOUNT, V6, 4},
    {SOL_IPV6, IPV6_ORIGDSTADDR, V6, 4},
    {SOL_IPV6, IPV6_TRANSPARENT, V6, 4},
    {SOL_IPV6, IPV6_UNICAST_IF, V6, 4},
    {SOL_IPV6, 77 /* IPV6_RECVFRAGSIZE */, V6, 4},
    {SOL_IPV6, 78 /* IPV6_FREEBIND */, V6, 4},
    {SOL_SOCKET, SO_PRIORITY, ANY, 4},
    {SOL_TCP, TCP_NODELAY, TCP, 4},
    {SOL_TCP, TCP_CORK, TCP, 4},
    {SOL_TCP, TCP_MAXSEG, TCP | IDLE, 4},
    {SOL_TCP, TCP_KEEPIDLE, TCP, 4},
    {SOL_TCP, TCP_KEEPINTVL, TCP, 4},
    {SOL_TCP, TCP_KEEPCNT, TCP, 4},
    {SOL_TCP, TCP_SYNCNT, TCP, 4},
    {SOL_TCP, TCP_LINGER2, TCP, 4},
    {SOL_TCP, TCP_DEFER_ACCEPT, TCP, 4},
    {SOL_TCP, TCP_WINDOW_CLAMP, TCP | IDLE, 4},
    {SOL_TCP, TCP_CONGESTION, TCP, 16},
    {SOL_TCP, TCP_THIN_LINEAR_TIMEOUTS, TCP, 4},
    {SOL_TCP, TCP_THIN_DUPACK, TCP, 4},
    {SOL_TCP, TCP_USER_TIMEOUT, TCP, 4},
    {SOL_TCP, TCP_FASTOPEN, TCP, 4},
    {SOL_TCP, TCP_FASTOPEN_CONNECT, TCP, 4},
    {SOL_TCP, TCP_FASTOPEN_NO_COOKIE, TCP, 4},
    {SOL_TCP, TCP_NOTSENT_LOWAT, TCP, 4},
    {SOL_TCP, TCP_SAVE_SYN, TCP, 4},
    {SOL_TCP, TCP_INQ, TCP, 4},
    {SOL_TCP, TCP_TX_DELAY, TCP, 4},
    {SOL_UDP, UDP_CORK, DGRAM, 4},
    {SOL_UDP, UDP_ENCAP, DGRAM, 4},
    {SOL_UDP, UDP_NO_CHECK6_TX, DGRAM, 4},
    {SOL_UDP, UDP_NO_CHECK6_RX, DGRAM, 4},
    {SOL_UDP, UDP_SEGMENT, DGRAM, 4},
    {SOL_UDP, UDP_GRO, DGRAM, 4},
    {136 /* SOL_UDPLITE */, 10 /* UDPLITE_SEND_CSCOV */, DGRAM, 4},
    {136, 11 /* UDPLITE_RECV_CSCOV */, DGRAM, 4},
    {255 /* SOL_RAW */, 1 /* ICMP_FILTER */, RAW, 4},
    {SOL_ICMPV6, 1 /* ICMPV6_FILTER */, RAW, 32},
    {SOL_NETLINK, NETLINK_PKTINFO, NETLINK, 4},
    {SOL_NETLINK, NETLINK_BROADCAST_ERROR, NETLINK, 4},
    {SOL_NETLINK, NETLINK_NO_ENOBUFS, NETLINK, 4},
    {SOL_NETLINK, NETLINK_LISTEN_ALL_NSID, NETLINK, 4},
    {SOL_NETLINK, NETLINK_CAP_ACK, NETLINK, 4},
    {SOL_NETLINK, NETLINK_EXT_ACK, NETLINK, 4},
    {SOL_NETLINK, 12 /* NETLINK_GET_STRICT_CHK */, NETLINK, 4},
    {SOL_PACKET, PACKET_AUXDATA, PACKET, 4},
    {SOL_PACKET, PACKET_ORIGDEV, PACKET, 4},
    {SOL_PACKET, PACKET_VERSION, PACKET, 4},
    {SOL_PACKET, PACKET_RESERVE, PACKET, 4},
    {SOL_PACKET, PACKET_LOSS, PACKET, 4},
    {SOL_PACKET, PACKET_VNET_HDR, PACKET, 4},
    {SOL_PACKET, PACKET_TIMESTAMP, PACKET, 4},
    {SOL_PACKET, PACKET_QDISC_BYPASS, PACKET, 4},
    {SOL_PACKET, 23 /* PACKET_IGNORE_OUTGOING */, PACKET, 4},
};

/* The options of a new socket; len -1: the option can't be read there. */
struct fresh {
    uint32_t family, type, protocol;
    struct {
        int16_t len;
        uint8_t value[MAX_VALUE];
    } v[ARRAY_SIZE(options)];
    struct fresh *next;
};

static uint16_t sort_of(const Socket *m)
{
    bool ip = m->family == AF_INET || m->family == AF_INET6;
    uint16_t r = 0;

    if (m->family == AF_INET)
        r |= V4;
    if (m->family == AF_INET6)
        r |= V6;
    if (m->family == AF_UNIX)
        r |= UNIX;
    if (m->family == AF_NETLINK)
        r |= NETLINK;
    if (m->family == AF_PACKET)
        r |= PACKET;
    if (ip && m->type == SOCK_STREAM)
        r |= TCP;
    if (ip && m->type == SOCK_DGRAM)
        r |= DGRAM;
    if (ip && m->type == SOCK_RAW)
        r |= RAW;
    return r;
}

static bool has(const struct sockopt *o, uint16_t sort, bool idle)
{
    uint16_t want = o->where & (uint16_t)~(IDLE | PACKETS);

    if ((o->where & IDLE && !idle) || (o->where & PACKETS && sort & TCP))
        return false;
    if ((want & (V4 | V6)) && (want & RAW)) /* both must hold */
        return (sort & want & (V4 | V6)) && (sort & RAW);
    return want == ANY || (sort & want) != 0;
}

/* getsockopt; -1 when the socket does not have it. Trailing bytes that the kernel left alone are zero. */
static int read_option(int fd, const struct sockopt *o, uint8_t value[static MAX_VALUE])
{
    socklen_t n = o->size;

    memset(value, 0, MAX_VALUE);
    if (getsockopt(fd, o->level, o->name, value, &n) < 0 || n > o->size)
        return -1;
    return (int)n;
}

static struct fresh *find_fresh(struct ckpt *c, struct sockets *s, const Socket *m)
{
    _cleanup_close_ int fd = -1;
    struct fresh *f;

    for (f = s->fresh; f; f = f->next)
        if (f->family == m->family && f->type == m->type && f->protocol == m->protocol)
            return f;
    f = arena_alloc(c->arena, sizeof(*f));
    if (!f)
        return NULL;
    f->family = m->family;
    f->type = m->type;
    f->protocol = m->protocol;
    fd = socket((int)m->family, (int)m->type | SOCK_CLOEXEC, (int)m->protocol);
    for (size_t i = 0; i < ARRAY_SIZE(options); i++)
        f->v[i].len = fd >= 0 && has(&options[i], sort_of(m), true)
                          ? (int16_t)read_option(fd, &options[i], f->v[i].value) : -1;
    f->next = s->fresh;
    s->fresh = f;
    return f;
}

static int keep(struct ckpt *c, Socket *m, const struct sockopt *o, const uint8_t *value, int n, struct err *err)
{
    SockOpt *k = arena_alloc(c->arena, sizeof(*k));

    if (!k)
        return err_set(err, ENOMEM, "out of memory");
    sock_opt__init(k);
    k->level = o->level;
    k->name = o->name;
    k->value = arena_bytes(c->arena, value, (size_t)n);
    arena_push(c->arena, (void ***)&m->options, &m->n_options, k);
    return 0;
}

/* TCP sockets that are or were connected report what they negotiated for some options. */
static bool is_idle(int fd, const Socket *m)
{
    struct pollfd p = {.fd = fd, .events = POLLRDHUP};
    struct tcp_state t;
    struct err err;

    if (m->type != SOCK_STREAM || tcp_state(fd, &t, &err) < 0)
        return true;
    return t.state == TCP_LISTEN || (t.state == TCP_CLOSE && poll(&p, 1, 0) >= 0 && !(p.revents & POLLRDHUP));
}

int sockopt_collect(struct ckpt *c, int fd, Socket *m, struct err *err)
{
    struct sockets *s = sockets_of(c, err);
    struct fresh *f = s ? find_fresh(c, s, m) : NULL;
    bool idle = is_idle(fd, m);
    uint8_t value[MAX_VALUE];

    if (!f)
        return err_set(err, ENOMEM, "out of memory");
    for (size_t i = 0; i < ARRAY_SIZE(options); i++) {
        int n;
        if (!has(&options[i], sort_of(m), idle))
            continue;
        n = read_option(fd, &options[i], value);
        if (n < 0 || (n == f->v[i].len && memcmp(value, f->v[i].value, (size_t)n) == 0))
            continue;
        if (f->v[i].len < 0 && n == 0)
            continue;
        if (keep(c, m, &options[i], value, n, err) < 0)
            return -err->code;
    }
    return 0;
}
