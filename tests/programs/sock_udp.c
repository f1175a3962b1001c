/*
 * UDP and UDP-Lite over IPv4 and IPv6: bound, connected, sharing a port, with messages waiting from several senders
 * (one of them gone), of no bytes; options, filters, multicast groups.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/filter.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"
#include "tests/programs/sock.h"

struct place {
    int fd;
    struct sockaddr_in6 a; /* of either family */
    socklen_t len;
};

static struct place make_bound(int family, int protocol, bool any)
{
    struct place p = {.len = sizeof(p.a)};
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(any ? INADDR_ANY : INADDR_LOOPBACK)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_addr = any ? in6addr_any : in6addr_loopback};

    p.fd = (int)MUST(socket(family, SOCK_DGRAM, protocol));
    MUST(bind(p.fd, family == AF_INET ? (void *)&v4 : (void *)&v6, family == AF_INET ? sizeof(v4) : sizeof(v6)));
    MUST(getsockname(p.fd, (void *)&p.a, &p.len));
    return p;
}

/* The address under which others reach it. */
static struct sockaddr_in6 reach(const struct place *p)
{
    struct sockaddr_in6 a = p->a;

    if (a.sin6_family == AF_INET)
        ((struct sockaddr_in *)&a)->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    else
        a.sin6_addr = in6addr_loopback;
    return a;
}

static void send_from(const struct place *from, const struct place *to, const char *text)
{
    struct sockaddr_in6 a = reach(to);

    MUST(sendto(from->fd, text, strlen(text), 0, (void *)&a, to->len));
}

static void expect_from(const struct place *to, const char *text, const struct place *from, const char *what)
{
    struct sockaddr_in6 a = {0}, want = reach(from);
    socklen_t n = sizeof(a);
    char buf[256] = "";
    ssize_t r = recvfrom(to->fd, buf, sizeof(buf) - 1, MSG_DONTWAIT, (void *)&a, &n);

    if (r < 0) {
        check_fail("%s: %s", what, strerror(errno));
        return;
    }
    check_str(text, buf, what);
    check_mem(&want, &a, from->a.sin6_family == AF_INET ? 8 : 24, what);
}

static struct set {
    struct place inbox, named, gone, other, connected, lite, lite_to;
} sets[2];

static void make_set(struct set *s, int family)
{
    s->inbox = make_bound(family, 0, true);
    s->named = make_bound(family, 0, false);
    s->other = make_bound(family, 0, true);
    s->gone = make_bound(family, 0, false);
    send_from(&s->named, &s->inbox, "first");
    send_from(&s->gone, &s->inbox, "from one that is gone");
    send_from(&s->named, &s->inbox, "");
    send_from(&s->other, &s->inbox, "last");
    close(s->gone.fd);
    s->connected = make_bound(family, 0, false);
    send_from(&s->other, &s->connected, "before it was connected");
    MUST(connect(s->connected.fd, (void *)&s->named.a, s->named.len));
    send_from(&s->named, &s->connected, "from the peer");
    s->lite = make_bound(family, IPPROTO_UDPLITE, false);
    s->lite_to = make_bound(family, IPPROTO_UDPLITE, false);
    send_from(&s->lite, &s->lite_to, "lite");
}

static void check_set(struct set *s)
{
    struct sockaddr_in6 a = {0};
    socklen_t n = sizeof(a);

    expect_from(&s->inbox, "first", &s->named, "first message");
    expect_from(&s->inbox, "from one that is gone", &s->gone, "message of one that is gone");
    expect_from(&s->inbox, "", &s->named, "message of no bytes");
    expect_from(&s->inbox, "last", &s->other, "last message");
    sock_expect_nothing(s->inbox.fd, "inbox");
    MUST(getsockname(s->inbox.fd, (void *)&a, &n));
    check_mem(&s->inbox.a, &a, s->inbox.len, "address");
    expect_from(&s->connected, "before it was connected", &s->other, "message from before");
    expect_from(&s->connected, "from the peer", &s->named, "message of the peer");
    n = sizeof(a);
    MUST(getpeername(s->connected.fd, (void *)&a, &n));
    check_mem(&s->named.a, &a, s->named.len, "peer");
    send_from(&s->other, &s->connected, "not for a connected one");
    sock_expect_nothing(s->connected.fd, "connected");
    MUST(send(s->connected.fd, "reply", 5, 0));
    expect_from(&s->named, "reply", &s->connected, "reply");
    expect_from(&s->lite_to, "lite", &s->lite, "UDP-Lite");
}

