/*
 * Internet sockets that have datagrams: UDP, UDP-Lite, ICMP ("ping") and raw. UDP can be peeked at behind the first
 * message, the others can't (no SO_PEEK_OFF; single.h): of them messages are saved that can be made to come again.
 */
#include <errno.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/util.h"
#include "tracer/inet.h"
#include "tracer/peek.h"
#include "tracer/single.h"

union any_address {
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

static bool is_udp(const Inet *m)
{
    return m->socket->type == SOCK_DGRAM &&
           (m->socket->protocol == IPPROTO_UDP || m->socket->protocol == IPPROTO_UDPLITE);
}

/*
 * An error that came by ICMP is lost, as ICMP itself may be. Messages of the error queue, which a program asks for
 * (IP_RECVERR, transmit timestamps), are not, and can't be looked at without taking them.
 */
static int check_errors(const Inet *m, int fd, struct err *err)
{
    struct pollfd p = {.fd = fd};
    bool wanted = m->socket->family == AF_INET ? sockopt_int(fd, IPPROTO_IP, IP_RECVERR, 0) != 0
                                               : sockopt_int(fd, IPPROTO_IPV6, IPV6_RECVERR, 0) != 0;

    if (poll(&p, 1, 0) < 0)
        return err_errno(err, "poll");
    if ((p.revents & POLLERR) && wanted)
        return err_set(err, EAGAIN, "a message of the error queue waits, which can't be saved");
    return 0;
}

/* UDP_CORK, or MSG_MORE: half a datagram in the kernel. */
static int check_corked(const Inet *m, int fd, struct err *err)
{
    int waiting = 0;

    if (is_udp(m) && sockopt_int(fd, SOL_UDP, UDP_CORK, 0) && ioctl(fd, SIOCOUTQ, &waiting) == 0 && waiting > 0)
        return err_set(err, EAGAIN, "part of a datagram that is not sent yet (UDP_CORK) can't be saved");
    return 0;
}

/* "0100007F:00FD": as the machine stores it, in words of 32 bits. */
static bool parse_end(const char *text, int family, union any_address *a, socklen_t *len)
{
    uint32_t words[4] = {0};
    unsigned port, n = family == AF_INET ? 1 : 4;

    for (unsigned i = 0; i < n; i++)
        if (sscanf(text + 8 * i, "%8x", &words[i]) != 1)
            return false;
    if (sscanf(text + 8 * n, ":%4x", &port) != 1)
        return false;
    memset(a, 0, sizeof(*a));
    if (family == AF_INET) {
        a->v4 = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = words[0]};
        *len = sizeof(a->v4);
    } else {
        a->v6 = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
        memcpy(&a->v6.sin6_addr, words, sizeof(words));
        *len = sizeof(a->v6);
    }
    return true;
}

/*
 * getpeername(2) says that a socket without ports is not connected, also when it is. The kernel's table tells: a line
 * of it has both ends, the state (1: connected), and as its tenth word the inode.
 */
static int find_peer(struct ckpt *c, struct object *o, struct err *err)
{
    Inet *m = inet_of(o);
    int family = (int)m->socket->family;
    _cleanup_free_ char *text = NULL;
    char path[32], *save = NULL;
    size_t n;

    snprintf(path, sizeof(path), "/proc/net/%s%s", m->socket->type == SOCK_RAW ? "raw" : "icmp",
             family == AF_INET6 ? "6" : "");
    if (read_file(-1, path, &text, &n) < 0)
        return 0;
    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        unsigned long long ino;
        union any_address a;
        char remote[48];
        unsigned state;
        socklen_t len;
        if (sscanf(line, " %*[^:]: %*s %47s %x %*s %*s %*s %*s %*s %llu", remote, &state, &ino) != 3 || ino != o->ino ||
            state != 1 || !parse_end(remote, family, &a, &len))
            continue;
        m->remote = arena_bytes(c->arena, &a, len);
        return m->remote.len ? 0 : err_set(err, ENOMEM, "out of memory");
    }
    return 0;
}

int dgram_collect(struct ckpt *c, int fd, struct object *o, struct err *err)
{
    Inet *m = inet_of(o);

    if (check_errors(m, fd, err) < 0 || check_corked(m, fd, err) < 0)
        return -err->code;
    if (!m->remote.len && !is_udp(m) && find_peer(c, o, err) < 0)
        return -err->code;
    return mcast_collect(c, fd, m, err);
}

struct queue {
    struct ckpt *c;
    Inet *m;
};

static int take(void *arg, struct peeked *p, struct err *err)
{
    struct queue *q = arg;
    InetMessage *k = arena_alloc(q->c->arena, sizeof(*k));

    if (!k)
        return err_set(err, ENOMEM, "out of memory");
    inet_message__init(k);
    k->data = arena_bytes(q->c->arena, p->data, p->len);
    k->sender = arena_bytes(q->c->arena, &p->from, p->from_len);
    if (k->data.len != p->len)
        return err_set(err, ENOMEM, "out of memory");
    arena_push(q->c->arena, (void ***)&q->m->queue, &q->m->n_queue, k);
    return 0;
}

int dgram_peek(struct ckpt *c, int fd, struct object *o, struct err *err)
{
    struct queue q = {c, inet_of(o)};

    if (is_udp(q.m))
        return peek_messages(fd, false, take, &q, err);
    if (peek_single(fd, "packets", take, &q, err) < 0)
        return -err->code;
    for (size_t i = 0; i < q.m->n_queue; i++)
        if (dgram_check_again(q.m, fd, q.m->queue[i], err) < 0)
            return -err->code;
    return 0;
}
