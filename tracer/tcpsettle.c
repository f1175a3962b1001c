/*
 * Bytes between two ends of a TCP connection that are both in the checkpoint. A byte can be in the sender's queue,
 * in the receiver's, or (not acknowledged yet) in both. Rather than to look into the sender's queue, which takes
 * CAP_NET_ADMIN, this makes the kernel bring everything to the receiver's: its buffer is made larger for a moment
 * and its window opened. Nothing is taken, nothing can get lost if the tracer dies in the middle (a buffer stays
 * larger than it was), and the program sees what it could have seen anyhow: data that has arrived.
 *
 * When all has arrived is told by counting: TCP_INFO has the bytes that were acknowledged and received. SYN and
 * FIN count as one each, the SYN only with who sent it first; so the sums over both directions differ by one.
 *
 * A sender that has met a small window asks for more only now and then, the longer it has waited the more seldom. With
 * CAP_NET_ADMIN what it still has is read there (tcpkeep.c) and put behind what the receiver has. Without it, the
 * program is let go once more without its senders (keepback.h).
 */
#include <errno.h>
#include <linux/sock_diag.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/ioctl.h>

#include "base/log.h"
#include "base/sockbuf.h"
#include "base/util.h"
#include "tracer/inet.h"
#include "tracer/keepback.h"

#define PATIENCE_MS 5000
#define WAIT_MS     20  /* a stream that goes over does so in less */
#define BATCH       512u /* connections whose descriptors are open at a time */
#define WIDE        (256 << 20)

/* An end of a connection while it is settled. */
struct end {
    int fd;
    int rcvbuf, lock; /* to be put back; rcvbuf 0: not changed */
    bool is_limited;  /* can't be made wider */
};

