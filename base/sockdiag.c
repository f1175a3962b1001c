/* See sockdiag.h. Netlink requests and answers of NETLINK_SOCK_DIAG. */
#include "base/sockdiag.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"

#define BUFFER (256u << 10)

/* include/net/tcp_states.h; netinet/tcp.h has it too, but can't be had together with linux/tcp.h */
enum { LISTEN = 10 };

/* ---- requests ---- */

typedef int (*answer_fn)(void *arg, const void *payload, size_t n, struct err *err);

static int answers(const char *buf, size_t n, answer_fn each, void *arg, bool *done, struct err *err)
{
    const struct nlmsghdr *h = (const void *)buf;

    for (; NLMSG_OK(h, n); h = NLMSG_NEXT(h, n)) {
        if (h->nlmsg_flags & NLM_F_DUMP_INTR)
            return err_set(err, EAGAIN, "the table of sockets changed while it was read");
        if (h->nlmsg_type == NLMSG_DONE) {
            *done = true;
            return 0;
        }
        if (h->nlmsg_type == NLMSG_ERROR) {
            const struct nlmsgerr *e = NLMSG_DATA(h);
            *done = true;
            return e->error == 0 ? 0 : err_set(err, -e->error, "sock_diag: %s", strerror(-e->error));
        }
        if (each(arg, NLMSG_DATA(h), NLMSG_PAYLOAD(h, 0), err) < 0)
            return -err->code;
    }
    return 0;
}

int diag_dump(const void *request, size_t len, answer_fn each, void *arg, struct err *err)
{
    _cleanup_close_ int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
    _cleanup_free_ char *buf = malloc(BUFFER);
    bool done = false;

    if (!buf)
        return err_set(err, ENOMEM, "out of memory");
    if (fd < 0)
        return err_errno(err, "sock_diag socket");
    if (send(fd, request, len, 0) < 0)
        return err_errno(err, "sock_diag");
    while (!done) {
        ssize_t n = recv(fd, buf, BUFFER, 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_errno(err, "sock_diag");
        if (answers(buf, (size_t)n, each, arg, &done, err) < 0)
            return -err->code;
    }
    return 0;
}

/* ---- addresses ---- */

static void map_v4(uint8_t to[16], const void *four)
{
    memset(to, 0, 10);
    to[10] = to[11] = 0xff;
    memcpy(to + 12, four, 4);
}

bool inet_end_of(const void *sockaddr, size_t len, struct inet_end *e)
{
    const struct sockaddr_in *a = sockaddr;
    const struct sockaddr_in6 *b = sockaddr;

    memset(e, 0, sizeof(*e));
    if (len >= sizeof(*a) && a->sin_family == AF_INET) {
        map_v4(e->addr, &a->sin_addr);
        e->port = ntohs(a->sin_port);
        return true;
    }
    if (len >= offsetof(struct sockaddr_in6, sin6_scope_id) && b->sin6_family == AF_INET6) {
        memcpy(e->addr, &b->sin6_addr, 16);
        e->port = ntohs(b->sin6_port);
        return true;
    }
    return false;
}

bool inet_same(const struct inet_end *a, const struct inet_end *b)
{
    return a->port == b->port && !memcmp(a->addr, b->addr, sizeof(a->addr));
}

bool inet_is_any(const struct inet_end *e)
{
    static const uint8_t any[16], any4[16] = {[10] = 0xff, [11] = 0xff};

    return !memcmp(e->addr, any, 16) || !memcmp(e->addr, any4, 16);
}

bool inet_is_v4(const struct inet_end *e)
{
    static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};

    return !memcmp(e->addr, mapped, sizeof(mapped));
}

const char *inet_text(const struct inet_end *e, char *buf, size_t size)
{
    char a[INET6_ADDRSTRLEN];

    if (inet_is_v4(e))
        snprintf(buf, size, "%s:%u", inet_ntop(AF_INET, e->addr + 12, a, sizeof(a)), e->port);
    else
        snprintf(buf, size, "[%s]:%u", inet_ntop(AF_INET6, e->addr, a, sizeof(a)), e->port);
    return buf;
}

/* ---- TCP, UDP ---- */

struct walk {
    int (*each)(void *arg, const struct inet_entry *e, struct err *err);
    void *arg;
};

static void end_of(struct inet_end *e, int family, const uint32_t addr[4], uint16_t port)
{
    if (family == AF_INET)
        map_v4(e->addr, addr);
    else
        memcpy(e->addr, addr, 16);
    e->port = ntohs(port);
}

static void take_info(struct inet_entry *e, const void *v, size_t n)
{
    struct tcp_info i = {0};

    memcpy(&i, v, n < sizeof(i) ? n : sizeof(i));
    e->acked = i.tcpi_bytes_acked;
    e->received = i.tcpi_bytes_received;
    e->age_ms = i.tcpi_last_data_sent;
}

