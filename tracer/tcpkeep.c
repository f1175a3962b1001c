/*
 * A TCP connection whose other end is not in the checkpoint, to be kept (--ext-tcp=keep): everything that both ends
 * have agreed on, and both queues, are read in the kernel's repair mode. Repair mode itself sends nothing, so the
 * peer does not notice.
 *
 * What arrives while it is read would make the parts not fit together. They are read again then, and if there is
 * something to send the socket is deaf meanwhile: a filter of its own drops every packet, which the peer sends
 * again. If the program is to be killed after the checkpoint (dmtcp_command --kcheckpoint), it stays so: what came
 * later would be acknowledged and be in no image. Closing a socket in repair mode sends nothing either.
 *
 * A helper (keeper.h) puts everything back if the tracer dies here, and holds the sockets when the program is dead.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/util.h"
#include "tracer/inet.h"
#include "tracer/keeper.h"

#define SLACK (256u << 10) /* what of the send queue may be acknowledged, but not taken off it yet */
#define TRIES 20

static int set_int(int fd, int name, int v, const char *what, struct err *err)
{
    return setsockopt(fd, IPPROTO_TCP, name, &v, sizeof(v)) < 0 ? err_errno(err, "%s", what) : 0;
}

/* Asked by what is no valid value: may we? */
int tcp_keep_allowed(int fd, struct err *err)
{
    int nonsense = 77;

    if (setsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &nonsense, sizeof(nonsense)) < 0 && errno == EPERM)
        return err_set(err, EPERM, "keeping it takes CAP_NET_ADMIN");
    return 0;
}

/* ---- reading ---- */

/* What changes when anything is sent or arrives. */
struct marks {
    uint32_t send_seq, receive_seq;
    int outq, unsent;
    uint8_t state;
};

static int sequence(int fd, int queue, uint32_t *seq, struct err *err)
{
    socklen_t n = sizeof(*seq);

    if (set_int(fd, TCP_REPAIR_QUEUE, queue, "TCP_REPAIR_QUEUE", err) < 0)
        return -err->code;
    return getsockopt(fd, IPPROTO_TCP, TCP_QUEUE_SEQ, seq, &n) < 0 ? err_errno(err, "TCP_QUEUE_SEQ") : 0;
}

static int read_marks(int fd, struct marks *m, struct err *err)
{
    struct tcp_state s;

    if (sequence(fd, TCP_SEND_QUEUE, &m->send_seq, err) < 0 || sequence(fd, TCP_RECV_QUEUE, &m->receive_seq, err) < 0)
        return -err->code;
    if (tcp_state(fd, &s, err) < 0)
        return -err->code;
    m->state = s.state;
    if (ioctl(fd, SIOCOUTQ, &m->outq) < 0 || ioctl(fd, SIOCOUTQNSD, &m->unsent) < 0)
        return err_errno(err, "SIOCOUTQ");
    return 0;
}

static bool same(const struct marks *a, const struct marks *b)
{
    return a->send_seq == b->send_seq && a->receive_seq == b->receive_seq && a->outq == b->outq &&
           a->unsent == b->unsent && a->state == b->state;
}

/* The last n bytes of it: in front of them there may be what the peer has got already. */
static int read_send_queue(struct ckpt *c, int fd, TcpRepair *k, size_t n, struct err *err)
{
    size_t size = n + SLACK;
    _cleanup_free_ uint8_t *buf = malloc(size);
    ssize_t got;

    k->send_queue = (ProtobufCBinaryData){0};
    if (!buf)
        return err_set(err, ENOMEM, "out of memory");
    if (n == 0)
        return 0;
    if (set_int(fd, TCP_REPAIR_QUEUE, TCP_SEND_QUEUE, "TCP_REPAIR_QUEUE", err) < 0)
        return -err->code;
    got = recv(fd, buf, size, MSG_PEEK | MSG_DONTWAIT);
    if (got < (ssize_t)n)
        return got < 0 ? err_errno(err, "reading the send queue") : err_set(err, EAGAIN, "a send queue that changes");
    k->send_queue = arena_bytes(c->arena, buf + got - n, n);
    return k->send_queue.len == n ? 0 : err_set(err, ENOMEM, "out of memory");
}

