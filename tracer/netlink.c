/*
 * Netlink sockets. Messages that wait can't be saved: only the first can be looked at, and nobody but the kernel can
 * say something in the kernel's name. Programs read them at once, so the checkpoint is tried again soon.
 */
#include <errno.h>
#include <linux/netlink.h>
#include <poll.h>
#include <string.h>

#include "base/util.h"
#include "image/netlink.pb-c.h"
#include "tracer/socket.h"

#define MAX_GROUPS 4096u

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

static int check_idle(int fd, struct err *err)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};

    if (poll(&p, 1, 0) < 0)
        return err_errno(err, "poll");
    if (p.revents & POLLERR)
        return err_set(err, EAGAIN, "a netlink socket with an error that was not read yet, which can't be saved");
    if (p.revents & POLLIN)
        return err_set(err, EAGAIN, "messages wait in a netlink socket, which can't be saved before they are read");
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
    if (!m)
        return err_set(err, ENOMEM, "out of memory");
    netlink__init(m);
    m->id = o->id;
    o->msg = &m->base;
    if (socket_collect(c, fd, &fi->st, &m->socket, err) < 0 || check_idle(fd, err) < 0)
        return -err->code;
    if (getsockname(fd, (void *)&a, &n) < 0 || getpeername(fd, (void *)&b, &k) < 0)
        return err_errno(err, "its addresses");
    m->port = a.nl_pid;
    m->peer_port = b.nl_pid;
    m->peer_groups = b.nl_groups;
    return collect_groups(c, fd, m, err);
}

const struct kind_ops netlink_ops = {
    .kind = KIND_NETLINK,
    .probe = netlink_probe,
    .collect = netlink_collect,
};