static int one(void *arg, const void *payload, size_t n, struct err *err)
{
    struct walk *w = arg;
    const struct inet_diag_msg *m = payload;
    struct inet_entry e = {0};
    size_t at = NLMSG_ALIGN(sizeof(*m));

    if (n < sizeof(*m))
        return 0;
    e.ino = m->idiag_inode;
    e.family = m->idiag_family;
    e.state = m->idiag_state;
    e.rqueue = m->idiag_rqueue;
    e.wqueue = m->idiag_wqueue;
    e.cookie = m->id.idiag_cookie[0] | (uint64_t)m->id.idiag_cookie[1] << 32;
    end_of(&e.local, e.family, m->id.idiag_src, m->id.idiag_sport);
    end_of(&e.remote, e.family, m->id.idiag_dst, m->id.idiag_dport);
    while (at + NLA_HDRLEN <= n) {
        const struct nlattr *a = (const void *)((const char *)payload + at);
        const void *v = (const char *)a + NLA_HDRLEN;
        if (a->nla_len < NLA_HDRLEN || at + a->nla_len > n)
            break;
        if (a->nla_type == INET_DIAG_INFO)
            take_info(&e, v, a->nla_len - NLA_HDRLEN);
        else if (a->nla_type == INET_DIAG_SHUTDOWN && a->nla_len > NLA_HDRLEN)
            e.shutdown = *(const uint8_t *)v;
        at += NLA_ALIGN(a->nla_len);
    }
    return w->each(w->arg, &e, err);
}

struct request {
    struct nlmsghdr h;
    struct inet_diag_req_v2 r;
};

int inet_dump(int protocol, uint32_t states, int (*each)(void *, const struct inet_entry *, struct err *), void *arg,
              struct err *err)
{
    struct walk w = {each, arg};
    struct request q = {
        .h = {.nlmsg_len = sizeof(q), .nlmsg_type = SOCK_DIAG_BY_FAMILY, .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP},
        .r = {.sdiag_protocol = (uint8_t)protocol, .idiag_ext = 1 << (INET_DIAG_INFO - 1), .idiag_states = states},
    };

    q.r.sdiag_family = AF_INET;
    if (diag_dump(&q, sizeof(q), one, &w, err) < 0)
        return -err->code;
    q.r.sdiag_family = AF_INET6;
    /* No IPv6 in this kernel is no error. */
    return diag_dump(&q, sizeof(q), one, &w, err) < 0 && err->code != ENOENT ? -err->code : 0;
}

static void name_one(struct request *q, const struct inet_entry *e)
{
    size_t skip = e->family == AF_INET ? 12 : 0;

    q->r.sdiag_family = e->family;
    q->r.sdiag_protocol = IPPROTO_TCP;
    q->r.id.idiag_sport = htons(e->local.port);
    q->r.id.idiag_dport = htons(e->remote.port);
    memcpy(q->r.id.idiag_src, e->local.addr + skip, 16 - skip);
    memcpy(q->r.id.idiag_dst, e->remote.addr + skip, 16 - skip);
    q->r.id.idiag_cookie[0] = (uint32_t)e->cookie;
    q->r.id.idiag_cookie[1] = (uint32_t)(e->cookie >> 32);
}

static int copy_one(void *arg, const struct inet_entry *e, struct err *err)
{
    (void)err;
    *(struct inet_entry *)arg = *e;
    return 0;
}

int inet_again(struct inet_entry *e, struct err *err)
{
    struct inet_entry found = *e;
    struct walk w = {copy_one, &found};
    struct request q = {
        .h = {.nlmsg_len = sizeof(q), .nlmsg_type = SOCK_DIAG_BY_FAMILY, .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK},
        .r = {.idiag_ext = 1 << (INET_DIAG_INFO - 1), .idiag_states = ~0u},
    };

    name_one(&q, e);
    if (diag_dump(&q, sizeof(q), one, &w, err) < 0)
        return -err->code;
    *e = found;
    return 0;
}

static int ignore(void *arg, const void *payload, size_t n, struct err *err)
{
    (void)arg, (void)payload, (void)n, (void)err;
    return 0;
}

int inet_destroy(const struct inet_entry *e, struct err *err)
{
    struct request q = {
        .h = {.nlmsg_len = sizeof(q), .nlmsg_type = SOCK_DESTROY, .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK},
        .r = {.idiag_states = 1u << e->state},
    };

    name_one(&q, e);
    return diag_dump(&q, sizeof(q), ignore, NULL, err);
}

int tcp_state(int fd, struct tcp_state *s, struct err *err)
{
    struct tcp_info i = {0};
    socklen_t n = sizeof(i);

    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &i, &n) < 0)
        return err_errno(err, "TCP_INFO");
    *s = (struct tcp_state){.state = i.tcpi_state, .negotiated = i.tcpi_options != 0, .acked = i.tcpi_bytes_acked,
                            .received = i.tcpi_bytes_received};
    if (s->state == LISTEN) {
        s->waiting = i.tcpi_unacked;
        s->backlog = i.tcpi_sacked;
    }
    return 0;
}
