/*
 * Raw sockets over IPv4 and IPv6: of a protocol of nobody's, bound, connected, with headers of their own, ICMP and
 * ICMPv6 with their filters, options.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/icmp.h>
#include <netinet/icmp6.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"
#include "tests/programs/sock.h"

#define PROTOCOL 253 /* for experiments */

static int open_raw(int family, int protocol)
{
    int fd = socket(family, SOCK_RAW | SOCK_CLOEXEC, protocol);

    if (fd < 0 && errno == EPERM)
        check_skip("raw sockets take CAP_NET_RAW");
    return (int)MUST(fd);
}

static socklen_t loopback(int family, struct sockaddr_in6 *a)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};

    *a = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_addr = in6addr_loopback};
    if (family == AF_INET)
        memcpy(a, &v4, sizeof(v4));
    return family == AF_INET ? sizeof(v4) : sizeof(*a);
}

static struct set {
    int plain, connected, control, waiting, answered;
} sets[2];
static int header;

static void echo(int fd, int family)
{
    struct sockaddr_in6 a;
    socklen_t n = loopback(family, &a);
    uint8_t q[8] = {family == AF_INET ? ICMP_ECHO : ICMP6_ECHO_REQUEST, 0, 0, 0, 1, 2, 0, 1};

    if (family == AF_INET) { /* the kernel does it for ICMPv6 */
        uint16_t sum = (uint16_t)~((q[0] << 8) + (q[4] << 8 | q[5]) + (q[6] << 8 | q[7]));
        q[2] = (uint8_t)(sum >> 8);
        q[3] = (uint8_t)sum;
    }
    MUST(sendto(fd, q, sizeof(q), 0, (void *)&a, n));
    check_true(poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, 5000) == 1, "an answer to an echo request");
}

static void filter(int fd, int family)
{
    struct icmp_filter f = {~(1u << ICMP_ECHOREPLY)};
    struct icmp6_filter f6;

    if (family == AF_INET) {
        MUST(setsockopt(fd, SOL_RAW, ICMP_FILTER, &f, sizeof(f)));
        return;
    }
    ICMP6_FILTER_SETBLOCKALL(&f6);
    ICMP6_FILTER_SETPASS(ICMP6_ECHO_REPLY, &f6);
    MUST(setsockopt(fd, IPPROTO_ICMPV6, ICMP6_FILTER, &f6, sizeof(f6)));
}

static uint8_t kept[2][2][256]; /* what waits in `waiting` and `answered` */
static ssize_t kept_len[2][2];

/* Packets that are not read: of nobody's protocol, and of the kernel. All else was read before. */
static void make_waiting(struct set *s, int family)
{
    struct sockaddr_in6 a;
    socklen_t n = loopback(family, &a);
    int i = family != AF_INET;

    s->waiting = open_raw(family, PROTOCOL - 1);
    MUST(bind(s->waiting, (void *)&a, n));
    MUST(sendto(s->waiting, "it waits", 8, 0, (void *)&a, n));
    s->answered = open_raw(family, family == AF_INET ? IPPROTO_ICMP : IPPROTO_ICMPV6);
    filter(s->answered, family);
    echo(s->answered, family);
    kept_len[i][0] = MUST(recv(s->waiting, kept[i][0], sizeof(kept[i][0]), MSG_PEEK));
    kept_len[i][1] = MUST(recv(s->answered, kept[i][1], sizeof(kept[i][1]), MSG_PEEK));
}

static void check_waiting(struct set *s, int family)
{
    int i = family != AF_INET;

    for (int k = 0; k < 2; k++) {
        int fd = k ? s->answered : s->waiting;
        struct sockaddr_in6 from = {0}, want;
        socklen_t n = sizeof(from), len = loopback(family, &want);
        uint8_t got[256];
        check_num(kept_len[i][k], recvfrom(fd, got, sizeof(got), MSG_DONTWAIT, (void *)&from, &n),
                  "bytes of the packet that waited");
        check_mem(kept[i][k], got, (size_t)kept_len[i][k], "the packet that waited");
        check_mem(&want, &from, len, "its sender");
        sock_expect_nothing(fd, "where a packet waited");
    }
}

