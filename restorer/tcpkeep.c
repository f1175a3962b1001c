/*
 * TCP connections whose other end is not in the images, kept: a socket is put into the kernel's repair mode and told
 * what the old one knew: sequence numbers, what was agreed on, both queues. The peer does not notice; the socket is
 * deaf and silent until everything else stands, so that a restart that fails has not touched the connection.
 *
 * Last it begins to live: the end of the stream that the peer had sent arrives once more (a packet of our own over
 * the loopback interface: the peer will not send it again), what was never sent is sent, and its own end of the
 * stream once more if the program had ended it: a peer that has it already only acknowledges it again.
 */
#include <errno.h>
#include <linux/filter.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>

#include "base/ports.h"
#include "base/util.h"
#include "restorer/inet.h"

#define PIECE (64u << 10)

static int set_int(int fd, int name, int v, const char *what, struct err *err)
{
    return setsockopt(fd, IPPROTO_TCP, name, &v, sizeof(v)) < 0 ? err_errno(err, "%s", what) : 0;
}

static int check(const struct rinet *u, struct err *err)
{
    const TcpRepair *k = u->m->repair;

    if (!k)
        return err_set(err, ENOTSUP, "the image has not what it takes to keep it: it was made with --ext-tcp=reset");
    if (!u->m->remote.len || k->window.len != sizeof(struct tcp_repair_window) || k->unsent > k->send_queue.len ||
        k->send_scale > 14 || k->receive_scale > 14 || u->m->state < TCP_ESTABLISHED || u->m->state == TCP_SYN_SENT ||
        u->m->state == TCP_SYN_RECV || u->m->state == TCP_TIME_WAIT || u->m->state == TCP_CLOSE ||
        u->m->state == TCP_LISTEN)
        return err_set(err, EINVAL, "the record of a socket makes no sense");
    return 0;
}

static size_t waiting(const Inet *m)
{
    size_t n = 0;

    for (size_t i = 0; i < m->n_bytes; i++)
        n += m->bytes[i]->data.len;
    return n;
}

/* ---- making it ---- */

static int sequence(int fd, int queue, uint32_t seq, struct err *err)
{
    if (set_int(fd, TCP_REPAIR_QUEUE, queue, "TCP_REPAIR_QUEUE", err) < 0)
        return -err->code;
    return set_int(fd, TCP_QUEUE_SEQ, (int)seq, "TCP_QUEUE_SEQ", err);
}

static int deafen(int fd, struct err *err)
{
    struct sock_filter drop[] = {BPF_STMT(BPF_RET | BPF_K, 0)};
    struct sock_fprog p = {1, drop};

    return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &p, sizeof(p)) < 0 ? err_errno(err, "SO_ATTACH_FILTER") : 0;
}

static int take_address(const struct rinet *u, int fd, struct err *err)
{
    union address a;
    socklen_t len = inet_address(&u->m->local, &a);

    return bind(fd, &a.sa, len) < 0 ? inet_bind_error(&u->local, errno, err) : 0;
}

/* Sends nothing: in repair mode a socket is connected at once. */
static int connect_silently(const struct rinet *u, int fd, struct err *err)
{
    union address a;
    socklen_t len = inet_address(&u->m->remote, &a);
    struct err ignored;

    if (connect(fd, &a.sa, len) == 0)
        return 0;
    /* What remains of the program that was killed. */
    if (errno == EADDRNOTAVAIL && port_clear(u->local.port, &ignored) > 0 && connect(fd, &a.sa, len) == 0)
        return 0;
    if (errno == EADDRNOTAVAIL)
        return err_set(err, EADDRINUSE, "another socket of this host has that connection");
    return err_errno(err, "connecting");
}

static int agree(int fd, const TcpRepair *k, struct err *err)
{
    struct tcp_repair_opt o[4];
    unsigned n = 0;

    o[n++] = (struct tcp_repair_opt){TCPOPT_MAXSEG, k->mss};
    if (k->window_scaling)
        o[n++] = (struct tcp_repair_opt){TCPOPT_WINDOW, k->send_scale | k->receive_scale << 16};
    if (k->sack)
        o[n++] = (struct tcp_repair_opt){TCPOPT_SACK_PERMITTED, 0};
    if (k->timestamps)
        o[n++] = (struct tcp_repair_opt){TCPOPT_TIMESTAMP, 0};
    if (setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_OPTIONS, o, n * sizeof(*o)) < 0)
        return err_errno(err, "TCP_REPAIR_OPTIONS");
    return k->timestamps ? set_int(fd, TCP_TIMESTAMP, (int)k->timestamp, "TCP_TIMESTAMP", err) : 0;
}

