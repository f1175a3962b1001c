/*
 * The client's transport: whole messages over a connected socket, requests and their answers. How a
 * coordinator is found and started is in client_connect.c, the requests themselves in client_requests.c.
 */
#include "coordinator/client.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/util.h"
#include "coordinator/client_internal.h"

#define RECEIVE_CHUNK 65536

struct coord *coord_alloc(const char *hostname, int port, const char *key_file)
{
    struct coord *c = calloc(1, sizeof(*c));

    if (!c)
        return NULL;
    c->fd = -1;
    c->next_seq = 1;
    c->port = port;
    c->hostname = strdup(hostname);
    c->key_file = strdup(key_file);
    c->where = format("%s:%d", hostname, port);
    if (!c->hostname || !c->key_file || !c->where) {
        coord_close(c);
        return NULL;
    }
    return c;
}

void coord_close(struct coord *c)
{
    if (!c)
        return;
    if (c->fd >= 0)
        close(c->fd);
    for (size_t i = 0; i < c->n_queue; i++)
        coord_msg_free(c->queue[i]);
    free(c->queue);
    wire_free(c->wire);
    free(c->where);
    free(c->hostname);
    free(c->key_file);
    free(c->own_hostname);
    free(c->boot_id);
    free(c);
}

int coord_fd(const struct coord *c)
{
    return c->fd;
}

const char *coord_where(const struct coord *c)
{
    return c->where;
}

int coord_port(const struct coord *c)
{
    return c->port;
}

void coord_msg_free(Wire__Msg *msg)
{
    if (msg)
        wire__msg__free_unpacked(msg, NULL);
}

int64_t coord_deadline(int timeout_ms)
{
    return timeout_ms < 0 ? -1 : monotonic_ms() + timeout_ms;
}

/* All waiting output, blocking. */
static int flush(struct coord *c, struct err *err)
{
    const unsigned char *data;
    size_t len;

    while ((len = wire_output(c->wire, &data)) > 0) {
        ssize_t n = send(c->fd, data, len, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            c->lost = 1;
            if (errno == EPIPE || errno == ECONNRESET)
                return err_set(err, ENODATA, "coordinator at %s: closed the connection", c->where);
            return err_errno(err, "coordinator at %s: send", c->where);
        }
        wire_sent(c->wire, (size_t)n);
    }
    return 0;
}

