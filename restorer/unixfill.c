/*
 * What waits in unix sockets, sent again from the other end, so that also what the sender is charged for is as it
 * was; then shutdowns, peers that are gone, and the options, which would otherwise change what is sent.
 *
 * Datagrams keep the name of their sender: they are sent by that very socket when it still exists, else by
 * one that is made for it. A socket that is connected takes datagrams from its peer only; those that it had
 * before from others are sent before it is connected.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/util.h"
#include "restorer/peercred.h"
#include "restorer/unix.h"

/* ---- one message ---- */

struct letter {
    struct restore *r;
    const UnixMessage *u;
    int from;
    const struct sockaddr_un *to; /* NULL: the connected peer */
    socklen_t to_len;
};

static int attach(const struct letter *l, struct msghdr *h, pid_t pid, struct err *err)
{
    struct cmsghdr *c = h->msg_control;
    size_t used = 0;

    if (l->u->n_ofds) {
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(l->u->n_ofds * sizeof(int));
        for (size_t i = 0; i < l->u->n_ofds; i++) {
            struct rofd *d = restore_ofd(l->r, l->u->ofds[i]);
            int fd = d ? restore_ofd_fd(l->r, d, err) : -1;
            if (fd < 0)
                return err_set(err, ENOTSUP, "a descriptor in flight of a kind that can't be sent");
            memcpy(CMSG_DATA(c) + i * sizeof(int), &fd, sizeof(int));
        }
        used = CMSG_SPACE(l->u->n_ofds * sizeof(int));
    }
    if (l->u->cred) {
        struct ucred u = {.pid = pid, .uid = l->u->cred->uid, .gid = l->u->cred->gid};
        c = (struct cmsghdr *)((char *)h->msg_control + used);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_CREDENTIALS;
        c->cmsg_len = CMSG_LEN(sizeof(u));
        memcpy(CMSG_DATA(c), &u, sizeof(u));
        used += CMSG_SPACE(sizeof(u));
    }
    h->msg_controllen = used;
    if (!used)
        h->msg_control = NULL;
    return 0;
}

/* Streams may take less than all; what is left goes without fds, as the kernel itself would split it. */
static int put_message(void *arg, pid_t pid, struct err *err)
{
    const struct letter *l = arg;
    char control[CMSG_SPACE(INJ_MAX_FDS * sizeof(int)) + CMSG_SPACE(sizeof(struct ucred))]
        __attribute__((aligned(8))) = {0};
    struct iovec iov = {l->u->data.data, l->u->data.len};
    struct msghdr h = {.msg_name = (void *)l->to, .msg_namelen = l->to ? l->to_len : 0, .msg_iov = &iov,
                       .msg_iovlen = 1, .msg_control = control};
    bool wide = false;

    if (attach(l, &h, pid, err) < 0)
        return -err->code;
    do {
        ssize_t n = sendmsg(l->from, &h, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && (errno == EAGAIN || errno == ENOBUFS || errno == EMSGSIZE) && !wide) {
            wide = true;
            socket_widen(l->from, SO_SNDBUF);
            continue;
        }
        if (n < 0)
            return errno == EAGAIN ? err_set(err, ENOBUFS, "what waits in it does not fit into a new one")
                                   : err_errno(err, "sending what waits in it");
        iov.iov_base = (char *)iov.iov_base + n;
        iov.iov_len -= (size_t)n;
        if (n) {
            h.msg_control = NULL;
            h.msg_controllen = 0;
        }
    } while (iov.iov_len);
    return 0;
}

static int send_letter(struct letter *l, struct err *err)
{
    if (l->u->cred && l->u->cred->pid > 0)
        return with_pid(l->r, l->u->cred->pid, put_message, l, err);
    return put_message(l, 0, err);
}

/* ---- streams and sequenced packets: from the peer ---- */

static int fill_stream(struct restore *r, struct runix *u, struct err *err)
{
    struct letter l = {.r = r, .from = u->temp >= 0 ? u->temp : u->peer ? u->peer->fd : -1};

    if (u->m->n_queue && l.from < 0)
        return err_set(err, EINVAL, "messages from nobody");
    for (size_t i = 0; i < u->m->n_queue; i++) {
        l.u = u->m->queue[i];
        if (send_letter(&l, err) < 0)
            return -err->code;
    }
    return 0;
}

/* ---- datagrams ---- */

static bool same_name(const ProtobufCBinaryData *a, const ProtobufCBinaryData *b)
{
    return a->len == b->len && !memcmp(a->data, b->data, a->len);
}