/* ---- sharing a port ---- */

static struct place shared[2];
static int counts[2];

static void make_shared(void)
{
    struct place from = make_bound(AF_INET, 0, false);
    int one = 1;

    for (int i = 0; i < 2; i++) {
        struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        shared[i].fd = (int)MUST(socket(AF_INET, SOCK_DGRAM, 0));
        MUST(setsockopt(shared[i].fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one)));
        MUST(bind(shared[i].fd, i ? (void *)&shared[0].a : (void *)&a, sizeof(a)));
        shared[i].len = sizeof(shared[i].a);
        MUST(getsockname(shared[i].fd, (void *)&shared[i].a, &shared[i].len));
    }
    for (int i = 0; i < 8; i++) {
        struct place p = make_bound(AF_INET, 0, false);
        send_from(&p, &shared[0], "x");
        close(p.fd);
    }
    close(from.fd);
    for (int i = 0; i < 2; i++) /* 8 in all; how they are shared out is the kernel's choice */
        counts[i] = sock_int(shared[i].fd, SOL_SOCKET, SO_REUSEPORT);
}

static void check_shared(void)
{
    int got = 0;
    char c;

    for (int i = 0; i < 2; i++)
        while (recv(shared[i].fd, &c, 1, MSG_DONTWAIT) == 1)
            got++;
    check_num(8, got, "messages at a shared port");
    check_num(1, counts[0] & counts[1], "SO_REUSEPORT");
}

/* ---- options ---- */

static struct place tuned;

static void make_options(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_LEN, 0),
        BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, 8 + 4, 0, 1), /* longer than four bytes: not for us */
        BPF_STMT(BPF_RET | BPF_K, 0),
        BPF_STMT(BPF_RET | BPF_K, 0xffff),
    };
    struct sock_fprog p = {4, code};
    struct ip_mreqn m = {.imr_multiaddr.s_addr = htonl(0xefc80101), .imr_ifindex = (int)if_nametoindex("lo")};
    struct ip_mreq_source src = {.imr_multiaddr.s_addr = htonl(0xefc80102), .imr_interface.s_addr = htonl(INADDR_LOOPBACK),
                                 .imr_sourceaddr.s_addr = htonl(0x7f000005)};
    int one = 1, v;

    tuned = make_bound(AF_INET, 0, true);
    MUST(setsockopt(tuned.fd, SOL_SOCKET, SO_ATTACH_FILTER, &p, sizeof(p)));
    MUST(setsockopt(tuned.fd, SOL_SOCKET, SO_BROADCAST, &one, sizeof(one)));
    MUST(setsockopt(tuned.fd, IPPROTO_IP, IP_PKTINFO, &one, sizeof(one)));
    MUST(setsockopt(tuned.fd, IPPROTO_IP, IP_RECVTTL, &one, sizeof(one)));
    v = 9;
    MUST(setsockopt(tuned.fd, IPPROTO_IP, IP_MULTICAST_TTL, &v, sizeof(v)));
    MUST(setsockopt(tuned.fd, IPPROTO_IP, IP_TTL, &v, sizeof(v)));
    v = IP_PMTUDISC_DO;
    MUST(setsockopt(tuned.fd, IPPROTO_IP, IP_MTU_DISCOVER, &v, sizeof(v)));
    MUST(setsockopt(tuned.fd, IPPROTO_IP, IP_ADD_MEMBERSHIP, &m, sizeof(m)));
    MUST(setsockopt(tuned.fd, IPPROTO_IP, IP_ADD_SOURCE_MEMBERSHIP, &src, sizeof(src)));
    MUST(setsockopt(tuned.fd, IPPROTO_UDP, UDP_GRO, &one, sizeof(one)));
}

