/*
 * Netlink sockets: with their own address again, which programs compare with what comes, and their groups; a message of
 * another program that waits is said again by the sender's socket, or by one that has its address for the moment.
 */
#include <errno.h>
#include <linux/netlink.h>

#include "base/util.h"
#include "image/netlink.pb-c.h"
#include "restorer/socket.h"

extern const struct rebuild_ops netlink_ops;

static const Netlink *netlink_of(const struct robject *o)
{
    return (const Netlink *)o->msg;
}

static int netlink_prepare(struct restore *r, struct robject *o, struct err *err)
{
    (void)r;
    return socket_check(netlink_of(o)->socket, AF_NETLINK, err);
}

static int connect_again(int fd, const Netlink *m, struct err *err)
{
    struct sockaddr_nl b = {.nl_family = AF_NETLINK, .nl_pid = m->peer_port, .nl_groups = m->peer_groups};

    if ((m->peer_port || m->peer_groups) && connect(fd, (void *)&b, sizeof(b)) < 0)
        return err_errno(err, "connecting to %u", m->peer_port);
    return 0;
}

static int name(int fd, const Netlink *m, struct err *err)
{
    struct sockaddr_nl a = {.nl_family = AF_NETLINK, .nl_pid = m->port};

    if (m->port && bind(fd, (void *)&a, sizeof(a)) < 0)
        return errno == EADDRINUSE ? err_set(err, EADDRINUSE, "another netlink socket has the address %u now", m->port)
                                   : err_errno(err, "its address %u", m->port);
    for (size_t i = 0; i < m->n_groups; i++)
        if (setsockopt(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &m->groups[i], sizeof(m->groups[i])) < 0)
            return err_errno(err, "group %u of netlink protocol %u", m->groups[i], m->socket->protocol);
    return connect_again(fd, m, err);
}

static int netlink_open(struct restore *r, struct robject *o, struct rofd *d, int *fd, struct err *err)
{
    const Netlink *m = netlink_of(o);

    (void)r;
    (void)d;
    if (o->fd >= 0)
        return err_set(err, EINVAL, "a socket that is open twice");
    *fd = socket_make(m->socket, err);
    if (*fd < 0)
        return -err->code;
    if (socket_options(*fd, m->socket, err) == 0 && (m->n_queue || socket_filter(*fd, m->socket, err) == 0) &&
        name(*fd, m, err) == 0) {
        o->fd = *fd;
        return 0;
    }
    close(*fd);
    *fd = -1;
    return err_wrap(err, "netlink socket %llu", (unsigned long long)m->socket->ino);
}

/* The socket of the images that has this address; -1: none. */
static int find_sender(const struct restore *r, const Netlink *m, uint32_t port)
{
    for (const struct robject *o = r->objects; o; o = o->next)
        if (o->ops == &netlink_ops && netlink_of(o)->port == port &&
            netlink_of(o)->socket->protocol == m->socket->protocol)
            return o->fd;
    return -1;
}

static int say_again(const struct restore *r, const Netlink *m, const NetlinkMessage *k, struct err *err)
{
    struct sockaddr_nl from = {.nl_family = AF_NETLINK, .nl_pid = k->port}, to = {.nl_family = AF_NETLINK, .nl_pid = m->port};
    _cleanup_close_ int temp = -1;
    int fd = find_sender(r, m, k->port);

    if (fd < 0) {
        fd = temp = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, (int)m->socket->protocol);
        if (fd < 0 || bind(fd, (void *)&from, sizeof(from)) < 0)
            return err_errno(err, "a message of %u that waits: its address", k->port);
    }
    if (sendto(fd, k->data.data, k->data.len, MSG_DONTWAIT, (void *)&to, sizeof(to)) < 0)
        return err_errno(err, "a message of %u that waits", k->port);
    return 0;
}

/* Who is connected hears its peer only. */
static int netlink_refill(struct restore *r, struct robject *o, struct err *err)
{
    const Netlink *m = netlink_of(o);
    struct sockaddr none = {.sa_family = AF_UNSPEC};

    if (!m->n_queue)
        return 0;
    connect(o->fd, &none, sizeof(none));
    for (size_t i = 0; i < m->n_queue; i++)
        if (say_again(r, m, m->queue[i], err) < 0)
            return err_wrap(err, "netlink socket %llu", (unsigned long long)m->socket->ino);
    return connect_again(o->fd, m, err) < 0 ? -err->code : socket_filter(o->fd, m->socket, err);
}

const struct rebuild_ops netlink_ops = {
    .kind = KIND_NETLINK,
    .descriptor = &netlink__descriptor,
    .prepare = netlink_prepare,
    .open = netlink_open,
    .refill = netlink_refill,
};
