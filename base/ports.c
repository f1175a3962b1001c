/*
 * See ports.h. Whoever may not destroy a socket can still have TIME_WAIT end. A SYN that claims to come from the other
 * end is answered with the number that TIME_WAIT expects next; the new socket, which has sent no such thing, refuses
 * the answer by a reset with just that number; and a reset ends TIME_WAIT. RFC 1337 names this as a hazard ("TIME-WAIT
 * assassination"); net.ipv4.tcp_rfc1337=1 prevents it. All three are on their way between addresses of this host
 * within connect(2).
 */
#include "base/ports.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/sockdiag.h"
#include "base/util.h"

struct search {
    const struct ports *local, *remote;
    struct ports listening; /* where somebody would take a SYN for a connection */
    bool used;              /* by a socket that is alive */
    struct inet_entry *dead;
    size_t n, cap;
};

static bool is_remains(const struct inet_entry *e)
{
    return e->state == TCP_TIME_WAIT ||
           (e->ino == 0 && (e->state == TCP_FIN_WAIT1 || e->state == TCP_FIN_WAIT2 || e->state == TCP_CLOSING ||
                            e->state == TCP_LAST_ACK));
}

static int look(void *arg, const struct inet_entry *e, struct err *err)
{
    struct search *s = arg;

    if (!ports_has(s->local, e->local.port))
        return 0;
    if (!is_remains(e)) {
        s->used = true;
        if (e->state == TCP_LISTEN)
            ports_add(&s->listening, e->local.port);
        return 0;
    }
    if (s->remote && !ports_has(s->remote, e->remote.port))
        return 0;
    struct inet_entry *more = grow(s->dead, s->n, &s->cap, sizeof(*more));
    if (!more)
        return err_set(err, ENOMEM, "out of memory");
    s->dead = more;
    s->dead[s->n++] = *e;
    return 0;
}

/* A sockaddr of an end; returns its size. IPv4-mapped addresses are IPv4 on the wire. */
static socklen_t address(const struct inet_end *e, struct sockaddr_storage *a)
{
    struct sockaddr_in *v4 = (void *)a;
    struct sockaddr_in6 *v6 = (void *)a;

    memset(a, 0, sizeof(*a));
    if (inet_is_v4(e)) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons(e->port);
        memcpy(&v4->sin_addr, e->addr + 12, 4);
        return sizeof(*v4);
    }
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(e->port);
    memcpy(&v6->sin6_addr, e->addr, 16);
    return sizeof(*v6);
}

/* Whether it helped is seen when the port is asked for. False: the other end's port is not to be had. */
static bool provoke(const struct inet_entry *e)
{
    struct sockaddr_storage from, to;
    socklen_t from_len = address(&e->remote, &from), to_len = address(&e->local, &to);
    _cleanup_close_ int fd = socket(from.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int one = 1;

    if (fd < 0)
        return false;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    return bind(fd, (struct sockaddr *)&from, from_len) == 0 &&
           (connect(fd, (struct sockaddr *)&to, to_len) == 0 || errno == EINPROGRESS);
}

static void provoke_all(const struct search *s)
{
    size_t n = s->n, before;

    /* The other end's port can itself be kept by what remains of another connection: again, as long as one goes. */
    do {
        before = n;
        for (size_t i = 0; i < n;) {
            struct inet_entry e = s->dead[i];
            if (!ports_has(&s->listening, e.local.port) && provoke(&e))
                s->dead[i] = s->dead[--n];
            else
                i++;
        }
    } while (n > 0 && n < before);
    for (size_t i = 0; i < n; i++) {
        char local[64], remote[64];
        log_trace("what remains of the connection of %s and %s stays", inet_text(&s->dead[i].local, local, sizeof(local)),
                  inet_text(&s->dead[i].remote, remote, sizeof(remote)));
    }
}

static int clear(const struct search *s, struct err *err)
{
    for (size_t i = 0; i < s->n; i++)
        if (inet_destroy(&s->dead[i], err) < 0 && err->code == EPERM) {
            provoke_all(s);
            break;
        }
    return (int)s->n;
}

int ports_clear(const struct ports *local, const struct ports *remote, struct err *err)
{
    struct search s = {.local = local, .remote = remote};
    int r = inet_dump(IPPROTO_TCP, ~0u, look, &s, err);

    if (r == 0)
        r = clear(&s, err);
    free(s.dead);
    return r;
}

int port_clear(uint16_t port, struct err *err)
{
    struct ports p = {0};

    ports_add(&p, port);
    return ports_clear(&p, NULL, err);
}

int port_in_use(uint16_t port, bool *used, struct err *err)
{
    struct ports p = {0};
    struct search s = {.local = &p};
    int r;

    ports_add(&p, port);
    r = inet_dump(IPPROTO_TCP, ~0u, look, &s, err);
    *used = s.used;
    free(s.dead);
    return r;
}