static int read_agreed(struct ckpt *c, int fd, TcpRepair *k, struct err *err)
{
    struct tcp_info i = {0};
    struct tcp_repair_window w = {0};
    socklen_t n = sizeof(i), wn = sizeof(w), tn = sizeof(k->timestamp);

    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &i, &n) < 0)
        return err_errno(err, "TCP_INFO");
    if (getsockopt(fd, IPPROTO_TCP, TCP_REPAIR_WINDOW, &w, &wn) < 0)
        return err_errno(err, "TCP_REPAIR_WINDOW");
    k->mss = (uint32_t)sockopt_int(fd, IPPROTO_TCP, TCP_MAXSEG, 536);
    k->window_scaling = i.tcpi_options & TCPI_OPT_WSCALE;
    k->send_scale = i.tcpi_snd_wscale;
    k->receive_scale = i.tcpi_rcv_wscale;
    k->sack = i.tcpi_options & TCPI_OPT_SACK;
    k->timestamps = i.tcpi_options & TCPI_OPT_TIMESTAMPS;
    if (k->timestamps && getsockopt(fd, IPPROTO_TCP, TCP_TIMESTAMP, &k->timestamp, &tn) < 0)
        return err_errno(err, "TCP_TIMESTAMP");
    k->window = arena_bytes(c->arena, &w, sizeof(w));
    return k->window.len ? 0 : err_set(err, ENOMEM, "out of memory");
}

static bool sent_end(uint8_t state)
{
    return state == TCP_FIN_WAIT1 || state == TCP_FIN_WAIT2 || state == TCP_CLOSING || state == TCP_LAST_ACK;
}

static bool got_end(uint8_t state)
{
    return state == TCP_CLOSE_WAIT || state == TCP_CLOSING || state == TCP_LAST_ACK;
}

/* One look in repair mode. *whole: nothing changed meanwhile. */
static int look(struct ckpt *c, int fd, Inet *m, bool *whole, struct err *err)
{
    struct marks before, after;
    TcpRepair *k = m->repair;
    uint32_t fin;

    m->n_bytes = 0;
    if (read_marks(fd, &before, err) < 0)
        return -err->code;
    if (before.state == TCP_CLOSE || before.state == TCP_TIME_WAIT)
        return err_set(err, EAGAIN, "the connection ended during the checkpoint");
    m->state = before.state;
    m->sent_fin = sent_end(before.state);
    m->got_fin = got_end(before.state);
    fin = m->sent_fin && before.outq > 0; /* not acknowledged: counted as a byte */
    k->send_seq = before.send_seq - m->sent_fin;
    k->receive_seq = before.receive_seq - m->got_fin;
    k->unsent = (uint32_t)before.unsent - (fin && before.unsent > 0);
    if (tcp_read_queue(c, fd, m, err) < 0 || read_send_queue(c, fd, k, (size_t)before.outq - fin, err) < 0 ||
        read_agreed(c, fd, k, err) < 0 || read_marks(fd, &after, err) < 0)
        return -err->code;
    *whole = same(&before, &after);
    return set_int(fd, TCP_REPAIR_QUEUE, TCP_NO_QUEUE, "TCP_REPAIR_QUEUE", err);
}

/* ---- with everything put back ---- */

static struct keeper_before before(const Inet *m)
{
    int reuse = 0;

    for (size_t i = 0; i < m->socket->n_options; i++)
        reuse |= m->socket->options[i]->level == SOL_SOCKET && m->socket->options[i]->name == SO_REUSEADDR;
    return (struct keeper_before){
        .reuse = reuse,
        .n_filter = (uint32_t)(m->socket->filter.len / sizeof(struct sock_filter)),
        .filter = (const struct sock_filter *)m->socket->filter.data,
    };
}

static int look_until_whole(struct ckpt *c, int fd, Inet *m, struct err *err)
{
    bool deaf = false, whole = false;
    int outq = 0;

    for (int i = 0; i < TRIES && !whole; i++) {
        /* Who sends in repair mode does not really: so nothing may come that makes room in the window. */
        if (ioctl(fd, SIOCOUTQ, &outq) < 0)
            return err_errno(err, "SIOCOUTQ");
        if (!deaf && (outq || i || c->options.hold) && tcp_deafen(fd, err) < 0)
            return -err->code;
        deaf |= outq || i || c->options.hold;
        if (set_int(fd, TCP_REPAIR, TCP_REPAIR_ON, "TCP_REPAIR", err) < 0 || look(c, fd, m, &whole, err) < 0)
            return -err->code;
    }
    for (size_t i = 0; i < m->n_bytes; i++)
        if (m->bytes[i]->urgent)
            return err_set(err, ENOTSUP, "urgent data waits in a connection that leads out of the computation");
    return whole ? 0 : err_set(err, EAGAIN, "a connection that does not stand still");
}

