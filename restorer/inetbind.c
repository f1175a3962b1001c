/*
 * Local addresses of internet sockets, which remains of the connections that the dead program had can keep from being
 * bound (base/ports.h). Where they can't be removed there is a way for who connects: a port that the kernel chooses
 * itself may be one of a connection in TIME_WAIT after a second (net.ipv4.tcp_tw_reuse), and the range to choose from
 * can be a single port (IP_LOCAL_PORT_RANGE). What remains is waiting.
 */
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/ports.h"
#include "base/util.h"
#include "restorer/inet.h"

#ifndef IP_LOCAL_PORT_RANGE
#define IP_LOCAL_PORT_RANGE 51
#endif
#define PATIENCE_MS 70000 /* TIME_WAIT lasts 60 s */
#define NOTE_MS     2000
#define STEP_MS     50

/*
 * Something keeps us from the port. Remove it, or wait a little. 0: try again; -errno: it is no use. alone: only
 * remains may be there; otherwise connections of our own can be, too.
 */
static int get_over(const struct inet_end *e, int64_t since, bool *cleared, bool alone, struct err *err)
{
    int64_t waited = monotonic_ms() - since;
    bool used = false, again = *cleared;
    char text[64];

    *cleared = true;
    if (port_clear(e->port, err) > 0 && !again)
        return 0;
    if (alone && port_in_use(e->port, &used, err) < 0)
        return -err->code;
    if (used)
        return err_set(err, EADDRINUSE, "%s is in use by another program", inet_text(e, text, sizeof(text)));
    if (waited > PATIENCE_MS)
        return err_set(err, EADDRINUSE, "%s is not free", inet_text(e, text, sizeof(text)));
    if (waited > NOTE_MS && waited <= NOTE_MS + STEP_MS)
        log_note("waiting for %s: what remains of the connections of the program that ended keeps it for a minute",
                 inet_text(e, text, sizeof(text)));
    poll(NULL, 0, STEP_MS);
    return 0;
}

int inet_bind_error(const struct inet_end *e, int error, struct err *err)
{
    char text[64];

    inet_text(e, text, sizeof(text));
    if (error == EADDRNOTAVAIL)
        return err_set(err, error, "the address of %s is none of this host's any more", text);
    return err_set(err, error, "%s: %s", text, strerror(error));
}

int inet_bind(int fd, const union address *a, socklen_t len, struct err *err)
{
    int64_t since = monotonic_ms();
    struct inet_end e;
    bool cleared = false;

    inet_end_of(a, len, &e);
    while (bind(fd, &a->sa, len) < 0) {
        if (errno != EADDRINUSE || e.port == 0)
            return inet_bind_error(&e, errno, err);
        if (get_over(&e, since, &cleared, true, err) < 0)
            return -err->code;
    }
    return 0;
}

static bool port_range(unsigned *low, unsigned *high)
{
    _cleanup_free_ char *text = NULL;
    size_t n;

    return read_file(-1, "/proc/sys/net/ipv4/ip_local_port_range", &text, &n) == 0 &&
           sscanf(text, "%u %u", low, high) == 2;
}

/* The kernel chooses from these; a socket can only narrow them. */
static bool is_ephemeral(uint16_t port)
{
    unsigned low, high;

    return port_range(&low, &high) && low <= port && port <= high;
}

int inet_looks_bound(uint16_t port)
{
    unsigned low, high;

    if (!port_range(&low, &high))
        return 0;
    if (port < low || port > high)
        return 2;
    return (port - low) % 2;
}

/* Have the kernel choose the port, of one. False: this kernel can't. */
static bool narrow_choice(int fd, const union address *local, socklen_t len, uint16_t port)
{
    uint32_t range = (uint32_t)port << 16 | port;
    union address any_port = *local;
    int one = 1;

    if (local->sa.sa_family == AF_INET)
        any_port.v4.sin_port = 0;
    else
        any_port.v6.sin6_port = 0;
    return is_ephemeral(port) && setsockopt(fd, IPPROTO_IP, IP_LOCAL_PORT_RANGE, &range, sizeof(range)) == 0 &&
           setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof(one)) == 0 &&
           bind(fd, &any_port.sa, len) == 0;
}

static void widen_choice(int fd)
{
    uint32_t range = 0;
    int zero = 0;

    setsockopt(fd, IPPROTO_IP, IP_LOCAL_PORT_RANGE, &range, sizeof(range));
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &zero, sizeof(zero));
}

static int finish_connect(int fd, const union address *to, socklen_t len, struct err *err)
{
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    struct inet_end e;
    char text[64];
    int error = 0;
    socklen_t n = sizeof(error);

    inet_end_of(to, len, &e);
    if (poll(&p, 1, 10000) <= 0)
        return err_set(err, ETIMEDOUT, "connecting to %s", inet_text(&e, text, sizeof(text)));
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &n) == 0 && error)
        return err_set(err, error, "connecting to %s: %s", inet_text(&e, text, sizeof(text)), strerror(error));
    return 0;
}

/* A port by bind(2), which also takes one that the kernel would not choose. -errno without err. */
static int bind_port(int fd, const union address *from, socklen_t len)
{
    int zero = 0;

    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &zero, sizeof(zero));
    return bind(fd, &from->sa, len) < 0 ? -errno : 0;
}

/*
 * A port that was chosen by the kernel is left to be chosen again: unlike one that was asked for by bind(2), it can
 * be had again a second after its connection is in TIME_WAIT, at this restart and at one after it.
 */
int inet_connect(int fd, const ProtobufCBinaryData *local, const ProtobufCBinaryData *remote, bool wait, struct err *err)
{
    union address from, to;
    socklen_t from_len = inet_address(local, &from), to_len = inet_address(remote, &to);
    int64_t since = monotonic_ms();
    bool cleared = false, chosen = false;
    struct inet_end e, r;
    char text[64];
    int one = 1, bound = 0;

    inet_end_of(&from, from_len, &e);
    inet_end_of(&to, to_len, &r);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (e.port) {
        chosen = narrow_choice(fd, &from, from_len, e.port);
        bound = chosen ? -EAGAIN : bind_port(fd, &from, from_len);
    }
    for (;;) {
        if ((bound == 0 || chosen) && (connect(fd, &to.sa, to_len) == 0 || errno == EINPROGRESS))
            break;
        if ((bound == 0 || chosen) && errno != EADDRNOTAVAIL)
            return err_errno(err, "connecting to %s", inet_text(&r, text, sizeof(text)));
        if (bound < 0)
            bound = bind_port(fd, &from, from_len);
        if (bound == 0 && chosen) {
            chosen = false;
            widen_choice(fd);
            continue;
        }
        if (bound < 0 && bound != -EADDRINUSE)
            return inet_bind_error(&e, -bound, err);
        if (get_over(&e, since, &cleared, false, err) < 0)
            return -err->code;
    }
    if (chosen)
        widen_choice(fd);
    return wait ? finish_connect(fd, &to, to_len, err) : 0;
}
