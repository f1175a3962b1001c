/*
 * What waits in a TCP socket to be received. A peek reads the whole queue at once, but not past the urgent byte:
 * beyond that it takes SO_PEEK_OFF, which TCP has since Linux 6.9.
 */
#include <errno.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/util.h"
#include "tracer/inet.h"

#define MAX_BYTES (60u << 20) /* a record of the image can't be larger than 64 MiB */

struct reader {
    struct ckpt *c;
    int fd;
    Inet *m;
    size_t total;
    int before;     /* the program's SO_PEEK_OFF, to be put back */
    bool can_skip;  /* SO_PEEK_OFF works */
};

static int set_offset(const struct reader *r, size_t at, struct err *err)
{
    int v = (int)at;

    if (setsockopt(r->fd, SOL_SOCKET, SO_PEEK_OFF, &v, sizeof(v)) < 0)
        return err_errno(err, "SO_PEEK_OFF");
    return 0;
}

static int add(struct reader *r, const void *data, size_t n, bool urgent, struct err *err)
{
    InetBytes *b = arena_alloc(r->c->arena, sizeof(*b));

    r->total += n;
    if (r->total > MAX_BYTES)
        return err_set(err, EFBIG, "more than %u MiB wait to be received", MAX_BYTES >> 20);
    if (!b)
        return err_set(err, ENOMEM, "out of memory");
    inet_bytes__init(b);
    b->data = arena_bytes(r->c->arena, data, n);
    b->urgent = urgent;
    if (b->data.len != n)
        return err_set(err, ENOMEM, "out of memory");
    arena_push(r->c->arena, (void ***)&r->m->bytes, &r->m->n_bytes, b);
    return 0;
}