static void check_options(void)
{
    struct place from = make_bound(AF_INET, 0, false);
    struct ip_mreqn m = {.imr_multiaddr.s_addr = htonl(0xefc80101), .imr_ifindex = (int)if_nametoindex("lo")};
    struct ip_mreq_source src = {.imr_multiaddr.s_addr = htonl(0xefc80102), .imr_interface.s_addr = htonl(INADDR_LOOPBACK),
                                 .imr_sourceaddr.s_addr = htonl(0x7f000005)};

    check_num(1, sock_int(tuned.fd, SOL_SOCKET, SO_BROADCAST), "SO_BROADCAST");
    check_num(1, sock_int(tuned.fd, IPPROTO_IP, IP_PKTINFO), "IP_PKTINFO");
    check_num(1, sock_int(tuned.fd, IPPROTO_IP, IP_RECVTTL), "IP_RECVTTL");
    check_num(9, sock_int(tuned.fd, IPPROTO_IP, IP_MULTICAST_TTL), "IP_MULTICAST_TTL");
    check_num(9, sock_int(tuned.fd, IPPROTO_IP, IP_TTL), "IP_TTL");
    check_num(IP_PMTUDISC_DO, sock_int(tuned.fd, IPPROTO_IP, IP_MTU_DISCOVER), "IP_MTU_DISCOVER");
    check_num(1, sock_int(tuned.fd, IPPROTO_UDP, UDP_GRO), "UDP_GRO");
    send_from(&from, &tuned, "too long");
    sock_expect_nothing(tuned.fd, "what the filter keeps out");
    send_from(&from, &tuned, "ok");
    expect_from(&tuned, "ok", &from, "what the filter lets pass");
    check_num(EADDRINUSE, setsockopt(tuned.fd, IPPROTO_IP, IP_ADD_MEMBERSHIP, &m, sizeof(m)) < 0 ? errno : 0,
              "errno of joining a group again");
    check_num(0, setsockopt(tuned.fd, IPPROTO_IP, IP_DROP_SOURCE_MEMBERSHIP, &src, sizeof(src)),
              "leaving a group with a source");
    close(from.fd);
}

/* ---- multicast over IPv6 ---- */

static struct place heard;

static struct sockaddr_in6 group6(int last)
{
    struct sockaddr_in6 a = {.sin6_family = AF_INET6, .sin6_addr.s6_addr = {0xff, 0x15, [15] = (uint8_t)last}};

    a.sin6_port = heard.a.sin6_port;
    a.sin6_scope_id = if_nametoindex("lo");
    return a;
}

static int join6(int last)
{
    struct group_req q = {.gr_interface = if_nametoindex("lo")};
    struct sockaddr_in6 a = group6(last);

    memcpy(&q.gr_group, &a, sizeof(a));
    return setsockopt(heard.fd, IPPROTO_IPV6, MCAST_JOIN_GROUP, &q, sizeof(q)) < 0 ? errno : 0;
}

/* All but one source, of which there are none here. */
static int block6(int option)
{
    struct group_source_req q = {.gsr_interface = if_nametoindex("lo")};
    struct sockaddr_in6 a = group6(2), from = {.sin6_family = AF_INET6, .sin6_addr.s6_addr = {0xfd, [15] = 9}};

    memcpy(&q.gsr_group, &a, sizeof(a));
    memcpy(&q.gsr_source, &from, sizeof(from));
    return setsockopt(heard.fd, IPPROTO_IPV6, option, &q, sizeof(q)) < 0 ? errno : 0;
}

static void make_groups6(void)
{
    heard = make_bound(AF_INET6, 0, true);
    check_num(0, join6(1), "joining a group");
    check_num(0, join6(2), "joining a group");
    check_num(0, block6(MCAST_BLOCK_SOURCE), "blocking a source");
}

static void check_groups6(void)
{
    check_num(EADDRINUSE, join6(1), "errno of joining an IPv6 group again");
    check_num(EADDRINUSE, join6(2), "errno of joining an IPv6 group again");
    check_num(0, block6(MCAST_UNBLOCK_SOURCE), "errno of letting a source speak again");
    check_num(0, join6(3), "errno of joining another group");
}

int main(int argc, char **argv)
{
    static const int families[] = {AF_INET, AF_INET6};
    struct place fresh;

    check_init(argc, argv);
    for (int i = 0; i < 2; i++)
        make_set(&sets[i], families[i]);
    make_shared();
    make_options();
    make_groups6();
    fresh.fd = (int)MUST(socket(AF_INET, SOCK_DGRAM, 0));

    check_wait();

    if (check_broken())
        recv(sets[0].inbox.fd, &fresh.a, 1, 0);
    for (int i = 0; i < 2; i++)
        check_set(&sets[i]);
    check_shared();
    check_options();
    check_groups6();
    fresh.len = sizeof(fresh.a);
    MUST(getsockname(fresh.fd, (void *)&fresh.a, &fresh.len));
    check_num(0, ((struct sockaddr_in *)&fresh.a)->sin_port, "port of a new socket");
    return check_end();
}
