/*
 * Netlink sockets. Messages of the kernel that wait can't be saved: nobody but the kernel can say something in its name.
 * Programs read them at once, so the checkpoint is tried again soon. One message of a program to another is saved: its
 * sender's socket, or another with its address, can say it again.
 */
#include <errno.h>
#include <linux/netlink.h>
#include <poll.h>
#include <string.h>

#include "base/util.h"
#include "image/netlink.pb-c.h"
#include "tracer/single.h"
#include "tracer/socket.h"

#define MAX_GROUPS 4096u

extern const struct kind_ops netlink_ops;

static bool netlink_probe(const struct fd_info *fi)
{
    return socket_is(fi, AF_NETLINK);
}

/* A bit for each group, in words of 32. */
static int collect_groups(struct ckpt *c, int fd, Netlink *m, struct err *err)
{
    uint32_t bits[MAX_GROUPS / 32] = {0};
    socklen_t n = sizeof(bits);
    size_t count = 0;

    if (getsockopt(fd, SOL_NETLINK, NETLINK_LIST_MEMBERSHIPS, bits, &n) < 0)
        return err_errno(err, "NETLINK_LIST_MEMBERSHIPS");
    if (n > sizeof(bits))
        return err_set(err, ENOTSUP, "a netlink socket with more than %u groups", MAX_GROUPS);
    for (size_t i = 0; i < ARRAY_SIZE(bits); i++)
        count += (size_t)__builtin_popcount(bits[i]);
    m->groups = arena_alloc(c->arena, (count + 1) * sizeof(*m->groups));
    if (!m->groups)
        return err_set(err, ENOMEM, "out of memory");
    for (uint32_t g = 0; g < MAX_GROUPS; g++)
        if (bits[g / 32] & 1u << g % 32)
            m->groups[m->n_groups++] = g + 1;
    return 0;
}

/* What programs say to each other, with nobody else in between. */
static bool is_private(const Netlink *m)
{
    return m->socket->protocol == NETLINK_USERSOCK;
}

static int check_idle(int fd, const Netlink *m, struct err *err)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};

    if (poll(&p, 1, 0) < 0)
        return err_errno(err, "poll");
    if (p.revents & POLLERR)
        return err_set(err, EAGAIN, "a netlink socket with an error that was not read yet, which can't be saved");
    if ((p.revents & POLLIN) && !is_private(m))
        return err_set(err, EAGAIN, "messages of the kernel wait in a netlink socket, which can't be saved before they are "
                       "read: nobody else can say them");
    return 0;
}

static int netlink_collect(struct ckpt *c, const struct fd_info *fi, struct object *o, struct err *err)
{
    _cleanup_close_ int fd = ckpt_get_fd(fi->proc, fi->fd, err);
    struct sockaddr_nl a = {0}, b = {0};
    socklen_t n = sizeof(a), k = sizeof(b);
    Netlink *m = arena_alloc(c->arena, sizeof(*m));

    if (fd < 0)
        return -err->code;
    o->priv = arena_dup(c->arena, fi, sizeof(*fi));
    if (!m || !o->priv)
        return err_set(err, ENOMEM, "out of memory");
    netlink__init(m);
    m->id = o->id;
    o->msg = &m->base;
    if (socket_collect(c, fd, &fi->st, &m->socket, err) < 0 || check_idle(fd, m, err) < 0)
        return -err->code;
    if (getsockname(fd, (void *)&a, &n) < 0 || getpeername(fd, (void *)&b, &k) < 0)
        return err_errno(err, "its addresses");
    m->port = a.nl_pid;
    m->peer_port = b.nl_pid;
    m->peer_groups = b.nl_groups;
    return collect_groups(c, fd, m, err);
}

/* ---- what waits ---- */

struct queue {
    struct ckpt *c;
    Netlink *m;
};

/* Can somebody of the images, or a socket that is made for it, have this address at the restart? */
static bool is_ours_or_free(struct ckpt *c, const Netlink *m, uint32_t port)
{
    struct sockaddr_nl a = {.nl_family = AF_NETLINK, .nl_pid = port};
    _cleanup_close_ int fd = -1;

    for (const struct object *o = c->objects; o; o = o->next)
        if (o->ops == &netlink_ops && o->msg) {
            const Netlink *k = (const Netlink *)o->msg;
            if (k->port == port && k->socket->protocol == m->socket->protocol)
                return true;
        }
    fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, (int)m->socket->protocol);
    return fd >= 0 && bind(fd, (void *)&a, sizeof(a)) == 0;
}

/* The kernel tells the group of a message only if it is one of the first 32. */
static bool may_be_for_group(const Netlink *m, uint32_t groups)
{
    return groups || (m->n_groups && m->groups[m->n_groups - 1] > 32);
}

static int take(void *arg, struct peeked *p, struct err *err)
{
    struct queue *q = arg;
    const struct sockaddr_nl *from = (const void *)&p->from;
    NetlinkMessage *k = arena_alloc(q->c->arena, sizeof(*k));

    if (!k)
        return err_set(err, ENOMEM, "out of memory");
    netlink_message__init(k);
    k->data = arena_bytes(q->c->arena, p->data, p->len);
    k->port = from->nl_pid;
    if (k->data.len != p->len)
        return err_set(err, ENOMEM, "out of memory");
    if (may_be_for_group(q->m, from->nl_groups))
        return err_set(err, EAGAIN, "a message to a group waits in a netlink socket, which can't be saved before it is read: "
                       "others would hear it again");
    if (!is_ours_or_free(q->c, q->m, k->port))
        return err_set(err, EAGAIN, "a message of another program (%u) waits in a netlink socket, which can't be saved before "
                       "it is read", k->port);
    arena_push(q->c->arena, (void ***)&q->m->queue, &q->m->n_queue, k);
    return 0;
}

static int peek(struct ckpt *c, const struct fd_info *fi, Netlink *m, struct err *err)
{
    _cleanup_close_ int fd = ckpt_get_fd(fi->proc, fi->fd, err);
    struct queue q = {c, m};

    if (fd < 0 || peek_single(fd, "messages", take, &q, err) < 0)
        return -err->code;
    if (m->n_queue && sockopt_int(fd, SOL_SOCKET, SO_PASSCRED, 0))
        return err_set(err, EAGAIN, "a message with its sender's credentials waits in a netlink socket, which can't be saved "
                       "before it is read");
    return 0;
}

static int netlink_peek(struct ckpt *c, struct object *o, struct err *err)
{
    Netlink *m = (Netlink *)o->msg;

    return is_private(m) && peek(c, o->priv, m, err) < 0 ? ckpt_fd_err(o->priv, err) : 0;
}

const struct kind_ops netlink_ops = {
    .kind = KIND_NETLINK,
    .probe = netlink_probe,
    .collect = netlink_collect,
    .peek_receive = netlink_peek,
};
