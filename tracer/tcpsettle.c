/*
 * Bytes between two ends of a TCP connection that are both in the checkpoint. A byte can be in the sender's queue,
 * in the receiver's, or (not acknowledged yet) in both. Rather than to look into the sender's queue, which takes
 * CAP_NET_ADMIN, this makes the kernel bring everything to the receiver's: its buffer is made larger for a moment
 * and its window opened. Nothing is taken, nothing can get lost if the tracer dies in the middle (a buffer stays
 * larger than it was), and the program sees what it could have seen anyhow: data that has arrived.
 *
 * When all has arrived is told by counting: TCP_INFO has the bytes that were acknowledged and received. SYN and
 * FIN count as one each, the SYN only with who sent it first; so the sums over both directions differ by one.
 */
#include <errno.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/ioctl.h>

#include "base/util.h"
#include "tracer/inet.h"

#ifndef SO_BUF_LOCK
#define SO_BUF_LOCK 72
#endif
#define PATIENCE_MS 3000
#define WIDE        (256 << 20)

/* An end of a connection while it is settled. */
struct end {
    int fd;
    int rcvbuf, lock; /* to be put back; rcvbuf 0: not changed */
};

static void narrow(struct end *e)
{
    int half = e->rcvbuf / 2;

    if (e->rcvbuf) {
        if (setsockopt(e->fd, SOL_SOCKET, SO_RCVBUFFORCE, &half, sizeof(half)) < 0)
            setsockopt(e->fd, SOL_SOCKET, SO_RCVBUF, &half, sizeof(half));
        setsockopt(e->fd, SOL_SOCKET, SO_BUF_LOCK, &e->lock, sizeof(e->lock));
    }
    e->rcvbuf = 0;
}

static void done(struct end *e)
{
    if (e->fd < 0)
        return;
    narrow(e);
    close(e->fd);
}

static int rmem_max(void)
{
    _cleanup_free_ char *text = NULL;
    size_t n;

    return read_file(-1, "/proc/sys/net/core/rmem_max", &text, &n) < 0 ? 0 : atoi(text);
}

/* Make room. Without CAP_NET_ADMIN the system's limit must be above what the socket has already. */
static int widen(struct end *e, struct err *err)
{
    int want = WIDE, now = sockopt_int(e->fd, SOL_SOCKET, SO_RCVBUF, 0), max;

    if (e->rcvbuf)
        return 0;
    e->lock = sockopt_int(e->fd, SOL_SOCKET, SO_BUF_LOCK, 0);
    if (setsockopt(e->fd, SOL_SOCKET, SO_RCVBUFFORCE, &want, sizeof(want)) < 0) {
        max = rmem_max();
        if (max / 2 < now / 2)
            return err_set(err, EPERM,
                           "data is on its way that does not fit into the receiver's buffer of %d bytes, which can't "
                           "be made larger without CAP_NET_ADMIN (or a larger net.core.rmem_max)",
                           now);
        if (setsockopt(e->fd, SOL_SOCKET, SO_RCVBUF, &want, sizeof(want)) < 0)
            return err_errno(err, "SO_RCVBUF");
    }
    e->rcvbuf = now;
    return 0;
}

/*
 * Have the one send what it holds back (TCP_NODELAY pushes, also past TCP_CORK), and the other say how large its
 * window is by now (every recvmsg does, if it got something: tcp_cleanup_rbuf()).
 */
static int nudge(const struct end *from, struct end *to, struct err *err)
{
    int before = sockopt_int(from->fd, IPPROTO_TCP, TCP_NODELAY, 0), one = 1;
    char c;

    setsockopt(from->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    if (!before)
        setsockopt(from->fd, IPPROTO_TCP, TCP_NODELAY, &before, sizeof(before));
    if (widen(to, err) < 0)
        return -err->code;
    recv(to->fd, &c, 1, MSG_PEEK | MSG_DONTWAIT);
    return 0;
}

struct counts {
    struct tcp_state tcp;
    int outq;
};

static int count(const struct end *e, struct counts *n, struct err *err)
{
    if (tcp_state(e->fd, &n->tcp, err) < 0)
        return -err->code;
    return ioctl(e->fd, SIOCOUTQ, &n->outq) < 0 ? err_errno(err, "SIOCOUTQ") : 0;
}

/* Has everything arrived? Both ends may be the same socket. */
static int arrived(const struct end *a, const struct end *b, bool self, bool *yes, struct err *err)
{
    struct counts x, y;
    int64_t missing;

    if (count(a, &x, err) < 0 || count(b, &y, err) < 0)
        return -err->code;
    if (x.tcp.state == TCP_CLOSE || y.tcp.state == TCP_CLOSE) {
        *yes = true;
        return 0;
    }
    missing = (int64_t)(x.tcp.acked + (uint64_t)x.outq - y.tcp.received);
    if (!self)
        missing += (int64_t)(y.tcp.acked + (uint64_t)y.outq - x.tcp.received);
    *yes = missing <= 1 || (x.outq == 0 && y.outq == 0);
    return 0;
}

static int settle_pair(struct end *a, struct end *b, bool self, struct err *err)
{
    bool yes;

    for (int i = 0; i < PATIENCE_MS; i++) {
        if (arrived(a, b, self, &yes, err) < 0)
            return -err->code;
        if (yes)
            return 0;
        if (nudge(a, b, err) < 0 || (!self && nudge(b, a, err) < 0))
            return -err->code;
        poll(NULL, 0, i ? 1 : 0);
    }
    return err_set(err, ETIMEDOUT, "data that is on its way to the other end does not arrive there");
}

/* The peer's program has closed it; what it had written comes, and then the end of the stream. */
static int settle_closed(struct end *a, struct err *err)
{
    struct tcp_state s;

    for (int i = 0; i < PATIENCE_MS; i++) {
        char c;
        if (tcp_state(a->fd, &s, err) < 0)
            return -err->code;
        if (s.state != TCP_ESTABLISHED && s.state != TCP_FIN_WAIT1 && s.state != TCP_FIN_WAIT2)
            return 0;
        if (widen(a, err) < 0)
            return -err->code;
        recv(a->fd, &c, 1, MSG_PEEK | MSG_DONTWAIT);
        poll(NULL, 0, i ? 1 : 0);
    }
    return err_set(err, ETIMEDOUT, "data that its closed peer had sent does not arrive");
}

static int open_end(const struct object *o, struct end *e, struct err *err)
{
    const struct inet_sock *k = o->priv;

    *e = (struct end){.fd = ckpt_get_fd(k->fi->proc, k->fi->fd, err)};
    return e->fd < 0 ? -err->code : 0;
}

int tcp_settle(struct ckpt *c, struct object *o, struct err *err)
{
    const struct inet_sock *k = o->priv;
    const Inet *m = inet_of(o);
    __attribute__((cleanup(done))) struct end a = {.fd = -1}, b = {.fd = -1};

    if (m->peer_state == PEER_CLOSED && !m->got_fin)
        return open_end(o, &a, err) < 0 ? -err->code : settle_closed(&a, err);
    if (m->peer_state != PEER_OBJECT || k->peer->id < o->id)
        return 0;
    if (open_end(o, &a, err) < 0 || open_end(k->peer, &b, err) < 0)
        return -err->code;
    return settle_pair(&a, &b, k->peer == o, err);
}