static void make_set(struct set *s, int family)
{
    struct sockaddr_in6 a;
    socklen_t n = loopback(family, &a);
    char heard[256];
    int v = 9;

    s->plain = open_raw(family, PROTOCOL);
    s->connected = open_raw(family, PROTOCOL + 1);
    MUST(bind(s->connected, (void *)&a, n));
    MUST(connect(s->connected, (void *)&a, n));
    MUST(setsockopt(s->connected, family == AF_INET ? IPPROTO_IP : IPPROTO_IPV6,
                    family == AF_INET ? IP_TTL : IPV6_UNICAST_HOPS, &v, sizeof(v)));
    s->control = open_raw(family, family == AF_INET ? IPPROTO_ICMP : IPPROTO_ICMPV6);
    filter(s->control, family);
    make_waiting(s, family);
    MUST(recv(s->control, heard, sizeof(heard), MSG_DONTWAIT)); /* the answer, too */
}

static void expect(int fd, int family, const char *text, const char *what)
{
    char buf[128];
    size_t skip = family == AF_INET ? 20 : 0;
    ssize_t n;

    check_true(poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, 5000) == 1, "%s: something comes", what);
    n = recv(fd, buf, sizeof(buf), MSG_DONTWAIT);
    if (check_num((long long)(skip + strlen(text)), n, "%s: bytes", what))
        check_mem(text, buf + skip, strlen(text), what);
}

/* The kernel answers an echo request; the filter lets the answer pass, and not the request. */
static void ping(int fd, int family)
{
    uint8_t got[64];
    size_t skip = family == AF_INET ? 20 : 0;

    echo(fd, family);
    check_num((long long)(skip + 8), recv(fd, got, sizeof(got), MSG_DONTWAIT), "bytes of the answer");
    check_num(family == AF_INET ? ICMP_ECHOREPLY : ICMP6_ECHO_REPLY, got[skip], "type of the answer");
    sock_expect_nothing(fd, "what the filter keeps out");
}

static void check_set(struct set *s, int family)
{
    struct sockaddr_in6 a, b = {0};
    socklen_t n = loopback(family, &a), k = sizeof(b);

    check_waiting(s, family);
    MUST(sendto(s->plain, "hello", 5, 0, (void *)&a, n));
    expect(s->plain, family, "hello", "raw");
    MUST(getsockname(s->connected, (void *)&b, &k));
    ((struct sockaddr_in *)&b)->sin_port = 0; /* IPv4 puts the protocol there */
    check_mem(&a, &b, n, "address");
    MUST(send(s->connected, "to myself", 9, 0));
    expect(s->connected, family, "to myself", "connected");
    check_num(9, sock_int(s->connected, family == AF_INET ? IPPROTO_IP : IPPROTO_IPV6,
                          family == AF_INET ? IP_TTL : IPV6_UNICAST_HOPS), "time to live");
    ping(s->control, family);
}

int main(int argc, char **argv)
{
    static const int families[] = {AF_INET, AF_INET6};
    int one = 1;

    check_init(argc, argv);
    for (int i = 0; i < 2; i++)
        make_set(&sets[i], families[i]);
    header = open_raw(AF_INET, IPPROTO_RAW);
    MUST(setsockopt(header, IPPROTO_IP, IP_HDRINCL, &one, sizeof(one)));

    check_wait();

    if (check_broken())
        MUST(close(sets[0].connected)), sets[0].connected = open_raw(AF_INET, PROTOCOL);
    for (int i = 0; i < 2; i++)
        check_set(&sets[i], families[i]);
    check_num(1, sock_int(header, IPPROTO_IP, IP_HDRINCL), "IP_HDRINCL");
    return check_end();
}