static int by_name(const void *x, const void *y)
{
    const ProtobufCBinaryData *a = &(*(struct runix *const *)x)->m->name, *b = &(*(struct runix *const *)y)->m->name;

    if (a->len != b->len)
        return a->len < b->len ? -1 : 1;
    return memcmp(a->data, b->data, a->len);
}

/* Names of datagram sockets, sorted. */
struct directory {
    struct runix **list;
    size_t n;
};

static struct runix *look_up(const struct directory *d, const ProtobufCBinaryData *name)
{
    Unix m = UNIX__INIT;
    struct runix key = {.m = &m}, *k = &key, **found;

    m.name = *name;
    found = d->n ? bsearch(&k, d->list, d->n, sizeof(*d->list), by_name) : NULL;
    return found ? *found : NULL;
}

/* Who sends a message to u: a socket of the images, or -1 and a temporary one in *temp. */
static int sender_of(struct restore *r, const struct directory *d, const struct runix *u, const UnixMessage *msg,
                     int *temp, struct err *err)
{
    struct runix *s = msg->sender.len ? look_up(d, &msg->sender) : NULL;
    struct bind_job job = {.name = &msg->sender};

    if (s)
        return s->fd;
    if (!msg->sender.len && u->peer && !u->peer->m->name.len)
        return u->peer->fd;
    if (u->temp >= 0 && same_name(&msg->sender, &u->m->peer_name))
        return u->temp;
    *temp = job.fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (job.fd < 0)
        return err_errno(err, "a socket");
    if (msg->sender.len && unix_bind(r, &job, 1, err) < 0)
        return -err->code;
    if (msg->sender.len && job.node >= 0)
        close(job.node);
    return job.fd;
}

/* The address of a socket of the images, in the driver. False: it has none. */
static bool address_of(const struct runix *u, struct sockaddr_un *a, socklen_t *len)
{
    *a = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (!u->m->name.len)
        return false;
    *len = unix_address(&u->m->name, a);
    if (u->node >= 0) {
        *a = (struct sockaddr_un){.sun_family = AF_UNIX};
        *len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 +
                           (size_t)snprintf(a->sun_path, sizeof(a->sun_path), "/proc/self/fd/%d", u->node));
    }
    return true;
}

/* A peer that is gone, or that was outside and is not there: sending says ECONNREFUSED, as it would have. */
static int connect_to_nobody(struct restore *r, struct runix *u, struct err *err)
{
    _cleanup_close_ int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    struct bind_job job = {.fd = fd, .name = &u->m->peer_name};
    struct runix gone = {.m = u->m};
    struct sockaddr_un a;
    socklen_t len = 0;
    int ret;

    if (fd < 0)
        return err_errno(err, "a socket");
    if (!u->m->peer_name.len)
        return err_set(err, EINVAL, "connected to a name that is none");
    if (unix_bind(r, &job, 1, err) < 0)
        return -err->code;
    Unix m = UNIX__INIT;
    m.name = u->m->peer_name;
    gone.m = &m;
    gone.node = job.node;
    address_of(&gone, &a, &len);
    ret = connect(u->fd, (void *)&a, len) < 0 ? err_errno(err, "connect") : 0;
    if (job.node >= 0)
        close(job.node);
    return ret;
}

static int connect_outside(struct restore *r, struct runix *u, struct err *err)
{
    struct sockaddr_un a;
    socklen_t len = unix_address(&u->m->peer_name, &a);

    if (!u->m->peer_name.len)
        return err_set(err, EINVAL, "connected to a name that is none");
    if (connect(u->fd, (void *)&a, len) == 0)
        return 0;
    log_warn("nobody is at the unix socket \"%s%.*s\", to which datagrams went: %s", a.sun_path[0] ? "" : "@",
             (int)u->m->peer_name.len, a.sun_path + !a.sun_path[0], strerror(errno));
    return connect_to_nobody(r, u, err);
}

static int connect_dgram(struct restore *r, struct runix *u, struct err *err)
{
    struct sockaddr_un a;
    socklen_t len;

    if (u->joined || u->m->state != UNIX_CONNECTED)
        return 0;
    u->joined = true;
    if (u->m->peer_state == PEER_OUTSIDE)
        return connect_outside(r, u, err);
    if (!u->peer)
        return connect_to_nobody(r, u, err);
    if (!address_of(u->peer, &a, &len))
        return err_set(err, EINVAL, "connected to a socket without a name");
    return connect(u->fd, (void *)&a, len) < 0 ? err_errno(err, "connect") : 0;
}

static bool from_peer(const struct runix *u, const UnixMessage *msg)
{
    return u->peer && same_name(&msg->sender, &u->peer->m->name);
}

