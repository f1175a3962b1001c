/*
 * What waits in TCP sockets, sent again from the other end; then the ends of streams, resets, and the options. The
 * receiver's buffer is made as large as need be for a moment, because all that was on the way waits there now
 * (tracer/tcpsettle.c).
 */
#include <errno.h>
#include <linux/sockios.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/log.h"
#include "base/util.h"
#include "restorer/inet.h"

#define SMALL       (16u << 10) /* bytes that fit without more ado */
#define PATIENCE_MS 5000

static size_t bytes_of(const struct rinet *u)
{
    size_t n = 0;

    for (size_t i = 0; i < u->m->n_bytes; i++)
        n += u->m->bytes[i]->data.len;
    return n;
}

static int sender_of(const struct rinet *u)
{
    return u->temp >= 0 ? u->temp : u->peer ? u->peer->fd : -1;
}

/*
 * A window of the size of the new buffer is only told when the receiver reads: a peek does. (The kernel may also
 * still hold back what is sent until it has heard of a larger window.)
 */
static void tell_window(int fd)
{
    char c;

    if (recv(fd, &c, 1, MSG_PEEK | MSG_DONTWAIT) < 0)
        return;
}

static int put(int from, int to, const uint8_t *data, size_t n, int flags, struct err *err)
{
    int64_t until = monotonic_ms() + PATIENCE_MS;

    while (n) {
        ssize_t k = send(from, data, n, flags | MSG_DONTWAIT | MSG_NOSIGNAL);
        if (k >= 0) {
            data += k;
            n -= (size_t)k;
            continue;
        }
        if (errno != EAGAIN)
            return err_errno(err, "sending what waits in it");
        tell_window(to);
        if (poll(&(struct pollfd){.fd = from, .events = POLLOUT}, 1, 1) == 0 && monotonic_ms() > until)
            return err_set(err, ENOBUFS, "%zu bytes of what waits in it do not fit into a new socket: "
                                         "net.core.rmem_max or net.ipv4.tcp_rmem is smaller than where the program ran", n);
    }
    return 0;
}

/*
 * Bytes that were sent and have not arrived, and one more on the side that connected (its SYN is counted). That
 * an acknowledgement is missing does not mean that the data is.
 */
static int under_way(int from, int to, int64_t *n, struct err *err)
{
    struct tcp_state a, b;
    int left = 0;

    if (tcp_state(from, &a, err) < 0 || tcp_state(to, &b, err) < 0)
        return -err->code;
    if (ioctl(from, SIOCOUTQ, &left) < 0)
        return err_errno(err, "SIOCOUTQ");
    *n = (int64_t)(a.acked + (uint64_t)left - b.received);
    return 0;
}

/* Nothing is on its way, and something is left: there is no room for it until the receiver reads. */
static bool is_full(int from)
{
    int left = 0, unsent = 0;

    return ioctl(from, SIOCOUTQ, &left) == 0 && ioctl(from, SIOCOUTQNSD, &unsent) == 0 && unsent > 0 && left == unsent;
}

/*
 * FIN and options have to wait until the receiver has it all. What there is no room for may stay with a sender that
 * lives: it was there before the checkpoint, too.
 */
static int delivered(int from, int to, int64_t before, bool may_stay, struct err *err)
{
    for (int64_t until = monotonic_ms() + PATIENCE_MS; monotonic_ms() < until;) {
        int64_t now = 0;
        if (under_way(from, to, &now, err) < 0)
            return -err->code;
        tell_window(to);
        if (now <= before || (may_stay && is_full(from)))
            return 0;
        poll(NULL, 0, 1);
    }
    return err_set(err, ENOBUFS, "what waits in it does not fit into a new socket");
}

