/*
 * Connections of the coordinator: bytes to messages and back without ever blocking, and the book of who still
 * owes an answer. A peer that misbehaves costs one line in the log and is gone. Closing has consequences
 * elsewhere (a checkpoint fails), so it happens only where nobody is in the middle of a loop over peers: in
 * peer_event() and at the end of a round.
 */
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/log.h"
#include "base/util.h"
#include "coordinator/server.h"

#define HANDSHAKE_MS  60000 /* longer than a client waits for us; NEW_MAX bounds how many can be held open */
#define NEW_MAX       64    /* connections in the handshake */
#define OUTPUT_MAX    ((size_t)64 << 20) /* waiting for a peer that does not read */
#define RECEIVE_CHUNK 65536
#define CHUNKS_MAX    16 /* at a time, then others have a turn */

static void name_peer(struct peer *p, const struct sockaddr_storage *address, socklen_t len)
{
    char host[60] = "?", port[10] = "?";

    getnameinfo((const struct sockaddr *)address, len, host, sizeof(host), port, sizeof(port),
                NI_NUMERICHOST | NI_NUMERICSERV);
    snprintf(p->from, sizeof(p->from), "%s:%s", host, port);
}

static void drop_oldest_new(struct server *s)
{
    struct peer *oldest = NULL;

    for (struct peer *p = s->peers; p; p = p->next)
        if (p->role == ROLE_NEW && !p->dead)
            oldest = p; /* new ones are put in front */
    if (oldest)
        peer_close(s, oldest, "too many unfinished handshakes");
}

static struct peer *peer_new(struct server *s, int fd)
{
    struct peer *p = calloc(1, sizeof(*p));
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = p};

    if (!p)
        return NULL;
    p->wire = wire_new(WIRE_COORDINATOR, s->key);
    if (!p->wire || epoll_ctl(s->epoll_fd, EPOLL_CTL_ADD, fd, &e) < 0) {
        wire_free(p->wire);
        free(p);
        return NULL;
    }
    p->fd = fd;
    p->id = s->next_peer_id++;
    p->role = ROLE_NEW;
    p->next_seq = 1;
    p->deadline = monotonic_ms() + HANDSHAKE_MS;
    p->next = s->peers;
    s->peers = p;
    s->n_new++;
    return p;
}

/* Out of fds: accept and close at once, or the backlog would wake us for ever. */
static void turn_away(struct server *s)
{
    int fd;

    if (s->spare_fd < 0)
        return;
    close(s->spare_fd);
    fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC);
    if (fd >= 0)
        close(fd);
    s->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    log_warn("a connection was turned away: too many open files");
}

void peer_accept(struct server *s)
{
    struct sockaddr_storage address;
    socklen_t len = sizeof(address);
    int fd = accept4(s->listen_fd, (struct sockaddr *)&address, &len, SOCK_CLOEXEC | SOCK_NONBLOCK), one = 1;
    struct peer *p;

    if (fd < 0) {
        if (errno == EMFILE || errno == ENFILE)
            turn_away(s);
        return;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one)); /* a host that died without a word */
    if (s->n_new >= NEW_MAX)
        drop_oldest_new(s);
    p = peer_new(s, fd);
    if (!p)
        close(fd);
    else
        name_peer(p, &address, len);
}

struct peer *peer_by_id(struct server *s, uint64_t id)
{
    for (struct peer *p = s->peers; p; p = p->next)
        if (p->id == id && !p->dead)
            return p;
    return NULL;
}

size_t peers_count(const struct server *s, unsigned roles)
{
    size_t n = 0;

    for (const struct peer *p = s->peers; p; p = p->next)
        n += !p->dead && (p->role & roles) != 0;
    return n;
}

static void want_write(struct server *s, struct peer *p, int want)
{
    struct epoll_event e = {.events = want ? EPOLLIN | EPOLLOUT : EPOLLIN, .data.ptr = p};

    if (p->want_write == want)
        return;
    p->want_write = want;
    if (epoll_ctl(s->epoll_fd, EPOLL_CTL_MOD, p->fd, &e) < 0)
        p->broken = 1;
}

void peer_flush(struct server *s, struct peer *p)
{
    const unsigned char *data;
    size_t len = 0;

    while (!p->dead && !p->broken && (len = wire_output(p->wire, &data)) > 0) {
        ssize_t n = send(p->fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK)
            p->broken = 1;
        if (n <= 0)
            break;
        wire_sent(p->wire, (size_t)n);
    }
    if (p->dead || p->broken)
        return;
    if (len > OUTPUT_MAX) {
        log_warn("connection from %s: does not read what it is sent", p->from);
        p->broken = 1;
        return;
    }
    want_write(s, p, len > 0);
}

void peer_send(struct server *s, struct peer *p, const Wire__Msg *msg)
{
    struct err err = {0};

    if (p->dead || p->broken)
        return;
    if (wire_put(p->wire, msg, &err) < 0) {
        log_warn("connection from %s: %s", p->from, err.msg);
        p->broken = 1;
        return;
    }
    peer_flush(s, p);
}