/* Into a queue: nothing is sent, and what is received comes from here. */
static int queue(int fd, const uint8_t *data, size_t n, struct err *err)
{
    while (n) {
        ssize_t k = send(fd, data, n < PIECE ? n : PIECE, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (k < 0 && (errno == EAGAIN || errno == ENOMEM))
            return err_set(err, ENOBUFS, "%zu bytes do not fit into the buffers of a new socket", n);
        if (k < 0)
            return err_errno(err, "filling its queues");
        data += k;
        n -= (size_t)k;
    }
    return 0;
}

static int fill(const struct rinet *u, int fd, struct err *err)
{
    const TcpRepair *k = u->m->repair;
    struct tcp_repair_window w;

    socket_widen(fd, SO_RCVBUF);
    socket_widen(fd, SO_SNDBUF);
    if (set_int(fd, TCP_REPAIR_QUEUE, TCP_RECV_QUEUE, "TCP_REPAIR_QUEUE", err) < 0)
        return -err->code;
    for (size_t i = 0; i < u->m->n_bytes; i++)
        if (queue(fd, u->m->bytes[i]->data.data, u->m->bytes[i]->data.len, err) < 0)
            return -err->code;
    if (set_int(fd, TCP_REPAIR_QUEUE, TCP_SEND_QUEUE, "TCP_REPAIR_QUEUE", err) < 0 ||
        queue(fd, k->send_queue.data, k->send_queue.len - k->unsent, err) < 0 ||
        set_int(fd, TCP_REPAIR_QUEUE, TCP_NO_QUEUE, "TCP_REPAIR_QUEUE", err) < 0)
        return -err->code;
    memcpy(&w, k->window.data, sizeof(w));
    if ((int32_t)(w.rcv_wup - k->receive_seq) > 0)
        w.rcv_wup = k->receive_seq; /* the end of the stream is not received yet */
    if (setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_WINDOW, &w, sizeof(w)) < 0)
        return err_errno(err, "TCP_REPAIR_WINDOW");
    return 0;
}

static int make(struct rinet *u, struct err *err)
{
    const TcpRepair *k = u->m->repair;
    _cleanup_close_ int fd = socket_make(u->m->socket, err);
    int on = TCP_REPAIR_ON;

    if (fd < 0)
        return -err->code;
    if (setsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &on, sizeof(on)) < 0)
        return errno == EPERM ? err_set(err, EPERM, "that takes CAP_NET_ADMIN") : err_errno(err, "TCP_REPAIR");
    if (deafen(fd, err) < 0 || take_address(u, fd, err) < 0 ||
        sequence(fd, TCP_SEND_QUEUE, k->send_seq - (uint32_t)k->send_queue.len, err) < 0 ||
        sequence(fd, TCP_RECV_QUEUE, k->receive_seq - (uint32_t)waiting(u->m), err) < 0 ||
        connect_silently(u, fd, err) < 0 || agree(fd, k, err) < 0 || fill(u, fd, err) < 0)
        return -err->code;
    return take_fd(&fd);
}

int tcp_keep(struct rsockets *s, struct rinet *u, struct err *err)
{
    char text[64];

    u->fd = check(u, err) < 0 ? -err->code : tcp_adopt(s, u);
    u->adopted = u->fd >= 0;
    if (u->fd == -ENOENT)
        u->fd = make(u, err);
    if (u->fd < 0) {
        u->fd = -1;
        return err_wrap(err, "the connection with %s, which --ext-tcp=reset would give up, can't be kept",
                        inet_text(&u->remote, text, sizeof(text)));
    }
    u->joined = u->kept = true;
    return 0;
}

/* ---- letting it live ---- */

static uint16_t checksum(uint32_t sum, const void *data, size_t n)
{
    const uint8_t *p = data;

    for (size_t i = 0; i + 1 < n; i += 2)
        sum += (uint32_t)p[i] << 8 | p[i + 1];
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)sum;
}

/* The peer's FIN, as it came before the checkpoint. */
static struct tcphdr end_segment(const struct rinet *u)
{
    const TcpRepair *k = u->m->repair;
    struct tcp_repair_window w;
    struct tcphdr h = {.doff = 5, .fin = 1, .ack = 1};
    uint32_t window, sum;

    memcpy(&w, k->window.data, sizeof(w));
    window = w.snd_wnd >> (k->window_scaling ? k->send_scale : 0);
    h.source = htons(u->remote.port);
    h.dest = htons(u->local.port);
    h.seq = htonl(k->receive_seq);
    h.ack_seq = htonl(k->send_seq - (uint32_t)k->send_queue.len);
    h.window = htons((uint16_t)(window > 65535 ? 65535 : window));
    /* Of the addresses too; what IPv4-mapped ones have in front would count. */
    sum = IPPROTO_TCP + sizeof(h);
    bool v4 = inet_is_v4(&u->local);
    sum = checksum(sum, u->remote.addr + (v4 ? 12 : 0), v4 ? 4 : 16);
    sum = checksum(sum, u->local.addr + (v4 ? 12 : 0), v4 ? 4 : 16);
    h.check = htons((uint16_t)~checksum(sum, &h, sizeof(h)));
    return h;
}

