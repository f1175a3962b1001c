/*
 * Finding the coordinator, or starting it. Of several launchers that find none at the same time one starts
 * it: they queue on the lock of the user's key file, and each looks again when it has the lock. The port
 * itself is the last judge (bind(2) succeeds once).
 */
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "base/util.h"
#include "coordinator/client_internal.h"
#include "coordinator/key.h"
#include "coordinator/port_file.h"
#include "coordinator/spawn.h"

#define CONNECT_MS   10000
#define HANDSHAKE_MS 20000 /* a coordinator may get no turn for seconds: seen with Linux 6.18's scheduler under load */

static int connect_address(const struct sockaddr *address, socklen_t len, int family)
{
    _cleanup_close_ int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    struct pollfd p = {fd, POLLOUT, 0};
    int error = 0, one = 1;
    socklen_t size = sizeof(error);

    if (fd < 0)
        return -errno;
    if (connect(fd, address, len) < 0) {
        int r;
        if (errno != EINPROGRESS)
            return -errno;
        do
            r = poll(&p, 1, CONNECT_MS);
        while (r < 0 && errno == EINTR);
        if (r <= 0)
            return r < 0 ? -errno : -ETIMEDOUT;
        if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0 || error)
            return error ? -error : -errno;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    fcntl(fd, F_SETFL, 0); /* blocking again: for sends */
    return take_fd(&fd);
}

static int is_local(const char *host)
{
    return !strcmp(host, "localhost") || !strncmp(host, "127.", 4) || !strcmp(host, "::1");
}

/* A connected fd or a negative errno with err. */
static int connect_host(const char *host, int port, struct err *err)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list = NULL;
    struct sockaddr_in loopback = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    char service[16];
    int r;

    if (!strcmp(host, "localhost")) { /* the usual case needs no resolver */
        loopback.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        r = connect_address((struct sockaddr *)&loopback, sizeof(loopback), AF_INET);
        return r < 0 ? err_set(err, -r, "coordinator at %s:%d: %s", host, port, strerror(-r)) : r;
    }
    snprintf(service, sizeof(service), "%d", port);
    r = getaddrinfo(host, service, &hints, &list);
    if (r != 0)
        return err_set(err, EHOSTUNREACH, "coordinator's host %s: %s", host, gai_strerror(r));
    r = -EHOSTUNREACH;
    for (struct addrinfo *a = list; a && r < 0; a = a->ai_next)
        r = connect_address(a->ai_addr, a->ai_addrlen, a->ai_family);
    freeaddrinfo(list);
    return r < 0 ? err_set(err, -r, "coordinator at %s:%d: %s", host, port, strerror(-r)) : r;
}

static int join(struct coord **out, const struct options *o, int port, const char *key_file, struct err *err)
{
    unsigned char key[WIRE_KEY_SIZE];
    struct coord *c;
    int r = key_load(key_file, key, err);

    if (r < 0)
        return r;
    c = coord_alloc(o->host, port, key_file);
    if (!c || !(c->wire = wire_new(WIRE_CLIENT, key))) {
        coord_close(c);
        return err_set(err, ENOMEM, "out of memory");
    }
    r = c->fd = connect_host(o->host, port, err);
    if (r >= 0)
        r = coord_handshake(c, HANDSHAKE_MS, err);
    if (r == -EACCES)
        err_set(err, EACCES, "coordinator at %s: it is another user's, or its key is not the one in %s",
                c->where, key_file);
    if (r < 0) {
        coord_close(c);
        return r;
    }
    *out = c;
    return 0;
}

/* What the new coordinator says about itself: "port N", or what went wrong. */
static int read_ready(int fd, int *port, struct err *err)
{
    char text[1000];
    ssize_t n = spawn_read(fd, text, sizeof(text));

    if (n < 0)
        return err_set(err, (int)-n, "starting a coordinator: %s", strerror((int)-n));
    if (sscanf(text, "port %d", port) == 1)
        return 0;
    return err_set(err, strstr(text, strerror(EADDRINUSE)) ? EADDRINUSE : EIO, "starting a coordinator: %s",
                   n ? text : "it died at once");
}

static int start(const struct options *o, const char *key_file, int *port, struct err *err)
{
    _cleanup_free_ char *path = coord_find_program("dmtcp_coordinator", "coordinator", err);
    _cleanup_close_ int in = -1;
    char ready[16], number[16], interval[16];
    char *argv[24] = {(char *)"dmtcp_coordinator", (char *)"--daemon", (char *)"--exit-on-last"};
    int n = 3, ends[2], r;

    if (!path)
        return -err->code;
    if (pipe2(ends, O_CLOEXEC) < 0)
        return err_errno(err, "pipe");
    in = ends[0];
    snprintf(ready, sizeof(ready), "%d", SPAWN_FIRST_FD);
    snprintf(number, sizeof(number), "%d", o->port);
    snprintf(interval, sizeof(interval), "%d", o->interval);
    const char *const options[][2] = {
        {"--ready-fd", ready},           {"--coord-port", number},
        {"--ckptdir", o->ckptdir},       {"--tmpdir", o->tmpdir},
        {"--key-file", key_file},        {"--interval", o->interval < 0 ? NULL : interval},
        {"--coord-logfile", o->logfile},
    };
    for (size_t i = 0; i < ARRAY_SIZE(options); i++)
        if (options[i][1]) {
            argv[n++] = (char *)options[i][0];
            argv[n++] = (char *)options[i][1];
        }
    r = spawn_detached(path, argv, &ends[1], 1, err);
    close(ends[1]);
    return r < 0 ? r : read_ready(in, port, err);
}

/* Is this error one that starting a coordinator of our own here could cure? */
static int nobody_there(int r, const struct options *o)
{
    return (r == -ECONNREFUSED || r == -ENODATA) && is_local(o->host);
}

static int start_and_join(struct coord **c, const struct options *o, const char *key_file, struct err *err)
{
    unsigned char key[WIRE_KEY_SIZE];
    int port = o->port, r = key_load(key_file, key, err); /* makes the file for the lock */
    _cleanup_close_ int lock = r < 0 ? -1 : key_lock(key_file, err);

    if (lock < 0)
        return -err->code;
    if (o->mode == COORD_ANY && o->port != 0) {
        r = join(c, o, o->port, key_file, err);
        if (!nobody_there(r, o))
            return r;
    }
    r = start(o, key_file, &port, err);
    if (r == -EADDRINUSE && o->mode == COORD_ANY) /* somebody else without our lock was first */
        r = 0;
    return r < 0 ? r : join(c, o, port, key_file, err);
}

int coord_connect(struct coord **c, const struct options *o, struct err *err)
{
    _cleanup_free_ char *key_file = key_path(o->key_file, o->tmpdir, err);
    int r;

    if (!key_file)
        return -err->code;
    if (o->mode == COORD_JOIN || (o->mode == COORD_ANY && o->port != 0)) {
        if (o->port == 0)
            return err_set(err, EINVAL, "--join-coordinator needs a port (--coord-port)");
        r = join(c, o, o->port, key_file, err);
        if (r < 0 && !(o->mode == COORD_ANY && nobody_there(r, o)))
            return r;
    } else {
        r = -ECONNREFUSED;
    }
    if (r < 0 && !is_local(o->host))
        return err_set(err, ECONNREFUSED, "a coordinator can be started on this host only, not on %s",
                       o->host);
    if (r < 0)
        r = start_and_join(c, o, key_file, err);
    if (r == 0 && o->port_file && (r = port_file_write(o->port_file, (*c)->port, err)) < 0) {
        coord_close(*c);
        *c = NULL;
    }
    return r;
}
