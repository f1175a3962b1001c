/*
 * TCP connections on their way to the end: the end of a stream that waits behind what does not fit (FIN_WAIT1, CLOSING,
 * LAST_ACK), with the peer still there or closed; read sides shut down; connections under way to who does not
 * accept. And urgent data: inline, read before, twice. And IPv6 sockets that speak IPv4.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"
#include "tests/programs/sock.h"

struct pair {
    int client, server;
};

static int listener;
static struct sockaddr_in where;

static int listen_at(struct sockaddr_in *a, int backlog)
{
    int fd = (int)MUST(socket(AF_INET, SOCK_STREAM, 0)), one = 1;
    socklen_t n = sizeof(*a);

    *a = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    MUST(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)));
    MUST(bind(fd, (void *)a, sizeof(*a)));
    MUST(listen(fd, backlog));
    MUST(getsockname(fd, (void *)a, &n));
    return fd;
}

static struct pair make_pair(void)
{
    struct pair p;

    p.client = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
    MUST(connect(p.client, (void *)&where, sizeof(where)));
    p.server = (int)MUST(accept(listener, NULL, NULL));
    return p;
}

static int state_of(int fd)
{
    struct tcp_info i = {0};
    socklen_t n = sizeof(i);

    MUST(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &i, &n));
    return i.tcpi_state;
}

/* Not much, so that the test is quick, and not less than a packet: a sender asks for a small window now and then only. */
static size_t stuff(int from, int to, int small, unsigned seed)
{

    MUST(setsockopt(from, SOL_SOCKET, SO_SNDBUF, &small, sizeof(small)));
    MUST(setsockopt(to, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small)));
    return sock_stuff(from, seed);
}

/* ---- ends that wait ---- */

static struct pair wait1, closing, last_ack, orphan, reader, read_end;
static size_t n_wait1, n_there, n_back, n_last, n_orphan;

/* What is left waits for a sender that asks now and then. */
static struct pair stuck;
static uint8_t pattern[14000];

static void make_stuck(void)
{
    int small = 4096;

    stuck = make_pair();
    MUST(setsockopt(stuck.server, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small)));
    check_fill(pattern, sizeof(pattern), 6);
    check_num(sizeof(pattern), send(stuck.client, pattern, sizeof(pattern), 0), "bytes for a small window");
}

static void make_ends(void)
{
    make_stuck();
    wait1 = make_pair();
    n_wait1 = stuff(wait1.client, wait1.server, 100000, 1);
    MUST(shutdown(wait1.client, SHUT_WR));
    check_num(TCP_FIN_WAIT1, state_of(wait1.client), "state before");
    closing = make_pair();
    n_there = stuff(closing.client, closing.server, 100000, 2);
    n_back = stuff(closing.server, closing.client, 100000, 3);
    MUST(shutdown(closing.client, SHUT_WR));
    MUST(shutdown(closing.server, SHUT_WR));
    last_ack = make_pair();
    n_last = stuff(last_ack.client, last_ack.server, 100000, 4);
    MUST(shutdown(last_ack.server, SHUT_WR));
    MUST(poll(&(struct pollfd){.fd = last_ack.client, .events = POLLRDHUP}, 1, 3000));
    MUST(shutdown(last_ack.client, SHUT_WR));
    check_num(TCP_LAST_ACK, state_of(last_ack.client), "state before");
    orphan = make_pair(); /* closed by its program with all that still has to go out */
    n_orphan = stuff(orphan.client, orphan.server, 100000, 5);
    MUST(close(orphan.client));
    reader = make_pair();
    MUST(shutdown(reader.server, SHUT_RD));
    read_end = make_pair();
    MUST(send(read_end.client, "x", 1, 0));
    MUST(shutdown(read_end.client, SHUT_WR));
    char c;
    MUST(recv(read_end.server, &c, 1, 0));
    check_num(0, recv(read_end.server, &c, 1, 0), "the end before");
}

static void check_ends(void)
{
    sock_drain(stuck.server, sizeof(pattern), 6, "small window");
    sock_drain(wait1.server, n_wait1, 1, "behind a full window");
    sock_expect_end(wait1.server, "behind a full window");
    MUST(send(wait1.server, "back", 4, 0));
    sock_expect(wait1.client, "back", "the other way");
    sock_drain(closing.server, n_there, 2, "both closing");
    sock_drain(closing.client, n_back, 3, "both closing, the other way");
    sock_expect_end(closing.server, "both closing");
    sock_expect_end(closing.client, "both closing, the other way");
    sock_drain(last_ack.server, n_last, 4, "last");
    sock_expect_end(last_ack.server, "last");
    sock_expect_end(last_ack.client, "last, the other way");
    sock_drain(orphan.server, n_orphan, 5, "closed by its program");
    sock_expect_end(orphan.server, "closed by its program");
    sock_expect_end(reader.server, "read side shut down");
    MUST(send(reader.server, "still", 5, 0));
    sock_expect(reader.client, "still", "the side that is open");
    sock_expect_end(read_end.server, "an end that was read");
    MUST(send(read_end.server, "still", 5, 0));
    sock_expect(read_end.client, "still", "after an end");
}

/* ---- connecting ---- */

static struct sockaddr_in busy_at;
static int busy, accepted_later[2], pending, ep;

