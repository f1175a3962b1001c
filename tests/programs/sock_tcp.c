/*
 * TCP connections on the loopback interface, IPv4, IPv6 and IPv4 seen by IPv6: with a little or all that fits
 * under way in both directions, half-closed, with a peer that is gone, reset, urgent data, held back by TCP_CORK;
 * their addresses and options. Each kind once for each address family.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"
#include "tests/programs/sock.h"

#define FAMILIES 3

struct pair {
    int client, server;
    struct sockaddr_in6 name, peer; /* of the client, as the kernel gives them */
};

static int listener[FAMILIES];
static struct sockaddr_in6 where[FAMILIES];
static socklen_t where_len[FAMILIES];

static void address(int fd, bool peer, struct sockaddr_in6 *a)
{
    socklen_t n = sizeof(*a);

    memset(a, 0, sizeof(*a));
    MUST(peer ? getpeername(fd, (void *)a, &n) : getsockname(fd, (void *)a, &n));
}

/* 0: IPv4; 1: IPv6; 2: a client of IPv4 and a server of IPv6 */
static void make_listeners(void)
{
    for (int f = 0; f < FAMILIES; f++) {
        struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_addr = f == 1 ? in6addr_loopback : in6addr_any};
        socklen_t n = f ? sizeof(v6) : sizeof(v4);
        int one = 1;
        listener[f] = (int)MUST(socket(f ? AF_INET6 : AF_INET, SOCK_STREAM, 0));
        /* As servers do; else they can't be started again for a minute, nor can this without root. */
        MUST(setsockopt(listener[f], SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)));
        MUST(bind(listener[f], f ? (void *)&v6 : (void *)&v4, n));
        MUST(listen(listener[f], 5));
        n = sizeof(where[f]);
        MUST(getsockname(listener[f], (void *)&where[f], &n));
        where_len[f] = n;
        if (f == 2) {
            v4.sin_port = where[f].sin6_port;
            memcpy(&where[f], &v4, sizeof(v4));
            where_len[f] = sizeof(v4);
        }
    }
}

static struct pair make_pair(int f)
{
    struct pair p;

    p.client = (int)MUST(socket(f == 1 ? AF_INET6 : AF_INET, SOCK_STREAM, 0));
    MUST(connect(p.client, (void *)&where[f], where_len[f]));
    p.server = (int)MUST(accept(listener[f], NULL, NULL));
    address(p.client, false, &p.name);
    address(p.client, true, &p.peer);
    return p;
}

static void check_pair(const struct pair *p, const char *what)
{
    struct sockaddr_in6 a;

    address(p->client, false, &a);
    check_mem(&p->name, &a, sizeof(a), what);
    address(p->client, true, &a);
    check_mem(&p->peer, &a, sizeof(a), what);
}

/* ---- one of each for a family ---- */

static struct set {
    struct pair small, full, half, gone, aborted, urgent, corked, idle, both;
    size_t there, back;
} sets[FAMILIES];

static void make_set(struct set *s, int f)
{
    struct linger abort = {1, 0};
    int one = 1;

    s->small = make_pair(f);
    MUST(send(s->small.client, "question", 8, 0));
    MUST(send(s->small.server, "answer", 6, 0));
    s->full = make_pair(f);
    s->there = sock_stuff(s->full.client, 1);
    s->back = sock_stuff(s->full.server, 2);
    s->half = make_pair(f);
    MUST(send(s->half.client, "last words", 10, 0));
    MUST(shutdown(s->half.client, SHUT_WR));
    s->gone = make_pair(f);
    MUST(send(s->gone.client, "farewell", 8, 0));
    MUST(close(s->gone.client));
    s->aborted = make_pair(f);
    MUST(send(s->aborted.client, "before", 6, 0));
    MUST(poll(&(struct pollfd){.fd = s->aborted.server, .events = POLLIN}, 1, 1000));
    MUST(setsockopt(s->aborted.client, SOL_SOCKET, SO_LINGER, &abort, sizeof(abort)));
    MUST(close(s->aborted.client));
    s->urgent = make_pair(f);
    MUST(send(s->urgent.client, "calm", 4, 0));
    MUST(send(s->urgent.client, "!", 1, MSG_OOB));
    MUST(send(s->urgent.client, "again", 5, 0));
    s->corked = make_pair(f);
    MUST(setsockopt(s->corked.client, IPPROTO_TCP, TCP_CORK, &one, sizeof(one)));
    MUST(send(s->corked.client, "held back", 9, 0));
    s->idle = make_pair(f);
    s->both = make_pair(f);
    MUST(send(s->both.client, "end", 3, 0));
    MUST(shutdown(s->both.client, SHUT_WR));
    MUST(shutdown(s->both.server, SHUT_WR));
}

