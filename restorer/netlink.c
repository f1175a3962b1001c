/* Netlink sockets: with their own address again, which programs compare with what comes, and their groups. */
#include <errno.h>
#include <linux/netlink.h>

#include "base/util.h"
#include "image/netlink.pb-c.h"
#include "restorer/socket.h"

static const Netlink *netlink_of(const struct robject *o)
{
    return (const Netlink *)o->msg;
}

static int netlink_prepare(struct restore *r, struct robject *o, struct err *err)
{
    (void)r;
    return socket_check(netlink_of(o)->socket, AF_NETLINK, err);
}

static int name(int fd, const Netlink *m, struct err *err)
{
    struct sockaddr_nl a = {.nl_family = AF_NETLINK, .nl_pid = m->port};
    struct sockaddr_nl b = {.nl_family = AF_NETLINK, .nl_pid = m->peer_port, .nl_groups = m->peer_groups};

    if (m->port && bind(fd, (void *)&a, sizeof(a)) < 0)
        return errno == EADDRINUSE ? err_set(err, EADDRINUSE, "another netlink socket has the address %u now", m->port)
                                   : err_errno(err, "its address %u", m->port);
    for (size_t i = 0; i < m->n_groups; i++)
        if (setsockopt(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &m->groups[i], sizeof(m->groups[i])) < 0)
            return err_errno(err, "group %u of netlink protocol %u", m->groups[i], m->socket->protocol);
    if ((m->peer_port || m->peer_groups) && connect(fd, (void *)&b, sizeof(b)) < 0)
        return err_errno(err, "connecting to %u", m->peer_port);
    return 0;
}

static int netlink_open(struct restore *r, struct robject *o, struct rofd *d, int *fd, struct err *err)
{
    const Netlink *m = netlink_of(o);

    (void)r;
    (void)d;
    *fd = socket_make(m->socket, err);
    if (*fd < 0)
        return -err->code;
    if (socket_late(*fd, m->socket, err) == 0 && name(*fd, m, err) == 0)
        return 0;
    close(*fd);
    *fd = -1;
    return err_wrap(err, "netlink socket %llu", (unsigned long long)m->socket->ino);
}

const struct rebuild_ops netlink_ops = {
    .kind = KIND_NETLINK,
    .descriptor = &netlink__descriptor,
    .prepare = netlink_prepare,
    .open = netlink_open,
};
