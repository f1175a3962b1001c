/*
 * Packets that waited in ICMP and raw sockets come again. An echo reply of this host is what an echo request from the
 * socket itself is answered with; another's, and what came to a raw socket, is sent with a header of our own over the
 * loopback interface, where nobody asks whose address it bears. No other socket of the images hears of it; of a
 * protocol that a raw socket of another program hears nothing is sent. (To answers of ICMP all programs listen, and know
 * their own by its identifier.)
 */
#include <errno.h>
#include <linux/filter.h>
#include <netinet/icmp6.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <netinet/ip_icmp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/util.h"
#include "restorer/inet.h"

#define ARRIVES_MS 2000

#ifndef SO_MEMINFO
#define SO_MEMINFO 55
#endif

static bool is_raw(const struct rinet *u)
{
    return u->m->socket->type == SOCK_RAW;
}

/* Nothing is let in. */
int dgram_deafen(const struct rinet *u, struct err *err)
{
    struct sock_filter nothing[] = {BPF_STMT(BPF_RET | BPF_K, 0)};
    struct sock_fprog p = {1, nothing};

    if (is_raw(u) && setsockopt(u->fd, SOL_SOCKET, SO_ATTACH_FILTER, &p, sizeof(p)) < 0)
        return err_errno(err, "a socket filter");
    return 0;
}

void dgram_listen(const struct rinet *u)
{
    int zero = 0;

    if (is_raw(u))
        setsockopt(u->fd, SOL_SOCKET, SO_DETACH_FILTER, &zero, sizeof(zero));
}

/* 0, -errno without err. */
static int ask(const struct rinet *u, const InetMessage *k, const union address *from, socklen_t len)
{
    _cleanup_free_ uint8_t *request = malloc(k->data.len);

    if (!request)
        return -ENOMEM;
    memcpy(request, k->data.data, k->data.len);
    request[0] = u->m->socket->family == AF_INET ? ICMP_ECHO : ICMP6_ECHO_REQUEST;
    return sendto(u->fd, request, k->data.len, 0, &from->sa, len) < 0 ? -errno : 0;
}

static bool is_local(const union address *a, socklen_t len)
{
    _cleanup_close_ int fd = socket(a->sa.sa_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    union address b = *a;

    if (b.sa.sa_family == AF_INET)
        b.v4.sin_port = 0;
    else
        b.v6.sin6_port = 0;
    return fd >= 0 && bind(fd, &b.sa, len) == 0;
}

static int spoof4(const struct rinet *u, const InetMessage *k, const union address *from)
{
    _cleanup_close_ int fd = socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW);
    struct iphdr h = {.version = 4, .ihl = 5, .ttl = 64, .protocol = (uint8_t)u->m->socket->protocol};
    struct iovec iov[2] = {{&h, sizeof(h)}, {k->data.data, k->data.len}};
    union address to = {.v4.sin_family = AF_INET};
    struct msghdr m = {.msg_name = &to, .msg_namelen = sizeof(to.v4), .msg_iov = iov, .msg_iovlen = 2};

    if (is_raw(u)) { /* its header is there */
        m.msg_iov = &iov[1];
        m.msg_iovlen = 1;
        memcpy(&to.v4.sin_addr, k->data.data + offsetof(struct iphdr, daddr), sizeof(to.v4.sin_addr));
    } else {
        inet_address(&u->m->local, &to);
        if (!to.v4.sin_addr.s_addr)
            to.v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        to.v4.sin_port = 0;
        h.saddr = from->v4.sin_addr.s_addr;
        h.daddr = to.v4.sin_addr.s_addr;
    }
    return fd < 0 || sendmsg(fd, &m, 0) < 0 ? -errno : 0;
}

static int spoof6(const struct rinet *u, const InetMessage *k, const union address *from)
{
    _cleanup_close_ int fd = socket(AF_INET6, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW);
    struct ip6_hdr h = {.ip6_src = from->v6.sin6_addr};
    struct iovec iov[2] = {{&h, sizeof(h)}, {k->data.data, k->data.len}};
    union address to;
    struct msghdr m = {.msg_name = &to, .msg_namelen = inet_address(&u->m->local, &to), .msg_iov = iov, .msg_iovlen = 2};

    if (IN6_IS_ADDR_UNSPECIFIED(&to.v6.sin6_addr))
        to.v6.sin6_addr = in6addr_loopback;
    to.v6.sin6_port = 0;
    h.ip6_flow = htonl(6u << 28);
    h.ip6_plen = htons((uint16_t)k->data.len);
    h.ip6_nxt = (uint8_t)u->m->socket->protocol;
    h.ip6_hlim = 64;
    h.ip6_dst = to.v6.sin6_addr;
    return fd < 0 || sendmsg(fd, &m, 0) < 0 ? -errno : 0;
}