void peer_request(struct server *s, struct peer *p, Wire__Msg *msg, answer_fn fn, void *arg)
{
    struct pending *pending = grow(p->pending, p->n_pending, &p->cap_pending, sizeof(*pending));

    msg->seq = p->next_seq++;
    if (pending) {
        p->pending = pending;
        pending[p->n_pending++] = (struct pending){msg->seq, fn, arg};
        peer_send(s, p, msg); /* if it fails the answer comes, from peer_close() */
        return;
    }
    log_error("out of memory");
    p->broken = 1;
    fn(s, p, NULL, arg);
}

static void cancel_pending(struct server *s, struct peer *p)
{
    while (p->n_pending > 0) {
        struct pending last = p->pending[--p->n_pending];
        last.fn(s, p, NULL, last.arg);
    }
}

void peer_close(struct server *s, struct peer *p, const char *why)
{
    if (p->dead)
        return;
    if (why)
        log_warn("connection from %s: %s", p->from, why);
    if (p->role == ROLE_NEW)
        s->n_new--;
    p->dead = 1;
    close(p->fd);
    cancel_pending(s, p);
    member_gone(s, p);
}

static void peer_free(struct peer *p)
{
    wire_free(p->wire);
    if (p->hello)
        wire__msg__free_unpacked(p->hello, NULL);
    free(p->pending);
    free(p);
}

static int close_broken(struct server *s)
{
    for (struct peer *p = s->peers; p; p = p->next)
        if (p->broken && !p->dead) {
            peer_close(s, p, NULL);
            return 1;
        }
    return 0;
}

void peers_reap(struct server *s)
{
    while (close_broken(s))
        ;
    for (struct peer **link = &s->peers; *link;) {
        struct peer *p = *link;
        if (!p->dead) {
            link = &p->next;
            continue;
        }
        *link = p->next;
        peer_free(p);
    }
}

/* An answer to one of our requests. Returns 1 when it was taken over. */
static int got_answer(struct server *s, struct peer *p, Wire__Msg *msg)
{
    int more = msg->body_case == WIRE__MSG__BODY_TEXT || msg->body_case == WIRE__MSG__BODY_PROGRESS;

    for (size_t i = 0; i < p->n_pending; i++) {
        struct pending found = p->pending[i];
        if (found.seq != msg->re)
            continue;
        if (!more) {
            p->n_pending--;
            memmove(p->pending + i, p->pending + i + 1, (p->n_pending - i) * sizeof(*p->pending));
        }
        return found.fn(s, p, msg, found.arg);
    }
    return 0;
}

static void handshake_over(struct server *s, struct peer *p)
{
    if (p->role != ROLE_NEW)
        return;
    p->role = ROLE_KNOWN;
    p->deadline = 0;
    s->n_new--;
}

static int parse(struct server *s, struct peer *p)
{
    struct err err = {0};
    Wire__Msg *msg = NULL;
    int r;

    while (!p->dead && (r = wire_next(p->wire, &msg, &err)) != 0) {
        if (r < 0) {
            peer_close(s, p, err.msg);
            return r;
        }
        handshake_over(s, p);
        if (!msg->re)
            dispatch(s, p, msg);
        else if (!got_answer(s, p, msg))
            wire__msg__free_unpacked(msg, NULL);
    }
    if (!p->dead && wire_is_open(p->wire))
        handshake_over(s, p); /* a restart says nothing more until all is rebuilt: it may take its time */
    return p->dead ? -ENODATA : 0;
}

static void peer_read(struct server *s, struct peer *p)
{
    unsigned char buf[RECEIVE_CHUNK];
    struct err err = {0};

    for (int i = 0; i < CHUNKS_MAX && !p->dead; i++) {
        ssize_t n = recv(p->fd, buf, sizeof(buf), MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            break;
        if (n <= 0) {
            peer_close(s, p, NULL);
        } else if (wire_feed(p->wire, buf, (size_t)n, &err) < 0) {
            peer_close(s, p, err.msg);
        } else if (parse(s, p) == 0) {
            peer_flush(s, p); /* the handshake's answers */
        }
        if (n < (ssize_t)sizeof(buf))
            break;
    }
}

void peer_event(struct server *s, struct peer *p, uint32_t events)
{
    if (p->dead)
        return;
    if (events & EPOLLOUT)
        peer_flush(s, p);
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
        peer_read(s, p);
}

void answer(struct server *s, const struct ask *ask, Wire__Msg *msg)
{
    struct peer *p;

    if (!ask->seq)
        return;
    msg->seq = 0;
    msg->re = ask->seq;
    if (ask->peer == CONSOLE_ID)
        console_answer(s, msg);
    else if ((p = peer_by_id(s, ask->peer)))
        peer_send(s, p, msg);
}

void answer_ok(struct server *s, const struct ask *ask)
{
    Wire__Msg msg = WIRE__MSG__INIT;
    Wire__Ok ok = WIRE__OK__INIT;

    msg.body_case = WIRE__MSG__BODY_OK;
    msg.ok = &ok;
    answer(s, ask, &msg);
}

void answer_error(struct server *s, const struct ask *ask, int code, const char *fmt, ...)
{
    Wire__Msg msg = WIRE__MSG__INIT;
    Wire__Error error = WIRE__ERROR__INIT;
    char text[1000];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    error.code = code;
    error.text = text;
    msg.body_case = WIRE__MSG__BODY_ERROR;
    msg.error = &error;
    answer(s, ask, &msg);
}