static int need_keeper(struct sockets *s, struct err *err)
{
    if (!s->has_keeper && keeper_start(&s->keeper, err) < 0)
        return -err->code;
    s->has_keeper = true;
    return 0;
}

static int tail_of(struct ckpt *c, int from, int to, struct inet_sock *receiver, struct err *err)
{
    struct marks a, b;
    struct tcp_state s;
    TcpRepair k;
    uint32_t fin;
    int32_t missing;

    tcp_repair__init(&k);
    if (tcp_deafen(from, err) < 0 || set_int(from, TCP_REPAIR, TCP_REPAIR_ON, "TCP_REPAIR", err) < 0 ||
        set_int(to, TCP_REPAIR, TCP_REPAIR_ON, "TCP_REPAIR", err) < 0 || read_marks(from, &a, err) < 0 ||
        tcp_state(to, &s, err) < 0)
        return -err->code;
    do {
        receiver->tail_after = s.received;
        if (read_marks(to, &b, err) < 0 || tcp_state(to, &s, err) < 0)
            return -err->code;
    } while (s.received != receiver->tail_after);
    fin = sent_end(a.state) && a.outq > 0;
    if (read_send_queue(c, from, &k, (size_t)a.outq - fin, err) < 0)
        return -err->code;
    missing = (int32_t)(a.send_seq - sent_end(a.state) - b.receive_seq);
    if (missing > (int32_t)k.send_queue.len)
        return err_set(err, EAGAIN, "data that neither end has");
    if (missing > 0)
        receiver->tail = (ProtobufCBinaryData){(size_t)missing, k.send_queue.data + k.send_queue.len - (size_t)missing};
    return 0;
}

/* What one end has sent, or is to send, and the other has not got: from the send queue, in repair mode. */
int tcp_take_tail(struct ckpt *c, int from_fd, struct object *from, int to_fd, struct object *to, struct err *err)
{
    struct sockets *s = sockets_of(c, err);
    struct keeper_before a = before(inet_of(from)), b = before(inet_of(to));
    struct inet_sock *k = to->priv;
    int r;

    if (!s || need_keeper(s, err) < 0 || keeper_watch(s->keeper, from_fd, from->id, &a, err) < 0 ||
        keeper_watch(s->keeper, to_fd, to->id, &b, err) < 0)
        return -err->code;
    r = tail_of(c, from_fd, to_fd, k, err);
    tcp_put_back(from_fd, &a);
    tcp_put_back(to_fd, &b);
    keeper_forget(s->keeper, from->id);
    keeper_forget(s->keeper, to->id);
    return r;
}

int tcp_keep(struct ckpt *c, int fd, struct object *o, struct err *err)
{
    struct sockets *s = sockets_of(c, err);
    struct inet_sock *k = o->priv;
    Inet *m = inet_of(o);
    struct keeper_before b = before(m);
    int r;

    if (!s)
        return -err->code;
    m->repair = arena_alloc(c->arena, sizeof(*m->repair));
    if (!m->repair)
        return err_set(err, ENOMEM, "out of memory");
    tcp_repair__init(m->repair);
    if (need_keeper(s, err) < 0)
        return -err->code;
    if (keeper_watch(s->keeper, fd, o->id, &b, err) < 0)
        return -err->code;
    r = look_until_whole(c, fd, m, err);
    if (r == 0 && c->options.hold) {
        k->held = fcntl(fd, F_DUPFD_CLOEXEC, 3);
        k->is_held = k->held >= 0;
        if (k->is_held)
            return 0;
        r = err_errno(err, "another descriptor");
    }
    tcp_put_back(fd, &b);
    keeper_forget(s->keeper, o->id);
    return r;
}

/* The program goes on after all. */
void tcp_keep_release(struct ckpt *c, struct object *o)
{
    struct sockets *s = c->sockets;
    struct inet_sock *k = o->priv;
    Inet *m = inet_of(o);

    if (!k || !k->is_held || !m)
        return;
    if (!c->killed) {
        struct keeper_before b = before(m);
        tcp_put_back(k->held, &b);
        keeper_forget(s->keeper, o->id);
    }
    close(k->held);
    k->is_held = false;
}

void tcp_keep_end(struct ckpt *c)
{
    struct sockets *s = c->sockets;

    if (!s || !s->has_keeper)
        return;
    if (c->killed)
        keeper_hold(s->keeper);
    else
        close(s->keeper);
    s->has_keeper = false;
}
