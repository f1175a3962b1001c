/*
 * Options of TCP and UDP sockets, one by one, on sockets that are new, that listen and that are connected: each
 * is set, and must read the same afterwards. What a kernel or a user does not have is passed over, and said.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/errqueue.h>
#include <linux/net_tstamp.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"
#include "tests/programs/sock.h"

enum { V4 = 1, V6 = 2, TCP = 4, UDP = 8, NEW = 16, LISTEN = 32, CONNECTED = 64, ANY = 127 };

static const struct option {
    int level, name;
    int v[4];
    int size, where;
    const char *what;
} options[] = {
#define O(level, name, where, ...) {level, name, {__VA_ARGS__}, sizeof((int[]){__VA_ARGS__}), where, #name}
    O(SOL_SOCKET, SO_REUSEADDR, ANY, 1),
    O(SOL_SOCKET, SO_REUSEPORT, ANY, 1),
    O(SOL_SOCKET, SO_DEBUG, ANY, 1),
    O(SOL_SOCKET, SO_DONTROUTE, ANY, 1),
    O(SOL_SOCKET, SO_BROADCAST, ANY, 1),
    O(SOL_SOCKET, SO_KEEPALIVE, ANY, 1),
    O(SOL_SOCKET, SO_OOBINLINE, ANY, 1),
    O(SOL_SOCKET, SO_NO_CHECK, ANY, 1),
    O(SOL_SOCKET, SO_LINGER, ANY, 1, 5),
    O(SOL_SOCKET, SO_RCVLOWAT, ANY, 3),
    O(SOL_SOCKET, SO_RCVTIMEO, ANY, 3, 0, 250000, 0),
    O(SOL_SOCKET, SO_SNDTIMEO, ANY, 4, 0, 500000, 0),
    O(SOL_SOCKET, SO_TIMESTAMPING, ANY, SOF_TIMESTAMPING_RX_SOFTWARE | SOF_TIMESTAMPING_SOFTWARE),
    O(SOL_SOCKET, SO_MARK, ANY, 17),
    O(SOL_SOCKET, SO_RXQ_OVFL, ANY, 1),
    O(SOL_SOCKET, SO_BUSY_POLL, ANY, 50),
    O(SOL_SOCKET, SO_MAX_PACING_RATE, ANY, 1000000, 0),
    O(SOL_SOCKET, SO_ZEROCOPY, ANY, 1),
    O(SOL_SOCKET, SO_SNDBUF, ANY, 30000),
    O(SOL_SOCKET, SO_RCVBUF, ANY, 40000),
    O(SOL_SOCKET, SO_PRIORITY, ANY, 5),
    O(IPPROTO_IP, IP_TOS, V4 | TCP | UDP | NEW | LISTEN | CONNECTED, 0x10),
    O(IPPROTO_IP, IP_TTL, V4 | TCP | UDP | NEW | LISTEN | CONNECTED, 33),
    O(IPPROTO_IP, IP_MTU_DISCOVER, V4 | TCP | UDP | NEW | LISTEN | CONNECTED, IP_PMTUDISC_DO),
    O(IPPROTO_IP, IP_RECVERR, V4 | TCP | UDP | NEW | LISTEN | CONNECTED, 1),
    O(IPPROTO_IP, IP_RECVTOS, V4 | TCP | UDP | NEW | LISTEN | CONNECTED, 1),
    O(IPPROTO_IP, IP_FREEBIND, V4 | TCP | UDP | NEW | LISTEN | CONNECTED, 1),
    O(IPPROTO_IP, IP_TRANSPARENT, V4 | TCP | UDP | NEW | LISTEN | CONNECTED, 1),
    O(IPPROTO_IP, IP_MINTTL, V4 | TCP | UDP | NEW | LISTEN | CONNECTED, 10),
    O(IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, V4 | TCP | UDP | NEW, 1),
    O(IPPROTO_IP, IP_PKTINFO, V4 | UDP | NEW | CONNECTED, 1),
    O(IPPROTO_IP, IP_RECVOPTS, V4 | UDP | NEW | CONNECTED, 1),
    O(IPPROTO_IP, IP_ORIGDSTADDR, V4 | UDP | NEW | CONNECTED, 1),
    O(IPPROTO_IP, IP_MULTICAST_TTL, V4 | UDP | NEW | CONNECTED, 7),
    O(IPPROTO_IP, IP_MULTICAST_LOOP, V4 | UDP | NEW | CONNECTED, 0),
    O(IPPROTO_IP, IP_MULTICAST_ALL, V4 | UDP | NEW | CONNECTED, 0),
    O(IPPROTO_IPV6, IPV6_V6ONLY, V6 | TCP | UDP | NEW, 1),
    O(IPPROTO_IPV6, IPV6_UNICAST_HOPS, V6 | TCP | UDP | NEW | LISTEN | CONNECTED, 44),
    O(IPPROTO_IPV6, IPV6_TCLASS, V6 | TCP | UDP | NEW | LISTEN | CONNECTED, 0x20),
    O(IPPROTO_IPV6, IPV6_MTU_DISCOVER, V6 | TCP | UDP | NEW | LISTEN | CONNECTED, IPV6_PMTUDISC_DO),
    O(IPPROTO_IPV6, IPV6_RECVERR, V6 | TCP | UDP | NEW | LISTEN | CONNECTED, 1),
    O(IPPROTO_IPV6, IPV6_RECVPKTINFO, V6 | TCP | UDP | NEW | LISTEN | CONNECTED, 1),
    O(IPPROTO_IPV6, IPV6_RECVHOPLIMIT, V6 | TCP | UDP | NEW | LISTEN | CONNECTED, 1),
    O(IPPROTO_IPV6, IPV6_RECVTCLASS, V6 | TCP | UDP | NEW | LISTEN | CONNECTED, 1),
    O(IPPROTO_IPV6, IPV6_DONTFRAG, V6 | TCP | UDP | NEW | LISTEN | CONNECTED, 1),
    O(IPPROTO_IPV6, IPV6_MINHOPCOUNT, V6 | TCP | UDP | NEW | LISTEN | CONNECTED, 10),
    O(IPPROTO_IPV6, IPV6_AUTOFLOWLABEL, V6 | TCP | UDP | NEW | LISTEN | CONNECTED, 0),
    O(IPPROTO_IPV6, IPV6_MULTICAST_HOPS, V6 | UDP | NEW | CONNECTED, 7),
    O(IPPROTO_IPV6, IPV6_MULTICAST_LOOP, V6 | UDP | NEW | CONNECTED, 0),
    O(IPPROTO_TCP, TCP_NODELAY, V4 | V6 | TCP | NEW | LISTEN | CONNECTED, 1),
    O(IPPROTO_TCP, TCP_CORK, V4 | V6 | TCP | NEW | LISTEN | CONNECTED, 1),
    O(IPPROTO_TCP, TCP_MAXSEG, V4 | V6 | TCP | NEW | LISTEN, 1000),
    O(IPPROTO_TCP, TCP_KEEPIDLE, V4 | V6 | TCP | NEW | LISTEN | CONNECTED, 77),
    O(IPPROTO_TCP, TCP_KEEPINTVL, V4 | V6 | TCP | NEW | LISTEN | CONNECTED, 7),
    O(IPPROTO_TCP, TCP_KEEPCNT, V4 | V6 | TCP | NEW | LISTEN | CONNECTED, 4),
    O(IPPROTO_TCP, TCP_SYNCNT, V4 | V6 | TCP | NEW | LISTEN | CONNECTED, 3),
    O(IPPROTO_TCP, TCP_LINGER2, V4 | V6 | TCP | NEW | LISTEN | CONNECTED, 9),
    O(IPPROTO_TCP, TCP_DEFER_ACCEPT, V4 | V6 | TCP | NEW | LISTEN, 3),
    O(IPPROTO_TCP, TCP_WINDOW_CLAMP, V4 | V6 | TCP | NEW | LISTEN, 20000),
    O(IPPROTO_TCP, TCP_USER_TIMEOUT, V4 | V6 | TCP | NEW | LISTEN | CONNECTED, 54321),
    O(IPPROTO_TCP, TCP_NOTSENT_LOWAT, V4 | V6 | TCP | NEW | LISTEN | CONNECTED, 16384),
    O(IPPROTO_TCP, TCP_THIN_LINEAR_TIMEOUTS, V4 | V6 | TCP | NEW | LISTEN | CONNECTED, 1),
    O(IPPROTO_TCP, TCP_FASTOPEN, V4 | V6 | TCP | LISTEN, 5),
    O(IPPROTO_TCP, TCP_FASTOPEN_CONNECT, V4 | V6 | TCP | NEW, 1),
    O(IPPROTO_TCP, TCP_SAVE_SYN, V4 | V6 | TCP | NEW | LISTEN, 1),
    O(IPPROTO_TCP, TCP_INQ, V4 | V6 | TCP | NEW | LISTEN | CONNECTED, 1),
    O(IPPROTO_TCP, TCP_CONGESTION, V4 | V6 | TCP | NEW | LISTEN | CONNECTED, 0x6f6e6572 /* "reno" */),
    O(IPPROTO_UDP, UDP_NO_CHECK6_TX, V6 | UDP | NEW | CONNECTED, 1),
    O(IPPROTO_UDP, UDP_NO_CHECK6_RX, V6 | UDP | NEW | CONNECTED, 1),
    O(IPPROTO_UDP, UDP_SEGMENT, V4 | V6 | UDP | NEW | CONNECTED, 512),
    O(IPPROTO_UDP, UDP_GRO, V4 | V6 | UDP | NEW | CONNECTED, 1),
};