static int receive(struct coord *c, struct err *err)
{
    unsigned char buf[RECEIVE_CHUNK];
    ssize_t n;

    do
        n = recv(c->fd, buf, sizeof(buf), MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
        return 0;
    if (n < 0 && errno != ECONNRESET) {
        c->lost = 1;
        return err_errno(err, "coordinator at %s: receive", c->where);
    }
    if (n <= 0) {
        c->lost = 1;
        return err_set(err, ENODATA, "coordinator at %s: closed the connection", c->where);
    }
    if (wire_feed(c->wire, buf, (size_t)n, err) < 0)
        return err_wrap(err, "coordinator at %s", c->where);
    return (int)n;
}

static int enqueue(struct coord *c, Wire__Msg *msg, struct err *err)
{
    Wire__Msg **queue = grow(c->queue, c->n_queue, &c->cap_queue, sizeof(*queue));

    if (!queue) {
        coord_msg_free(msg);
        return err_set(err, ENOMEM, "out of memory");
    }
    c->queue = queue;
    queue[c->n_queue++] = msg;
    return 0;
}

static Wire__Msg *dequeue(struct coord *c, size_t i)
{
    Wire__Msg *msg = c->queue[i];

    memmove(c->queue + i, c->queue + i + 1, (c->n_queue - i - 1) * sizeof(*c->queue));
    c->n_queue--;
    return msg;
}

static int parse(struct coord *c, struct err *err)
{
    Wire__Msg *msg = NULL;
    int r;

    while ((r = wire_next(c->wire, &msg, err)) > 0)
        if (enqueue(c, msg, err) < 0)
            return -err->code;
    if (r < 0) {
        c->lost = 1;
        return err_wrap(err, "coordinator at %s", c->where);
    }
    return 0;
}

int coord_pull(struct coord *c, struct err *err)
{
    int n, r = parse(c, err);

    while (r == 0 && (n = receive(c, err)) != 0)
        r = n < 0 ? n : parse(c, err);
    return r;
}

int coord_poll(struct coord *c, int64_t deadline_ms, struct err *err)
{
    struct pollfd p = {c->fd, POLLIN, 0};
    int r;

    do {
        int64_t left = deadline_ms < 0 ? -1 : deadline_ms - monotonic_ms();
        if (deadline_ms >= 0 && left < 0)
            left = 0;
        r = poll(&p, 1, (int)left);
    } while (r < 0 && errno == EINTR);
    if (r < 0)
        return err_errno(err, "poll");
    return r > 0 ? 0 : err_set(err, ETIMEDOUT, "coordinator at %s: no answer in time", c->where);
}

int coord_handshake(struct coord *c, int timeout_ms, struct err *err)
{
    int64_t deadline = coord_deadline(timeout_ms);
    int r = flush(c, err);

    while (r == 0 && !wire_is_open(c->wire)) {
        r = coord_poll(c, deadline, err);
        if (r == 0)
            r = receive(c, err);
        if (r >= 0)
            r = parse(c, err);
    }
    if (r == -ENODATA)
        return err_set(
            err, ENODATA,
            "coordinator at %s: closed the connection at once: not a dmtcp coordinator, or it is ending",
            c->where);
    if (r == -ETIMEDOUT)
        return err_set(err, ETIMEDOUT,
                       "coordinator at %s: no answer to our greeting: not a dmtcp coordinator?", c->where);
    return r < 0 ? r : flush(c, err);
}

int coord_send(struct coord *c, const Wire__Msg *msg, struct err *err)
{
    if (wire_put(c->wire, msg, err) < 0)
        return err_wrap(err, "coordinator at %s", c->where);
    return flush(c, err);
}

int coord_next(struct coord *c, Wire__Msg **msg, struct err *err)
{
    int r = c->lost ? err_set(err, ENODATA, "coordinator at %s: closed the connection", c->where)
                    : coord_pull(c, err);

    if (c->n_queue == 0)
        return r; /* what came before the end is handed out first */
    *msg = dequeue(c, 0);
    return 1;
}

int coord_wait(struct coord *c, Wire__Msg **msg, int timeout_ms, struct err *err)
{
    int64_t deadline = coord_deadline(timeout_ms);
    int r;

    while ((r = coord_next(c, msg, err)) == 0) {
        r = coord_poll(c, deadline, err);
        if (r < 0)
            return r;
    }
    return r < 0 ? r : 0;
}

int coord_abort_pending(struct coord *c)
{
    struct err ignored = {0};

    if (c->lost || coord_pull(c, &ignored) < 0)
        return 1;
    for (size_t i = 0; i < c->n_queue; i++)
        if (c->queue[i]->body_case == WIRE__MSG__BODY_ABORT)
            return 1;
    return 0;
}

int coord_take_error(const Wire__Msg *m, struct err *err)
{
    int code = m->error->code > 0 && m->error->code < 4096 ? m->error->code : EIO;

    return err_set(err, code, "%s", m->error->text[0] ? m->error->text : strerror(code));
}

/* The next answer to seq that is in the queue; others stay. */
static Wire__Msg *take_answer(struct coord *c, uint32_t seq)
{
    for (size_t i = 0; i < c->n_queue; i++)
        if (coord_answers(c->queue[i], seq))
            return dequeue(c, i);
    return NULL;
}

int coord_call(struct coord *c, Wire__Msg *request, Wire__Msg **answer, int timeout_ms, coord_more more,
               void *arg, struct err *err)
{
    int64_t deadline = coord_deadline(timeout_ms);
    int r;

    request->seq = c->next_seq++;
    r = coord_send(c, request, err);
    while (r == 0) {
        Wire__Msg *m = take_answer(c, request->seq);
        if (!m) {
            r = c->lost ? err_set(err, ENODATA, "coordinator at %s: closed the connection", c->where)
                        : coord_poll(c, deadline, err);
            if (r == 0 && (r = coord_pull(c, err)) == -ENODATA && c->n_queue > 0)
                r = 0; /* the answer may be in what came last */
            continue;
        }
        if (m->body_case == WIRE__MSG__BODY_TEXT || m->body_case == WIRE__MSG__BODY_PROGRESS) {
            if (more)
                more(arg, m);
            coord_msg_free(m);
            continue;
        }
        if (m->body_case == WIRE__MSG__BODY_ERROR)
            r = coord_take_error(m, err);
        if (r == 0 && answer) {
            *answer = m;
            return 0;
        }
        coord_msg_free(m);
        return r;
    }
    return r;
}

int coord_reply(struct coord *c, const Wire__Msg *request, Wire__Msg *answer, struct err *err)
{
    if (!request->seq)
        return 0;
    answer->re = request->seq;
    return coord_send(c, answer, err);
}

int coord_reply_ok(struct coord *c, const Wire__Msg *request, struct err *err)
{
    Wire__Msg m = WIRE__MSG__INIT;
    Wire__Ok ok = WIRE__OK__INIT;

    m.body_case = WIRE__MSG__BODY_OK;
    m.ok = &ok;
    return coord_reply(c, request, &m, err);
}

int coord_reply_error(struct coord *c, const Wire__Msg *request, const struct err *why, struct err *err)
{
    Wire__Msg m = WIRE__MSG__INIT;
    Wire__Error e = WIRE__ERROR__INIT;

    e.code = why->code;
    e.text = (char *)why->msg;
    m.body_case = WIRE__MSG__BODY_ERROR;
    m.error = &e;
    return coord_reply(c, request, &m, err);
}