/* As much as there is from `at` on, up to the urgent byte; 0: nothing. */
static ssize_t look(struct reader *r, size_t at, uint8_t **buf, struct err *err)
{
    size_t size = 1 << 16;
    ssize_t n;

    for (;;) {
        uint8_t *more = realloc(*buf, size);
        if (!more)
            return err_set(err, ENOMEM, "out of memory");
        *buf = more;
        if (r->can_skip && set_offset(r, at, err) < 0)
            return -err->code;
        n = recv(r->fd, more, size, MSG_PEEK | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == EAGAIN || errno == ENOTCONN ? 0 : err_errno(err, "reading what waits in it");
        if ((size_t)n < size || size > MAX_BYTES)
            return n;
        size *= 4;
    }
}

/*
 * Up to the urgent byte, that byte, the rest. Inline, the byte is the first behind the mark; otherwise the kernel
 * keeps it aside and a peek skips it, though it counts in the offset.
 */
static int read_urgent(struct reader *r, uint8_t **buf, struct err *err)
{
    bool inline_ = sockopt_int(r->fd, SOL_SOCKET, SO_OOBINLINE, 0) != 0;
    int at_mark = 0;
    ssize_t n = 0;
    uint8_t c;

    if (!r->can_skip)
        return err_set(err, ENOTSUP, "urgent data waits in it, which this kernel does not let us save");
    if (ioctl(r->fd, SIOCATMARK, &at_mark) < 0)
        return err_errno(err, "SIOCATMARK");
    if (!at_mark)
        n = look(r, 0, buf, err);
    if (n < 0)
        return -err->code;
    c = 0;
    if (!inline_ && recv(r->fd, &c, 1, MSG_PEEK | MSG_OOB | MSG_DONTWAIT) != 1)
        return err_set(err, EAGAIN, "urgent data that has not come yet");
    size_t mark = (size_t)n;
    uint8_t *before = *buf;
    *buf = NULL;
    n = look(r, mark, buf, err);
    if (n >= 0 && inline_)
        c = n > 0 ? (*buf)[0] : 0;
    int ret = n < 0 ? -err->code : 0;
    if (ret == 0) {
        uint8_t *joined = realloc(before, mark + 1);
        ret = joined ? 0 : err_set(err, ENOMEM, "out of memory");
        before = joined ? joined : before;
    }
    if (ret == 0) {
        before[mark] = c;
        ret = add(r, before, mark + 1, true, err);
    }
    free(before);
    if (ret == 0 && n > inline_)
        ret = add(r, *buf + inline_, (size_t)n - inline_, false, err);
    return ret;
}

static int read_plain(struct reader *r, uint8_t **buf, struct err *err)
{
    ssize_t n = look(r, 0, buf, err);

    if (n <= 0)
        return (int)n;
    if (add(r, *buf, (size_t)n, false, err) < 0)
        return -err->code;
    /* A call that finds no data would take the error that waits. */
    if (!r->can_skip || r->m->error)
        return 0;
    /* Behind the place of an urgent byte that was read already. */
    n = look(r, r->total, buf, err);
    return n <= 0 ? (int)n : add(r, *buf, (size_t)n, false, err);
}

static int read_queue(struct reader *r, struct err *err)
{
    struct pollfd p = {.fd = r->fd, .events = POLLPRI};
    _cleanup_free_ uint8_t *buf = NULL;
    int waiting = 0, at_mark = 0, ret;
    socklen_t n = sizeof(r->before);
    struct err second;

    if (poll(&p, 1, 0) < 0)
        return err_errno(err, "poll");
    if (ioctl(r->fd, SIOCINQ, &waiting) < 0 || ioctl(r->fd, SIOCATMARK, &at_mark) < 0)
        return err_errno(err, "SIOCINQ");
    if (!waiting && !at_mark && !(p.revents & POLLPRI))
        return 0;
    r->before = -1;
    if (getsockopt(r->fd, SOL_SOCKET, SO_PEEK_OFF, &r->before, &n) < 0)
        return err_errno(err, "SO_PEEK_OFF");
    r->can_skip = set_offset(r, 0, &second) == 0;
    ret = p.revents & POLLPRI ? read_urgent(r, &buf, err) : read_plain(r, &buf, err);
    if (r->can_skip && set_offset(r, (size_t)r->before, ret < 0 ? &second : err) < 0 && ret >= 0)
        ret = -err->code;
    return ret;
}

int tcp_read_queue(struct ckpt *c, int fd, Inet *m, struct err *err)
{
    struct reader r = {.c = c, .fd = fd, .m = m};

    return read_queue(&r, err);
}

/*
 * What waits, and behind it the tail. The connection lives: some of the tail may have come since it was read at the
 * sender, and come while we look.
 */
static int read_with_tail(struct ckpt *c, int fd, const struct inet_sock *k, Inet *m, struct err *err)
{
    struct tcp_state before, after;
    uint64_t come;

    do {
        m->n_bytes = 0;
        if (tcp_state(fd, &before, err) < 0 || tcp_read_queue(c, fd, m, err) < 0 || tcp_state(fd, &after, err) < 0)
            return -err->code;
    } while (before.received != after.received);
    come = after.received - k->tail_after;
    if (come >= k->tail.len)
        return 0;
    return add(&(struct reader){.c = c, .m = m}, k->tail.data + come, k->tail.len - come, false, err);
}

int tcp_peek(struct ckpt *c, int fd, struct object *o, struct err *err)
{
    struct inet_sock *k = o->priv;
    Inet *m = inet_of(o);

    if (m->state == TCP_LISTEN || m->state == TCP_SYN_SENT || (m->state == TCP_CLOSE && !m->got_fin))
        return 0;
    if (m->peer_state == PEER_OUTSIDE && m->ext == EXT_KEEP)
        return tcp_keep(c, fd, o, err);
    /* Settling may have brought the end of the stream. */
    if (tcp_state(fd, &k->tcp, err) < 0)
        return -err->code;
    if (k->tcp.state == TCP_CLOSE && m->state != TCP_CLOSE && m->peer_state == PEER_OBJECT)
        return err_set(err, EAGAIN, "the connection ended during the checkpoint");
    m->sent_fin |= k->tcp.state == TCP_FIN_WAIT1 || k->tcp.state == TCP_FIN_WAIT2 || k->tcp.state == TCP_CLOSING ||
                   k->tcp.state == TCP_LAST_ACK;
    m->got_fin |= k->tcp.state == TCP_CLOSE_WAIT || k->tcp.state == TCP_CLOSING || k->tcp.state == TCP_LAST_ACK;
    m->state = k->tcp.state;
    return k->tail.len ? read_with_tail(c, fd, k, m, err) : tcp_read_queue(c, fd, m, err);
}