#define N    (sizeof(options) / sizeof(options[0]))
#define MAX  256
#define SIZE 64

static struct tested {
    int fd, sort;
    size_t option;
    unsigned char before[SIZE];
    socklen_t len;
} tested[MAX];
static size_t n_tested;

static bool applies(const struct option *o, int sort)
{
    return (o->where & sort & (V4 | V6)) && (o->where & sort & (TCP | UDP)) && (o->where & sort & (NEW | LISTEN | CONNECTED));
}

static socklen_t loopback(int sort, struct sockaddr_in6 *a)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};

    *a = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_addr = in6addr_loopback};
    if (sort & V4)
        memcpy(a, &v4, sizeof(v4));
    return sort & V4 ? sizeof(v4) : sizeof(*a);
}

static int make_socket(int sort)
{
    return (int)MUST(socket(sort & V4 ? AF_INET : AF_INET6, sort & TCP ? SOCK_STREAM : SOCK_DGRAM, 0));
}

static int make(int sort)
{
    int fd = make_socket(sort), l, one = 1;
    struct sockaddr_in6 a;
    socklen_t n = loopback(sort, &a);

    if (sort & NEW)
        return fd;
    if (sort & LISTEN) {
        MUST(bind(fd, (void *)&a, n));
        MUST(listen(fd, 3));
        return fd;
    }
    l = make_socket(sort);
    if (sort & TCP)
        MUST(setsockopt(l, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)));
    MUST(bind(l, (void *)&a, n));
    if (sort & TCP)
        MUST(listen(l, 3));
    MUST(getsockname(l, (void *)&a, &n));
    MUST(connect(fd, (void *)&a, n));
    if (sort & TCP) {
        MUST(accept(l, NULL, NULL)); /* stays open */
        close(l);
    }
    return fd;
}