static void check_set(struct set *s)
{
    char c = 0;
    int mark = 0;

    check_pair(&s->small, "addresses");
    sock_expect(s->small.server, "question", "connection");
    sock_expect(s->small.client, "answer", "connection, the other way");
    sock_expect_nothing(s->small.client, "connection");
    check_pair(&s->full, "addresses of a full connection");
    sock_drain(s->full.server, s->there, 1, "full connection");
    sock_drain(s->full.client, s->back, 2, "full connection, the other way");
    sock_expect_nothing(s->full.server, "full connection");
    sock_expect(s->half.server, "last words", "half-closed");
    sock_expect_end(s->half.server, "half-closed");
    check_num(3, send(s->half.server, "yes", 3, 0), "bytes in the direction that is open");
    sock_expect(s->half.client, "yes", "the direction that is open");
    check_num(EPIPE, send(s->half.client, "x", 1, MSG_NOSIGNAL) < 0 ? errno : 0, "errno of writing after SHUT_WR");
    sock_expect(s->gone.server, "farewell", "peer gone");
    sock_expect_end(s->gone.server, "peer gone");
    sock_expect(s->aborted.server, "before", "before a reset");
    check_num(ECONNRESET, recv(s->aborted.server, &c, 1, MSG_DONTWAIT) < 0 ? errno : 0, "errno after a reset");
    sock_expect(s->urgent.server, "calm", "before the urgent byte");
    MUST(ioctl(s->urgent.server, SIOCATMARK, &mark));
    check_num(1, mark, "at the mark");
    check_num(1, recv(s->urgent.server, &c, 1, MSG_OOB), "urgent byte");
    check_num('!', c, "urgent byte");
    sock_expect(s->urgent.server, "again", "after the urgent byte");
    sock_expect(s->corked.server, "held back", "held back by TCP_CORK");
    check_num(1, sock_int(s->corked.client, IPPROTO_TCP, TCP_CORK), "TCP_CORK");
    sock_expect_nothing(s->idle.server, "idle");
    MUST(send(s->idle.client, "awake", 5, 0));
    sock_expect(s->idle.server, "awake", "idle");
    sock_expect(s->both.server, "end", "closed by both");
    sock_expect_end(s->both.server, "closed by both");
    sock_expect_end(s->both.client, "closed by both");
}

/* ---- options ---- */

static struct pair options;

static void set(int fd, int level, int name, int v)
{
    MUST(setsockopt(fd, level, name, &v, sizeof(v)));
}

static void make_options(void)
{
    options = make_pair(0);
    set(options.client, SOL_SOCKET, SO_KEEPALIVE, 1);
    set(options.client, IPPROTO_TCP, TCP_KEEPIDLE, 77);
    set(options.client, IPPROTO_TCP, TCP_KEEPINTVL, 7);
    set(options.client, IPPROTO_TCP, TCP_KEEPCNT, 3);
    set(options.client, IPPROTO_TCP, TCP_NODELAY, 1);
    set(options.client, IPPROTO_TCP, TCP_USER_TIMEOUT, 12345);
    set(options.client, IPPROTO_TCP, TCP_NOTSENT_LOWAT, 16384);
    set(options.client, SOL_SOCKET, SO_SNDBUF, 40000);
    set(options.client, SOL_SOCKET, SO_RCVLOWAT, 1);
    set(options.client, IPPROTO_IP, IP_TOS, 0x10);
    set(options.server, SOL_SOCKET, SO_RCVBUF, 50000);
    MUST(setsockopt(options.server, IPPROTO_TCP, TCP_CONGESTION, "reno", 4));
}

