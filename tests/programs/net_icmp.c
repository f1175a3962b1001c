/*
 * ICMP and ICMPv6 datagram sockets ("ping sockets"): bound to an identifier, connected, or nothing; echo requests
 * after the restart are answered to them, and an answer that was not read yet is still there.
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

static int open_ping(int family)
{
    int fd = socket(family, SOCK_DGRAM | SOCK_CLOEXEC, family == AF_INET ? (int)IPPROTO_ICMP : (int)IPPROTO_ICMPV6);

    if (fd < 0 && errno == EACCES)
        check_skip("net.ipv4.ping_group_range does not allow ICMP sockets");
    return (int)MUST(fd);
}

static socklen_t loopback(int family, uint16_t id, struct sockaddr_in6 *a)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(id)};

    *a = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_addr = in6addr_loopback, .sin6_port = htons(id)};
    if (family == AF_INET)
        memcpy(a, &v4, sizeof(v4));
    return family == AF_INET ? sizeof(v4) : sizeof(*a);
}

static uint16_t id_of(int fd)
{
    struct sockaddr_in6 a = {0};
    socklen_t n = sizeof(a);

    MUST(getsockname(fd, (void *)&a, &n));
    return ntohs(a.sin6_port);
}

static void ping(int fd, int family, bool connected, const char *what)
{
    struct sockaddr_in6 a;
    socklen_t n = loopback(family, 0, &a);
    uint8_t q[8] = {family == AF_INET ? ICMP_ECHO : ICMP6_ECHO_REQUEST, 0, 0, 0, 0, 0, 0, 1}, got[64];

    MUST(sendto(fd, q, sizeof(q), 0, connected ? NULL : (void *)&a, connected ? 0 : n));
    check_true(poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, 5000) == 1, "%s: an answer", what);
    check_num(sizeof(q), recv(fd, got, sizeof(got), MSG_DONTWAIT), "%s: bytes of the answer", what);
    check_num(family == AF_INET ? ICMP_ECHOREPLY : ICMP6_ECHO_REPLY, got[0], "%s: type of the answer", what);
    check_num(id_of(fd), got[4] << 8 | got[5], "%s: identifier", what);
    sock_expect_nothing(fd, what);
}

static struct set {
    int fresh, bound, connected, waiting;
    uint16_t id, id2;
    uint8_t reply[64]; /* what waits */
    struct sockaddr_in6 from;
    socklen_t from_len;
} sets[2];

static void make_waiting(struct set *s, int family)
{
    uint8_t q[64] = {family == AF_INET ? ICMP_ECHO : ICMP6_ECHO_REQUEST, 0, 0, 0, 0, 0, 0, 3};
    struct sockaddr_in6 a;
    socklen_t n = loopback(family, 0, &a);

    check_fill(q + 8, sizeof(q) - 8, (uint64_t)family);
    s->waiting = open_ping(family);
    MUST(sendto(s->waiting, q, sizeof(q), 0, (void *)&a, n));
    check_true(poll(&(struct pollfd){.fd = s->waiting, .events = POLLIN}, 1, 5000) == 1, "an answer");
    s->from_len = sizeof(s->from);
    check_num(sizeof(q), recvfrom(s->waiting, s->reply, sizeof(s->reply), MSG_PEEK, (void *)&s->from, &s->from_len),
              "bytes of the answer");
}

static void check_waiting(struct set *s)
{
    uint8_t got[65] = {0};
    struct sockaddr_in6 from = {0};
    socklen_t n = sizeof(from);

    check_num(sizeof(s->reply), recvfrom(s->waiting, got, sizeof(got), MSG_DONTWAIT, (void *)&from, &n),
              "bytes of the answer that waited");
    check_mem(s->reply, got, sizeof(s->reply), "the answer that waited");
    check_num(s->from_len, n, "length of its sender's address");
    check_mem(&s->from, &from, n, "its sender");
    sock_expect_nothing(s->waiting, "where an answer waited");
}

static void make_set(struct set *s, int family, uint16_t id)
{
    struct sockaddr_in6 a;
    socklen_t n = loopback(family, id, &a);
    int one = 1;

    s->fresh = open_ping(family);
    s->bound = open_ping(family);
    MUST(bind(s->bound, (void *)&a, n));
    MUST(setsockopt(s->bound, family == AF_INET ? IPPROTO_IP : IPPROTO_IPV6,
                    family == AF_INET ? IP_RECVTTL : IPV6_RECVHOPLIMIT, &one, sizeof(one)));
    s->connected = open_ping(family);
    n = loopback(family, 0, &a);
    MUST(connect(s->connected, (void *)&a, n));
    ping(s->bound, family, false, "before");
    make_waiting(s, family);
    s->id = id_of(s->bound);
    s->id2 = id_of(s->connected);
}

static void check_set(struct set *s, int family)
{
    check_num(s->id, id_of(s->bound), "identifier");
    check_num(s->id2, id_of(s->connected), "identifier of a connected one");
    check_num(1, sock_int(s->bound, family == AF_INET ? IPPROTO_IP : IPPROTO_IPV6,
                          family == AF_INET ? IP_RECVTTL : IPV6_RECVHOPLIMIT), "option");
    ping(s->fresh, family, false, "new");
    ping(s->bound, family, false, "bound");
    ping(s->connected, family, true, "connected");
    check_waiting(s);
}

int main(int argc, char **argv)
{
    static const int families[] = {AF_INET, AF_INET6};

    check_init(argc, argv);
    for (int i = 0; i < 2; i++)
        make_set(&sets[i], families[i], (uint16_t)(4711 + i));

    check_wait();

    if (check_broken())
        MUST(close(sets[0].bound)), sets[0].bound = open_ping(AF_INET);
    for (int i = 0; i < 2; i++)
        check_set(&sets[i], families[i]);
    return check_end();
}