/* SK_MEMINFO_RMEM_ALLOC: it grows with each packet. */
static uint32_t memory(const struct rinet *u)
{
    uint32_t info[16] = {0};
    socklen_t n = sizeof(info);

    return getsockopt(u->fd, SOL_SOCKET, SO_MEMINFO, info, &n) < 0 ? 0 : info[0];
}

/* It is there by the time the call returns, as a rule. Only the first can be looked at. */
static bool has_come(const struct rinet *u, const InetMessage *k, uint32_t before)
{
    _cleanup_free_ uint8_t *got = malloc(k->data.len + 1);
    union address from = {0}, want;
    socklen_t len = sizeof(from);

    for (int ms = 0; memory(u) <= before; ms++) {
        if (ms == ARRIVES_MS)
            return false;
        poll(NULL, 0, 1);
    }
    return before || (got && recvfrom(u->fd, got, k->data.len + 1, MSG_PEEK | MSG_DONTWAIT | MSG_TRUNC, &from.sa, &len) ==
                                 (ssize_t)k->data.len &&
                      !memcmp(got, k->data.data, k->data.len) && inet_address(&k->sender, &want) == len &&
                      !memcmp(&from, &want, len));
}

static bool is_among(const struct rsockets *s, uint64_t ino)
{
    struct stat st;

    for (size_t i = 0; i < s->n_inets; i++)
        if (!rinet_is_tcp(s->inets[i]) && fstat(s->inets[i]->fd, &st) == 0 && st.st_ino == ino)
            return true;
    return false;
}

/* The kernel's table of raw sockets has the protocol where others have the port. */
static bool others_hear(const struct rsockets *s, const struct rinet *u)
{
    bool v4 = u->m->socket->family == AF_INET;
    uint32_t protocol = u->m->socket->protocol;
    _cleanup_free_ char *text = NULL;
    char *save = NULL;
    size_t n;

    if (protocol == IPPROTO_ICMP || protocol == IPPROTO_ICMPV6 ||
        read_file(-1, v4 ? "/proc/net/raw" : "/proc/net/raw6", &text, &n) < 0)
        return false;
    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        unsigned long long ino;
        unsigned number;
        if (sscanf(line, " %*[^:]: %*[^:]:%x %*s %*s %*s %*s %*s %*s %*s %llu", &number, &ino) == 2 &&
            number == protocol && !is_among(s, ino))
            return true;
    }
    return false;
}

int dgram_again(const struct rsockets *s, const struct rinet *u, const InetMessage *k, struct err *err)
{
    union address from;
    socklen_t len = inet_address(&k->sender, &from);
    uint32_t before = memory(u);
    struct inet_end e;
    char text[64];
    int r;

    if (!inet_end_of(&from, len, &e) || k->data.len > 65535 ||
        k->data.len < (!is_raw(u) ? 8 : from.sa.sa_family == AF_INET ? sizeof(struct iphdr) : 0))
        return err_set(err, EINVAL, "a packet that cannot be one");
    dgram_listen(u);
    if (is_raw(u) && others_hear(s, u))
        r = -EADDRINUSE;
    else if (!is_raw(u) && is_local(&from, len))
        r = ask(u, k, &from, len);
    else
        r = from.sa.sa_family == AF_INET ? spoof4(u, k, &from) : spoof6(u, k, &from);
    inet_text(&e, text, sizeof(text));
    if (r < 0)
        restore_note(s->r, "a packet of %zu bytes from %s that waited in a socket is lost: %s", k->data.len, text,
                     r == -EADDRINUSE ? "another program would hear it again" : strerror(-r));
    else if (!has_come(u, k, before))
        return err_set(err, EIO, "a packet of %zu bytes from %s that waited in a socket does not come again as it was",
                       k->data.len, text);
    return dgram_deafen(u, err);
}