static int send_v4(const struct rinet *u, const struct tcphdr *t)
{
    struct {
        uint8_t version, tos;
        uint16_t len, id, frag;
        uint8_t ttl, protocol;
        uint16_t check;
        uint8_t src[4], dst[4];
        struct tcphdr t;
    } __attribute__((packed)) p = {.version = 0x45, .ttl = 64, .protocol = IPPROTO_TCP, .t = *t};
    struct sockaddr_in to = {.sin_family = AF_INET};
    _cleanup_close_ int fd = socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW);

    memcpy(p.src, u->remote.addr + 12, 4);
    memcpy(p.dst, u->local.addr + 12, 4);
    memcpy(&to.sin_addr, p.dst, 4);
    return fd < 0 || sendto(fd, &p, sizeof(p), 0, (void *)&to, sizeof(to)) < 0 ? -errno : 0;
}

static int send_v6(const struct rinet *u, const struct tcphdr *t)
{
    struct {
        uint8_t version, label[3];
        uint16_t len;
        uint8_t next, hops, src[16], dst[16];
        struct tcphdr t;
    } __attribute__((packed)) p = {.version = 0x60, .len = htons(sizeof(*t)), .next = IPPROTO_TCP, .hops = 64, .t = *t};
    union address to;
    socklen_t len = inet_address(&u->m->local, &to);
    _cleanup_close_ int fd = socket(AF_INET6, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW);

    memcpy(p.src, u->remote.addr, 16);
    memcpy(p.dst, u->local.addr, 16);
    to.v6.sin6_port = 0;
    return fd < 0 || sendto(fd, &p, sizeof(p), 0, &to.sa, len) < 0 ? -errno : 0;
}

static int receive_end(const struct rinet *u, struct err *err)
{
    struct tcphdr t = end_segment(u);
    int r = inet_is_v4(&u->local) ? send_v4(u, &t) : send_v6(u, &t);

    return r < 0 ? err_set(err, -r, "the end of the stream that the peer had sent: %s", strerror(-r)) : 0;
}

/* A peer that does not know the connection any more resets it. That is for the program to see. */
static int send_rest(const struct rinet *u, struct err *err)
{
    const TcpRepair *k = u->m->repair;
    struct pollfd p = {.fd = u->fd};

    if (poll(&p, 1, 0) == 1 && (p.revents & POLLERR))
        return 0;
    if (k->unsent && queue(u->fd, k->send_queue.data + k->send_queue.len - k->unsent, k->unsent, err) < 0)
        return err->code == ECONNRESET || err->code == EPIPE ? 0 : -err->code;
    if (u->m->sent_fin && shutdown(u->fd, SHUT_WR) < 0 && errno != ENOTCONN)
        return err_errno(err, "shutdown");
    return 0;
}

static bool has_reuse(const Socket *m)
{
    for (size_t i = 0; i < m->n_options; i++)
        if (m->options[i]->level == SOL_SOCKET && m->options[i]->name == SO_REUSEADDR)
            return true;
    return false;
}

static int live(const struct rinet *u, struct err *err)
{
    int zero = 0, reuse = has_reuse(u->m->socket);

    setsockopt(u->fd, SOL_SOCKET, SO_DETACH_FILTER, &zero, sizeof(zero));
    if (!u->adopted && u->m->got_fin && receive_end(u, err) < 0)
        return -err->code;
    /* With a packet that asks the peer for an answer: it tells what it has and how much more it takes. */
    if (set_int(u->fd, TCP_REPAIR, TCP_REPAIR_OFF, "TCP_REPAIR", err) < 0)
        return -err->code;
    setsockopt(u->fd, SOL_SOCKET, SO_REUSEADDR, &reuse, sizeof(reuse)); /* which that has cleared */
    if (!u->adopted && send_rest(u, err) < 0)
        return -err->code;
    socket_narrow(u->fd, u->m->socket);
    if ((u->m->socket->shutdown & 1) && !u->m->got_fin)
        shutdown(u->fd, SHUT_RD);
    return socket_filter(u->fd, u->m->socket, err);
}

int tcp_keep_live(struct rsockets *s, struct err *err)
{
    for (size_t i = 0; i < s->n_inets; i++)
        if (s->inets[i]->kept && live(s->inets[i], err) < 0)
            return err_wrap(err, "TCP socket %llu", (unsigned long long)s->inets[i]->m->socket->ino);
    tcp_adopt_end(s);
    return 0;
}