static void check_options(void)
{
    char cc[16] = "";
    socklen_t n = sizeof(cc) - 1;

    check_num(1, sock_int(options.client, SOL_SOCKET, SO_KEEPALIVE), "SO_KEEPALIVE");
    check_num(77, sock_int(options.client, IPPROTO_TCP, TCP_KEEPIDLE), "TCP_KEEPIDLE");
    check_num(7, sock_int(options.client, IPPROTO_TCP, TCP_KEEPINTVL), "TCP_KEEPINTVL");
    check_num(3, sock_int(options.client, IPPROTO_TCP, TCP_KEEPCNT), "TCP_KEEPCNT");
    check_num(1, sock_int(options.client, IPPROTO_TCP, TCP_NODELAY), "TCP_NODELAY");
    check_num(12345, sock_int(options.client, IPPROTO_TCP, TCP_USER_TIMEOUT), "TCP_USER_TIMEOUT");
    check_num(16384, sock_int(options.client, IPPROTO_TCP, TCP_NOTSENT_LOWAT), "TCP_NOTSENT_LOWAT");
    check_num(80000, sock_int(options.client, SOL_SOCKET, SO_SNDBUF), "SO_SNDBUF");
    check_num(0x10, sock_int(options.client, IPPROTO_IP, IP_TOS), "IP_TOS");
    check_num(100000, sock_int(options.server, SOL_SOCKET, SO_RCVBUF), "SO_RCVBUF");
    check_num(0, sock_int(options.server, IPPROTO_TCP, TCP_NODELAY), "TCP_NODELAY of the other end");
    check_num(1, sock_int(options.server, SOL_SOCKET, SO_REUSEADDR), "SO_REUSEADDR");
    check_num(0, sock_int(options.client, SOL_SOCKET, SO_REUSEADDR), "SO_REUSEADDR of the other end");
    MUST(getsockopt(options.server, IPPROTO_TCP, TCP_CONGESTION, cc, &n));
    check_str("reno", cc, "TCP_CONGESTION");
}

/* ---- not connected ---- */

static int fresh, bound, refused, self;
static struct sockaddr_in6 bound_name;

static void make_others(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof(a);
    int nobody;

    fresh = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
    bound = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
    MUST(bind(bound, (void *)&a, sizeof(a)));
    address(bound, false, &bound_name);
    nobody = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
    MUST(bind(nobody, (void *)&a, sizeof(a)));
    MUST(getsockname(nobody, (void *)&a, &n));
    refused = (int)MUST(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
    check_num(EINPROGRESS, connect(refused, (void *)&a, sizeof(a)) < 0 ? errno : 0, "errno of connect");
    self = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
    a.sin_port = 0;
    MUST(bind(self, (void *)&a, sizeof(a)));
    MUST(getsockname(self, (void *)&a, &n));
    MUST(connect(self, (void *)&a, sizeof(a)));
    MUST(send(self, "to myself", 9, 0));
}

static void check_others(void)
{
    struct sockaddr_in6 a;

    address(bound, false, &a);
    check_mem(&bound_name, &a, sizeof(a), "address of a bound socket");
    MUST(listen(bound, 1));
    MUST(connect(fresh, (void *)&bound_name, sizeof(struct sockaddr_in)));
    check_num(ECONNREFUSED, sock_int(refused, SOL_SOCKET, SO_ERROR), "a refused connection");
    sock_expect(self, "to myself", "connected to itself");
    MUST(send(self, "once more", 9, 0));
    sock_expect(self, "once more", "connected to itself");
}

int main(int argc, char **argv)
{
    check_init(argc, argv);
    make_listeners();
    for (int f = 0; f < FAMILIES; f++)
        make_set(&sets[f], f);
    make_options();
    make_others();

    check_wait();

    if (check_broken())
        sock_expect(sets[0].small.server, "q", "spoiled");
    for (int f = 0; f < FAMILIES; f++) {
        check_set(&sets[f]);
        close(make_pair(f).client);
    }
    check_options();
    check_others();
    return check_end();
}