static int fill_dgram(struct restore *r, const struct directory *d, struct runix *u, struct err *err)
{
    size_t foreign = u->m->n_queue; /* messages up to the last that is not from the peer */
    struct sockaddr_un a;
    struct letter l = {.r = r, .to = &a};

    while (foreign && from_peer(u, u->m->queue[foreign - 1]))
        foreign--;
    if (!address_of(u, &a, &l.to_len))
        l.to = NULL;
    for (size_t i = 0; i < u->m->n_queue; i++) {
        _cleanup_close_ int temp = -1;
        l.u = u->m->queue[i];
        if (i == foreign && connect_dgram(r, u, err) < 0)
            return -err->code;
        l.from = sender_of(r, d, u, l.u, &temp, err);
        if (l.from < 0 || send_letter(&l, err) < 0)
            return -err->code;
    }
    return connect_dgram(r, u, err);
}

/* Connected to u, and not the other way round too. */
static bool follows(const struct runix *w, const struct runix *u)
{
    return !w->joined && w->peer == u && w != u && u->peer != w;
}

/*
 * One can connect only to a socket that is not connected itself, or to oneself. So those to whom others are
 * connected come after those.
 */
static int fill_in_order(struct restore *r, const struct directory *d, struct rsockets *s, struct err *err)
{
    _cleanup_free_ struct runix **queue = calloc(s->n_unixes + 1, sizeof(*queue));
    size_t n = 0;

    if (!queue)
        return err_set(err, ENOMEM, "out of memory");
    for (size_t i = 0; i < s->n_unixes; i++)
        if (s->unixes[i]->peer && follows(s->unixes[i], s->unixes[i]->peer))
            s->unixes[i]->peer->followers++;
    for (size_t i = 0; i < s->n_unixes; i++)
        if (s->unixes[i]->m->socket->type == SOCK_DGRAM && !s->unixes[i]->followers)
            queue[n++] = s->unixes[i];
    for (size_t i = 0; i < n; i++) {
        struct runix *u = queue[i];
        bool follower = u->peer && follows(u, u->peer);
        if (fill_dgram(r, d, u, err) < 0)
            return err_wrap(err, "unix socket %llu", (unsigned long long)u->m->socket->ino);
        if (follower && --u->peer->followers == 0)
            queue[n++] = u->peer;
    }
    return 0;
}

static int fill_dgrams(struct restore *r, struct rsockets *s, struct err *err)
{
    _cleanup_free_ struct runix **list = calloc(s->n_unixes + 1, sizeof(*list));
    struct directory d = {.list = list};

    if (!list)
        return err_set(err, ENOMEM, "out of memory");
    for (size_t i = 0; i < s->n_unixes; i++)
        if (s->unixes[i]->m->socket->type == SOCK_DGRAM && s->unixes[i]->m->name.len)
            list[d.n++] = s->unixes[i];
    qsort(list, d.n, sizeof(*list), by_name);
    return fill_in_order(r, &d, s, err);
}

/* ---- the end ---- */

/* A peer that went away without having read everything leaves ECONNRESET behind. */
static int part(struct runix *u, struct err *err)
{
    if (u->temp < 0)
        return 0;
    if (u->m->reset && send(u->fd, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
        return err_errno(err, "leaving something unread");
    close(u->temp);
    u->temp = -1;
    return 0;
}

static int finish(struct runix *u, struct err *err)
{
    static const int how[] = {-1, SHUT_RD, SHUT_WR, SHUT_RDWR};
    int wanted = how[u->m->socket->shutdown];

    if (part(u, err) < 0)
        return -err->code;
    if (wanted >= 0 && u->m->state == UNIX_CONNECTED && shutdown(u->fd, wanted) < 0)
        return err_errno(err, "shutdown");
    if (u->node >= 0)
        close(u->node);
    u->node = -1;
    return socket_late(u->fd, u->m->socket, err);
}

int unix_fill(struct restore *r, struct rsockets *s, struct err *err)
{
    for (size_t i = 0; i < s->n_unixes; i++)
        if (s->unixes[i]->m->socket->type != SOCK_DGRAM && fill_stream(r, s->unixes[i], err) < 0)
            return err_wrap(err, "unix socket %llu", (unsigned long long)s->unixes[i]->m->socket->ino);
    if (fill_dgrams(r, s, err) < 0)
        return -err->code;
    for (size_t i = 0; i < s->n_unixes; i++)
        if (finish(s->unixes[i], err) < 0)
            return err_wrap(err, "unix socket %llu", (unsigned long long)s->unixes[i]->m->socket->ino);
    return 0;
}