static int fill(struct rinet *u, struct err *err)
{
    int from = sender_of(u), one = 1;
    size_t total = bytes_of(u);
    int64_t before = 0;
    bool urgent = false;

    if (!total)
        return 0;
    if (from < 0)
        return err_set(err, EINVAL, "bytes from nobody");
    if (under_way(from, u->fd, &before, err) < 0)
        return -err->code;
    if (total > SMALL) {
        u->widened = true;
        socket_widen(u->fd, SO_RCVBUF);
        if (u->peer)
            u->peer->widened = true;
        socket_widen(from, SO_SNDBUF);
    }
    setsockopt(from, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    for (size_t i = 0; i < u->m->n_bytes; i++) {
        const InetBytes *b = u->m->bytes[i];
        size_t last = b->urgent ? 1 : 0;
        urgent |= b->urgent;
        if (put(from, u->fd, b->data.data, b->data.len - last, 0, err) < 0 ||
            put(from, u->fd, b->data.data + b->data.len - last, last, MSG_OOB, err) < 0)
            return -err->code;
    }
    log_trace("TCP socket %llu: %zu bytes sent", (unsigned long long)u->m->socket->ino, total);
    return delivered(from, u->fd, before, from != u->temp && !urgent, err);
}

/* ---- ends ---- */

/* The stand-in for a peer goes the way the peer went. */
static int part(struct rinet *u, struct err *err)
{
    struct linger abort = {1, 0};

    if (u->temp < 0)
        return 0;
    if (u->m->error || u->m->peer_state == PEER_OUTSIDE)
        setsockopt(u->temp, SOL_SOCKET, SO_LINGER, &abort, sizeof(abort));
    close(u->temp);
    u->temp = -1;
    return 0;
}

static int end_streams(struct rinet *u, struct err *err)
{
    bool over = u->m->state == TCP_CLOSE;

    if (!u->joined)
        return 0;
    if (u->m->sent_fin && !(over && u->m->error) && shutdown(u->fd, SHUT_WR) < 0 && errno != ENOTCONN)
        return err_errno(err, "shutdown");
    /* That the peer has sent its FIN shows as a shutdown too; only one without is the program's own. */
    if ((u->m->socket->shutdown & 1) && !u->m->got_fin && shutdown(u->fd, SHUT_RD) < 0 && errno != ENOTCONN)
        return err_errno(err, "shutdown");
    return 0;
}

/* SO_REUSEADDR was ours. Buffers that we widened and the program did not choose go back to what they were. */
static int finish(struct rinet *u, struct err *err)
{
    const Socket *m = u->m->socket;
    int reuse = 0, no_port = 0, nodelay = 0;

    if (u->listening)
        return 0; /* tcpbuild.c has done it */
    for (size_t i = 0; i < m->n_options; i++) {
        const SockOpt *o = m->options[i];
        reuse |= o->level == SOL_SOCKET && o->name == SO_REUSEADDR;
        no_port |= o->level == IPPROTO_IP && o->name == IP_BIND_ADDRESS_NO_PORT;
        nodelay |= o->level == IPPROTO_TCP && o->name == TCP_NODELAY;
    }
    setsockopt(u->fd, SOL_SOCKET, SO_REUSEADDR, &reuse, sizeof(reuse));
    setsockopt(u->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &no_port, sizeof(no_port));
    setsockopt(u->fd, IPPROTO_TCP, TCP_NODELAY, &nodelay, sizeof(nodelay));
    if (u->widened)
        socket_narrow(u->fd, m);
    return socket_late(u->fd, m, err);
}

int tcp_fill(struct rsockets *s, struct err *err)
{
    for (size_t i = 0; i < s->n_inets; i++)
        if (rinet_is_tcp(s->inets[i]) && !s->inets[i]->kept && fill(s->inets[i], err) < 0)
            return err_wrap(err, "TCP socket %llu", (unsigned long long)s->inets[i]->m->socket->ino);
    for (size_t i = 0; i < s->n_inets; i++) {
        struct rinet *u = s->inets[i];
        if (u->kept ? socket_options(u->fd, u->m->socket, err) < 0 : rinet_is_tcp(u) && (part(u, err) < 0 || end_streams(u, err) < 0 || finish(u, err) < 0))
            return err_wrap(err, "TCP socket %llu", (unsigned long long)u->m->socket->ino);
    }
    return 0;
}