static void make_connecting(void)
{
    struct epoll_event e = {.events = EPOLLOUT, .data.u32 = 7};

    busy = listen_at(&busy_at, 0);
    for (int i = 0; i < 1; i++) {
        accepted_later[i] = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
        MUST(connect(accepted_later[i], (void *)&busy_at, sizeof(busy_at)));
    }
    pending = (int)MUST(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
    check_num(EINPROGRESS, connect(pending, (void *)&busy_at, sizeof(busy_at)) < 0 ? errno : 0, "errno of connect");
    ep = (int)MUST(epoll_create1(0));
    MUST(epoll_ctl(ep, EPOLL_CTL_ADD, pending, &e));
    check_num(0, epoll_wait(ep, &e, 1, 0), "not connected yet");
}

static void check_connecting(void)
{
    struct epoll_event e = {0};
    int fd;

    check_num(TCP_SYN_SENT, state_of(pending), "state of who is connecting");
    check_num(EALREADY, connect(pending, (void *)&busy_at, sizeof(busy_at)) < 0 ? errno : 0, "errno of connecting again");
    fd = (int)MUST(accept(busy, NULL, NULL));
    check_num(1, epoll_wait(ep, &e, 1, 20000), "connected at last");
    check_num(7, e.data.u32, "who is connected");
    check_num(0, sock_int(pending, SOL_SOCKET, SO_ERROR), "error of the connection");
    close(fd);
    fd = (int)MUST(accept(busy, NULL, NULL));
    MUST(send(pending, "in", 2, 0));
    sock_expect(fd, "in", "who was connecting");
}

/* ---- urgent ---- */

static struct pair inlined, was_read, twice;

static void make_urgent(void)
{
    int one = 1;
    char c;

    inlined = make_pair();
    MUST(setsockopt(inlined.server, SOL_SOCKET, SO_OOBINLINE, &one, sizeof(one)));
    MUST(send(inlined.client, "calm", 4, 0));
    MUST(send(inlined.client, "!", 1, MSG_OOB));
    MUST(send(inlined.client, "again", 5, 0));
    was_read = make_pair();
    MUST(send(was_read.client, "calm", 4, 0));
    MUST(send(was_read.client, "!", 1, MSG_OOB));
    MUST(send(was_read.client, "again", 5, 0));
    MUST(poll(&(struct pollfd){.fd = was_read.server, .events = POLLPRI}, 1, 3000));
    check_num(1, recv(was_read.server, &c, 1, MSG_OOB), "urgent byte");
    twice = make_pair();
    MUST(send(twice.client, "x", 1, 0));
    MUST(send(twice.client, "a", 1, MSG_OOB));
    MUST(send(twice.client, "bc", 2, 0));
    MUST(send(twice.client, "!", 1, MSG_OOB));
}

static void check_urgent(void)
{
    int mark = 0;
    char c = 0;

    sock_expect(inlined.server, "calm", "before an inline urgent byte");
    MUST(ioctl(inlined.server, SIOCATMARK, &mark));
    check_num(1, mark, "at the inline mark");
    sock_expect(inlined.server, "!again", "inline");
    sock_expect(was_read.server, "calm", "before an urgent byte that was read");
    sock_expect(was_read.server, "again", "after it");
    check_num(1, recv(twice.server, &c, 1, MSG_OOB), "the second urgent byte");
    check_num('!', c, "the second urgent byte");
    sock_expect(twice.server, "xabc", "the first becomes data");
}

/* ---- IPv6 sockets with IPv4 addresses ---- */

static struct pair mapped;
static int mapped_bound;
static struct sockaddr_in6 mapped_name, mapped_peer, bound_name;

static struct sockaddr_in6 map(const struct sockaddr_in *a)
{
    struct sockaddr_in6 m = {.sin6_family = AF_INET6, .sin6_port = a->sin_port,
                             .sin6_addr.s6_addr = {[10] = 0xff, [11] = 0xff}};

    memcpy(m.sin6_addr.s6_addr + 12, &a->sin_addr, 4);
    return m;
}

static struct sockaddr_in6 name_of(int fd, bool peer)
{
    struct sockaddr_in6 a = {0};
    socklen_t n = sizeof(a);

    MUST(peer ? getpeername(fd, (void *)&a, &n) : getsockname(fd, (void *)&a, &n));
    return a;
}

static void make_mapped(void)
{
    struct sockaddr_in any = {.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr_in6 a = map(&where), b = map(&any);

    mapped.client = (int)MUST(socket(AF_INET6, SOCK_STREAM, 0));
    MUST(connect(mapped.client, (void *)&a, sizeof(a)));
    mapped.server = (int)MUST(accept(listener, NULL, NULL));
    MUST(send(mapped.client, "there", 5, 0));
    MUST(send(mapped.server, "back", 4, 0));
    mapped_name = name_of(mapped.client, false);
    mapped_peer = name_of(mapped.client, true);
    mapped_bound = (int)MUST(socket(AF_INET6, SOCK_STREAM, 0));
    MUST(bind(mapped_bound, (void *)&b, sizeof(b)));
    bound_name = name_of(mapped_bound, false);
}

static void check_mapped(void)
{
    struct sockaddr_in6 a = name_of(mapped.client, false), b = name_of(mapped.client, true);
    struct sockaddr_in6 c = name_of(mapped_bound, false);

    check_mem(&mapped_name, &a, sizeof(a), "mapped address");
    check_mem(&mapped_peer, &b, sizeof(b), "mapped peer");
    check_mem(&bound_name, &c, sizeof(c), "mapped address of a bound socket");
    sock_expect(mapped.server, "there", "from a mapped client");
    sock_expect(mapped.client, "back", "to a mapped client");
}

int main(int argc, char **argv)
{
    check_init(argc, argv);
    listener = listen_at(&where, 5);
    make_ends();
    make_connecting();
    make_urgent();
    make_mapped();

    check_wait();

    if (check_broken())
        sock_expect(wait1.server, "x", "spoiled");
    check_ends();
    check_connecting();
    check_urgent();
    check_mapped();
    return check_end();
}