static void narrow(struct end *e)
{
    if (e->rcvbuf) {
        sockbuf_set(e->fd, SO_RCVBUF, (uint32_t)e->rcvbuf);
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

/*
 * Make room. Without CAP_NET_ADMIN that is limited by the system: a socket that has as much already is left as it is.
 */
static void widen(struct end *e)
{
    int now = sockopt_int(e->fd, SOL_SOCKET, SO_RCVBUF, 0);

    if (e->rcvbuf || e->is_limited)
        return;
    e->lock = sockopt_int(e->fd, SOL_SOCKET, SO_BUF_LOCK, 0);
    e->is_limited = sockbuf_widen_receive(e->fd, WIDE) <= now;
    if (e->is_limited)
        setsockopt(e->fd, SOL_SOCKET, SO_BUF_LOCK, &e->lock, sizeof(e->lock));
    else
        e->rcvbuf = now;
}

/*
 * Have the one send what it holds back (TCP_NODELAY pushes, also past TCP_CORK), and the other say how large its
 * window is by now (every recvmsg does, if it got something: tcp_cleanup_rbuf()).
 */
static void nudge(const struct end *from, struct end *to)
{
    int before = sockopt_int(from->fd, IPPROTO_TCP, TCP_NODELAY, 0), one = 1;
    char c;

    setsockopt(from->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    if (!before)
        setsockopt(from->fd, IPPROTO_TCP, TCP_NODELAY, &before, sizeof(before));
    widen(to);
    recv(to->fd, &c, 1, MSG_PEEK | MSG_DONTWAIT);
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

/* ---- all of them at once ---- */

struct job {
    struct object *o;
    struct end a, b; /* b: the other end, unless that is closed, or the same */
    bool pair, self, done;
    bool again, a_sends, b_sends; /* keep_back() */
};

/* The peer's program has closed it; what it had written comes, and then the end of the stream. */
static int look_at_closed(struct job *j, struct err *err)
{
    struct tcp_state s;
    char c;

    if (tcp_state(j->a.fd, &s, err) < 0)
        return -err->code;
    j->done = s.state != TCP_ESTABLISHED && s.state != TCP_FIN_WAIT1 && s.state != TCP_FIN_WAIT2;
    if (j->done)
        return 0;
    widen(&j->a);
    recv(j->a.fd, &c, 1, MSG_PEEK | MSG_DONTWAIT);
    return 0;
}

static int look_at(struct job *j, struct err *err)
{
    if (!j->pair)
        return look_at_closed(j, err);
    if (arrived(&j->a, &j->b, j->self, &j->done, err) < 0)
        return -err->code;
    if (j->done)
        return 0;
    nudge(&j->a, &j->b);
    if (!j->self)
        nudge(&j->b, &j->a);
    return 0;
}

static int open_end(const struct object *o, struct end *e, struct err *err)
{
    const struct inet_sock *k = o->priv;

    *e = (struct end){.fd = ckpt_get_fd(k->fi->proc, k->fi->fd, err)};
    return e->fd < 0 ? -err->code : 0;
}

static void end_job(struct job *j)
{
    done(&j->a);
    done(&j->b);
    j->a.fd = j->b.fd = -1;
}

/* Is there anything to wait for? */
static bool wants(const struct object *o)
{
    const struct inet_sock *k = o->priv;
    const Inet *m = inet_of(o);

    if (!inet_is_tcp(o))
        return false;
    return (m->peer_state == PEER_CLOSED && !m->got_fin) || (m->peer_state == PEER_OBJECT && k->peer->id >= o->id);
}

static int begin_job(struct job *j, struct object *o, struct err *err)
{
    const struct inet_sock *k = o->priv;

    *j = (struct job){.o = o, .a.fd = -1, .b.fd = -1, .pair = inet_of(o)->peer_state == PEER_OBJECT};
    j->self = j->pair && k->peer == o;
    if (open_end(o, &j->a, err) < 0 || (j->pair && open_end(k->peer, &j->b, err) < 0) || look_at(j, err) < 0)
        return -err->code;
    if (j->done)
        end_job(j);
    return 0;
}

/* What does not go over by itself stays with the sender, if we may look at it there. -EPERM: we may not. */
static int take_rest(struct ckpt *c, struct job *j, struct err *err)
{
    struct inet_sock *k = j->o->priv;

    if (!j->pair || j->self)
        return -EPERM;
    if (tcp_keep_allowed(j->a.fd, err) < 0)
        return -EPERM;
    if (tcp_take_tail(c, j->a.fd, j->o, j->b.fd, k->peer, err) < 0 ||
        tcp_take_tail(c, j->b.fd, k->peer, j->a.fd, j->o, err) < 0)
        return -err->code;
    j->done = true;
    return 0;
}

static struct proc *owner(const struct object *o)
{
    return ((const struct inet_sock *)o->priv)->fi->proc;
}

static bool sends(const struct end *e)
{
    int left = 0;

    return e->fd >= 0 && ioctl(e->fd, SIOCOUTQ, &left) == 0 && left > 0;
}

/* Nor may we: the receiver has to read before the next try. A closed peer sends what it had by itself. */
static int keep_back(struct ckpt *c, struct job *j, struct err *err)
{
    struct proc *p = owner(j->o), *q = j->pair ? owner(((const struct inet_sock *)j->o->priv)->peer) : p;

    j->again = true;
    j->a_sends = p != q && sends(&j->a);
    j->b_sends = p != q && sends(&j->b);
    p->kept_back |= j->a_sends;
    q->kept_back |= j->b_sends;
    return (j->a_sends && keepback_add_end(c->options.keepback, j->a.fd, err) < 0) ||
                   (j->b_sends && keepback_add_end(c->options.keepback, j->b.fd, err) < 0)
               ? -err->code : 0;
}

/* Of a chain, whose first sender is kept back, the others have to pass on what they get. */
static void let_receivers_go(const struct job *jobs, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const struct job *j = &jobs[i];
        if (j->done || (!j->a_sends && !j->b_sends))
            continue;
        owner(j->o)->kept_back &= !j->b_sends;
        owner(((const struct inet_sock *)j->o->priv)->peer)->kept_back &= !j->a_sends;
    }
}

static int one_round(struct ckpt *c, struct job *jobs, size_t n, int round, size_t *left, struct err *err)
{
    *left = 0;
    for (size_t i = 0; i < n; i++) {
        struct job *j = &jobs[i];
        int r = 0;
        if (j->done)
            continue;
        if (look_at(j, err) < 0)
            return -err->code;
        if (!j->done && round == WAIT_MS)
            r = take_rest(c, j, err);
        if (r == -EPERM)
            r = c->options.last_try ? 0 : keep_back(c, j, err);
        if (r < 0)
            return r;
        if (j->done)
            end_job(j);
        else
            *left += 1;
    }
    return 0;
}

/* For who wants to know why: both ends as the kernel sees them. */
static void trace_end(const char *what, const struct end *e)
{
    uint32_t mem[SK_MEMINFO_VARS] = {0};
    struct tcp_info i = {0};
    socklen_t n = sizeof(i), mn = sizeof(mem);
    int unsent = 0;

    if (e->fd < 0)
        return;
    getsockopt(e->fd, IPPROTO_TCP, TCP_INFO, &i, &n);
    getsockopt(e->fd, SOL_SOCKET, SO_MEMINFO, mem, &mn);
    ioctl(e->fd, SIOCOUTQNSD, &unsent);
    log_trace("%s: state %u, %u to be acknowledged, %d not sent, rto %u us, backoff %u, probes %u, last sent %u ms ago; "
              "receive buffer %u of %u, limited: %d",
              what, i.tcpi_state, i.tcpi_unacked, unsent, i.tcpi_rto, i.tcpi_backoff, i.tcpi_probes,
              i.tcpi_last_data_sent, mem[SK_MEMINFO_RMEM_ALLOC], mem[SK_MEMINFO_RCVBUF], e->is_limited);
}

/* Nothing of a job that is still open by then has come for PATIENCE_MS. */
static int complain(const struct job *jobs, size_t n, int code, struct err *err)
{
    for (size_t i = 0; i < n; i++) {
        const struct job *j = &jobs[i];
        const struct inet_sock *k = j->o->priv;
        if (j->done)
            continue;
        trace_end("one end", &j->a);
        trace_end("other end", &j->b);
        if (j->a.is_limited || j->b.is_limited)
            err_set(err, code,
                    "data is on its way that does not fit into the receiver's buffer, which can't be made larger without "
                    "CAP_NET_ADMIN (or a larger net.core.rmem_max or net.ipv4.tcp_rmem)");
        else
            err_set(err, code, j->pair ? "data that is on its way to the other end does not arrive there"
                                       : "data that its closed peer had sent does not arrive");
        return ckpt_fd_err(k->fi, err);
    }
    return 0;
}

static bool anyone_again(const struct job *jobs, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (jobs[i].again && !jobs[i].done)
            return true;
    return false;
}

static int run(struct ckpt *c, struct job *jobs, size_t n, struct err *err)
{
    int64_t begin = monotonic_ms();
    size_t left = 0;

    for (size_t i = 0; i < n; i++)
        left += !jobs[i].done;
    for (int round = 0; left && monotonic_ms() - begin < PATIENCE_MS; round++) {
        if (one_round(c, jobs, n, round, &left, err) < 0)
            return -err->code;
        if (left && anyone_again(jobs, n)) {
            let_receivers_go(jobs, n);
            return complain(jobs, n, EAGAIN, err);
        }
        if (left)
            poll(NULL, 0, round ? 1 : 0);
    }
    return left ? complain(jobs, n, ETIMEDOUT, err) : 0;
}

static int settle_some(struct ckpt *c, struct object **o, struct job *jobs, struct err *err)
{
    size_t n = 0;
    int r = 0;

    for (; r == 0 && *o && n < BATCH; *o = (*o)->next)
        if (wants(*o))
            r = begin_job(&jobs[n++], *o, err);
    if (r == 0)
        r = run(c, jobs, n, err);
    for (size_t i = 0; i < n; i++)
        end_job(&jobs[i]);
    return r;
}

int tcp_settle(struct ckpt *c, struct err *err)
{
    struct sockets *s = sockets_of(c, err);
    _cleanup_free_ struct job *jobs = calloc(BATCH, sizeof(*jobs));
    struct object *o = c->objects;

    if (!s || !jobs)
        return err_set(err, ENOMEM, "out of memory");
    if (s->tcp_settled)
        return 0;
    s->tcp_settled = true;
    while (o)
        if (settle_some(c, &o, jobs, err) < 0)
            return -err->code;
    for (size_t i = 0; i < c->nprocs; i++)
        c->procs[i]->kept_back = false;
    return 0;
}
