/*
 * Sockets of every family: making them, and their options. An image may name any option; the kernel checks
 * what the restarting user may set.
 */
#include "restorer/socket.h"

#include <errno.h>
#include <limits.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/stat.h>

#include "base/sockbuf.h"
#include "base/util.h"

#define LOCK_SNDBUF 1 /* linux/socket.h: SOCK_SNDBUF_LOCK, SOCK_RCVBUF_LOCK */
#define LOCK_RCVBUF 2

#define MAX_OPTIONS 256u
#define MAX_VALUE   256u

struct rsockets *rsockets_of(struct restore *r, struct err *err)
{
    if (!r->sockets)
        r->sockets = restore_alloc(r, sizeof(struct rsockets));
    if (!r->sockets)
        err_set(err, ENOMEM, "out of memory");
    else
        r->sockets->r = r;
    return r->sockets;
}

int socket_check(const Socket *m, uint32_t family, struct err *err)
{
    if (!m || m->family != family || m->type > 10 || m->n_options > MAX_OPTIONS || m->shutdown > 3 ||
        m->filter.len % sizeof(struct sock_filter) || m->filter.len / sizeof(struct sock_filter) > USHRT_MAX)
        return err_set(err, EINVAL, "the record of a socket makes no sense");
    for (size_t i = 0; i < m->n_options; i++)
        if (m->options[i]->value.len > MAX_VALUE)
            return err_set(err, EINVAL, "the record of a socket makes no sense");
    return 0;
}

/* What bind(2) and connect(2) look at. IPV6_V6ONLY can't be changed afterwards at all. */
static bool is_early(const SockOpt *o)
{
    static const struct {
        int level, name;
    } early[] = {
        {SOL_SOCKET, SO_REUSEADDR}, {SOL_SOCKET, SO_REUSEPORT}, {SOL_SOCKET, SO_BINDTODEVICE},
        {SOL_SOCKET, SO_MARK},      {SOL_IP, IP_FREEBIND},      {SOL_IP, IP_TRANSPARENT},
        {SOL_IPV6, IPV6_V6ONLY},    {SOL_IPV6, 78 /* IPV6_FREEBIND */},
        {SOL_IPV6, IPV6_TRANSPARENT},
        {SOL_IP, IP_BIND_ADDRESS_NO_PORT},
    };

    for (size_t i = 0; i < ARRAY_SIZE(early); i++)
        if (o->level == early[i].level && o->name == early[i].name)
            return true;
    return false;
}

static int set_option(int fd, const SockOpt *o, struct err *err)
{
    uint8_t now[MAX_VALUE];
    socklen_t n = (socklen_t)o->value.len;

    /* What is so already may be something that this user could not set. */
    if (n && getsockopt(fd, o->level, o->name, now, &n) == 0 && n == o->value.len &&
        memcmp(now, o->value.data, n) == 0)
        return 0;
    if (setsockopt(fd, o->level, o->name, o->value.data, (socklen_t)o->value.len) < 0)
        return err_errno(err, "socket option %d of level %d", o->name, o->level);
    return 0;
}

/* Whose it is, is an attribute of the socket; a user has only ids of its own. */
static void set_uid(int fd, const Socket *m)
{
    struct stat st;

    if (fstat(fd, &st) == 0 && (st.st_uid != m->uid || st.st_gid != m->gid) && fchown(fd, m->uid, m->gid) < 0)
        return;
}

int socket_early(int fd, const Socket *m, struct err *err)
{
    set_uid(fd, m);
    for (size_t i = 0; i < m->n_options; i++)
        if (is_early(m->options[i]) && set_option(fd, m->options[i], err) < 0)
            return -err->code;
    return 0;
}

int socket_make(const Socket *m, struct err *err)
{
    _cleanup_close_ int fd =
        socket((int)m->family, (int)m->type | SOCK_CLOEXEC | SOCK_NONBLOCK, (int)m->protocol);

    if (fd < 0)
        return err_errno(err, "a socket of family %u, type %u, protocol %u", m->family, m->type, m->protocol);
    if (socket_early(fd, m, err) < 0)
        return -err->code;
    return take_fd(&fd);
}

static int set_filter(int fd, const Socket *m, struct err *err)
{
    struct sock_fprog p = {.len = (unsigned short)(m->filter.len / sizeof(struct sock_filter)),
                           .filter = (struct sock_filter *)m->filter.data};

    if (p.len && setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &p, sizeof(p)) < 0)
        return err_errno(err, "the socket filter");
    return 0;
}

static int set_buffer(int fd, int option, uint32_t want, struct err *err)
{
    int now = 0;
    socklen_t n = sizeof(now);

    if (getsockopt(fd, SOL_SOCKET, option, &now, &n) == 0 && (uint32_t)now == want)
        return 0;
    if (sockbuf_set(fd, option, want) < 0)
        return err_errno(err, "a socket buffer of %u bytes", want);
    return 0;
}

static int set_buffers(int fd, const Socket *m, struct err *err)
{
    int lock = (int)(m->buf_lock & (LOCK_SNDBUF | LOCK_RCVBUF));

    if ((lock & LOCK_SNDBUF || m->family == AF_UNIX) &&
        set_buffer(fd, SO_SNDBUF, m->sndbuf, err) < 0)
        return -err->code;
    if ((lock & LOCK_RCVBUF || m->family == AF_UNIX) &&
        set_buffer(fd, SO_RCVBUF, m->rcvbuf, err) < 0)
        return -err->code;
    setsockopt(fd, SOL_SOCKET, SO_BUF_LOCK, &lock, sizeof(lock)); /* since Linux 5.14; of no effect before */
    return 0;
}

int socket_options(int fd, const Socket *m, struct err *err)
{
    if (set_buffers(fd, m, err) < 0)
        return -err->code;
    for (size_t i = 0; i < m->n_options; i++)
        if (!is_early(m->options[i]) &&
            !(m->options[i]->level == SOL_SOCKET && m->options[i]->name == SO_LOCK_FILTER) &&
            set_option(fd, m->options[i], err) < 0)
            return -err->code;
    return 0;
}

int socket_filter(int fd, const Socket *m, struct err *err)
{
    if (set_filter(fd, m, err) < 0)
        return -err->code;
    for (size_t i = 0; i < m->n_options; i++)
        if (m->options[i]->level == SOL_SOCKET && m->options[i]->name == SO_LOCK_FILTER &&
            set_option(fd, m->options[i], err) < 0)
            return -err->code;
    return 0;
}

int socket_late(int fd, const Socket *m, struct err *err)
{
    return socket_options(fd, m, err) < 0 ? -err->code : socket_filter(fd, m, err);
}

void socket_widen(int fd, int option)
{
    int want = 64 << 20, protocol = 0;
    socklen_t n = sizeof(protocol);

    if (option == SO_RCVBUF) {
        sockbuf_widen_receive(fd, want);
        return;
    }
    getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &n);
    /* Of a TCP socket the kernel makes it larger than we may, unless a size is asked for. */
    if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &want, sizeof(want)) < 0 && protocol != IPPROTO_TCP)
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &want, sizeof(want)); /* cut down to the system's limit */
}

void socket_narrow(int fd, const Socket *m)
{
    int lock = (int)m->buf_lock;

    sockbuf_set(fd, SO_SNDBUF, m->sndbuf);
    sockbuf_set(fd, SO_RCVBUF, m->rcvbuf);
    setsockopt(fd, SOL_SOCKET, SO_BUF_LOCK, &lock, sizeof(lock));
}
