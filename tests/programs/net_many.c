/*
 * Several unread messages each in ICMP, raw and netlink sockets, of several senders and lengths: all are there, in their
 * order. (Raw sockets only if the program may have them.)
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/netlink.h>
#include <netinet/icmp6.h>
#include <netinet/in.h>
#include <netinet/ip_icmp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"
#include "tests/programs/sock.h"

#define MESSAGES 5
#define PROTOCOL 253 /* for experiments */
#define MOST     4096

struct message {
    uint8_t data[MOST];
    ssize_t len;
    struct sockaddr_storage from;
    socklen_t from_len;
};

/* Read twice by the program's eyes: it learns what waits by sending the same to another socket, which it reads. */
static struct inbox {
    const char *name;
    int fd, twin;
    struct message want[MESSAGES];
} inboxes[5];
static unsigned n_inboxes;

static struct sockaddr_storage address(int family, int host, socklen_t *len)
{
    struct sockaddr_storage a = {0};
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK + (uint32_t)host)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_addr = in6addr_loopback};

    *len = family == AF_INET ? sizeof(v4) : sizeof(v6);
    memcpy(&a, family == AF_INET ? (void *)&v4 : (void *)&v6, *len);
    return a;
}

static size_t length(int i)
{
    return (size_t)(16 + 700 * i);
}

static void fill(uint8_t *q, int i)
{
    check_fill(q, length(i), (uint64_t)i + 1);
}

/* What it reads from the twin is what the other has, but for the identifier of an echo and the sum over it. */
static void learn(struct inbox *b, int i, bool echo)
{
    struct message *m = &b->want[i];

    check_true(poll(&(struct pollfd){.fd = b->twin, .events = POLLIN}, 1, 5000) == 1, "%s: something comes", b->name);
    m->from_len = sizeof(m->from);
    m->len = MUST(recvfrom(b->twin, m->data, MOST, 0, (void *)&m->from, &m->from_len));
    if (echo)
        memset(m->data + 2, 0, 4);
}

static struct inbox *new_inbox(const char *name, int fd, int twin)
{
    struct inbox *b = &inboxes[n_inboxes++];

    b->name = name;
    b->fd = fd;
    b->twin = twin;
    return b;
}

static void make_ping(int family)
{
    int protocol = family == AF_INET ? (int)IPPROTO_ICMP : (int)IPPROTO_ICMPV6;
    struct inbox *b = new_inbox("ping", (int)MUST(socket(family, SOCK_DGRAM, protocol)),
                                (int)MUST(socket(family, SOCK_DGRAM, protocol)));

    for (int i = 0; i < MESSAGES; i++) {
        uint8_t q[MOST];
        socklen_t n;
        struct sockaddr_storage a = address(family, i, &n);
        fill(q, i);
        memset(q, 0, 8);
        q[0] = family == AF_INET ? ICMP_ECHO : ICMP6_ECHO_REQUEST;
        MUST(sendto(b->fd, q, length(i), 0, (void *)&a, n));
        MUST(sendto(b->twin, q, length(i), 0, (void *)&a, n));
        learn(b, i, true);
    }
}

static void make_raw(int family)
{
    int fd = socket(family, SOCK_RAW, PROTOCOL);
    struct inbox *b;

    if (fd < 0 && errno == EPERM)
        return;
    b = new_inbox("raw", (int)MUST(fd), (int)MUST(socket(family, SOCK_RAW, PROTOCOL)));
    for (int i = 0; i < MESSAGES; i++) {
        uint8_t q[MOST];
        socklen_t n;
        struct sockaddr_storage a = address(family, 0, &n);
        fill(q, i);
        MUST(sendto(b->twin, q, length(i), 0, (void *)&a, n));
        learn(b, i, false);
    }
    close(b->twin);
}

static void make_netlink(void)
{
    struct sockaddr_nl a[2] = {0};
    struct inbox *b = new_inbox("netlink", (int)MUST(socket(AF_NETLINK, SOCK_RAW, NETLINK_USERSOCK)),
                                (int)MUST(socket(AF_NETLINK, SOCK_RAW, NETLINK_USERSOCK)));
    int fds[2] = {b->fd, b->twin};

    for (int k = 0; k < 2; k++) {
        socklen_t n = sizeof(a[k]);
        a[k].nl_family = AF_NETLINK;
        MUST(bind(fds[k], (void *)&a[k], sizeof(a[k])));
        MUST(getsockname(fds[k], (void *)&a[k], &n));
    }
    for (int i = 0; i < MESSAGES; i++) {
        uint8_t q[MOST];
        int from = (int)MUST(socket(AF_NETLINK, SOCK_RAW, NETLINK_USERSOCK));
        fill(q, i);
        MUST(sendto(from, q, length(i), 0, (void *)&a[0], sizeof(a[0])));
        MUST(sendto(from, q, length(i), 0, (void *)&a[1], sizeof(a[1])));
        learn(b, i, false);
        if (i % 2)
            close(from); /* the others stay */
    }
}

static void check_inbox(struct inbox *b)
{
    for (int i = 0; i < MESSAGES; i++) {
        struct message *want = &b->want[i], got = {.from_len = sizeof(got.from)};
        got.len = recvfrom(b->fd, got.data, MOST, MSG_DONTWAIT, (void *)&got.from, &got.from_len);
        if (!strcmp(b->name, "ping"))
            memset(got.data + 2, 0, 4);
        check_num(want->len, got.len < 0 ? -errno : got.len, "%s: bytes of message %d", b->name, i);
        check_mem(want->data, got.data, (size_t)want->len, b->name);
        check_num(want->from_len, got.from_len, "%s: length of the sender's address", b->name);
        check_mem(&want->from, &got.from, want->from_len, "its sender");
    }
    sock_expect_nothing(b->fd, b->name);
}

int main(int argc, char **argv)
{
    check_init(argc, argv);
    make_ping(AF_INET);
    make_ping(AF_INET6);
    make_raw(AF_INET);
    make_raw(AF_INET6);
    make_netlink();

    check_wait();

    if (check_broken())
        MUST(recv(inboxes[0].fd, inboxes[0].want[0].data, MOST, MSG_DONTWAIT));
    for (unsigned i = 0; i < n_inboxes; i++)
        check_inbox(&inboxes[i]);
    return check_end();
}