/* One option on a socket of its own, because some change others. */
static void set_one(size_t i, int sort)
{
    const struct option *o = &options[i];
    struct tested *t = &tested[n_tested];

    t->fd = make(sort);
    t->sort = sort;
    t->option = i;
    if (setsockopt(t->fd, o->level, o->name, o->v, (socklen_t)o->size) < 0) {
        check_note("%s can't be set here: %s", o->what, strerror(errno));
        close(t->fd);
        return;
    }
    t->len = SIZE;
    if (getsockopt(t->fd, o->level, o->name, t->before, &t->len) < 0)
        close(t->fd);
    else
        n_tested++;
}

static void check_one(const struct tested *t)
{
    const struct option *o = &options[t->option];
    unsigned char now[SIZE] = {0};
    socklen_t n = SIZE;
    char what[128];

    snprintf(what, sizeof(what), "%s of a%s %s %s socket", o->what,
             t->sort & NEW ? " new" : t->sort & LISTEN ? " listening" : " connected", t->sort & V4 ? "IPv4" : "IPv6",
             t->sort & TCP ? "TCP" : "UDP");
    if (getsockopt(t->fd, o->level, o->name, now, &n) < 0)
        check_fail("%s: %s", what, strerror(errno));
    else if (check_num(t->len, n, "length of %s", what))
        check_mem(t->before, now, n, what);
}

int main(int argc, char **argv)
{
    static const int sorts[] = {
        V4 | TCP | NEW, V4 | TCP | LISTEN, V4 | TCP | CONNECTED, V4 | UDP | NEW, V4 | UDP | CONNECTED,
        V6 | TCP | NEW, V6 | TCP | LISTEN, V6 | TCP | CONNECTED, V6 | UDP | NEW, V6 | UDP | CONNECTED,
    };

    check_init(argc, argv);
    for (size_t i = 0; i < N; i++)
        for (size_t k = 0; k < sizeof(sorts) / sizeof(sorts[0]); k++)
            if (applies(&options[i], sorts[k]) && n_tested < MAX)
                set_one(i, sorts[k]);

    check_wait();

    if (check_broken())
        MUST(setsockopt(tested[0].fd, SOL_SOCKET, SO_REUSEADDR, (int[]){0}, sizeof(int)));
    for (size_t i = 0; i < n_tested; i++)
        check_one(&tested[i]);
    return check_end();
}
