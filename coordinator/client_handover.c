/*
 * What goes from one of our programs to the next one over execve: the tracer's configuration, and a whole
 * connection (dmtcp_restart becomes the tracer of what it restored and stays the same peer to the
 * coordinator).
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "base/util.h"
#include "coordinator/client_internal.h"
#include "coordinator/spawn.h"

#define STARTED_OK "ok\n"

int coord_write_config(const Wire__TracerConfig *config, struct err *err)
{
    _cleanup_close_ int fd = memfd_create("dmtcp-config", 0);
    size_t len = wire__tracer_config__get_packed_size(config);
    _cleanup_free_ uint8_t *data = malloc(len + 1);
    int r;

    if (fd < 0)
        return err_errno(err, "memfd_create");
    if (!data)
        return err_set(err, ENOMEM, "out of memory");
    wire__tracer_config__pack(config, data);
    r = pwrite_full(fd, data, len, 0);
    return r < 0 ? err_set(err, -r, "memfd: %s", strerror(-r)) : take_fd(&fd);
}

int coord_read_config(int fd, Wire__TracerConfig **config, struct err *err)
{
    _cleanup_free_ char *data = NULL, *path = format("/proc/self/fd/%d", fd);
    size_t len = 0;
    int r = path ? read_file(AT_FDCWD, path, &data, &len) : -ENOMEM;

    close(fd);
    if (r < 0)
        return err_set(err, -r, "--config-fd %d: %s", fd, strerror(-r));
    *config = wire__tracer_config__unpack(NULL, len, (uint8_t *)data);
    return *config ? 0 : err_set(err, EINVAL, "--config-fd %d: not a tracer's configuration", fd);
}

int coord_spawn_tracer(Wire__TracerConfig *config, int *status, struct err *err)
{
    _cleanup_free_ char *path = coord_find_program("dmtcp_tracer", "tracer", err);
    _cleanup_close_ int fd = -1, in = -1, out = -1;
    char number[16];
    char *argv[] = {(char *)"dmtcp_tracer", (char *)"--config-fd", number, NULL};
    int ends[2], r;

    if (!path)
        return -err->code;
    if (pipe2(ends, O_CLOEXEC) < 0)
        return err_errno(err, "pipe");
    in = ends[0];
    out = ends[1];
    config->status_fd = SPAWN_FIRST_FD + 1;
    fd = coord_write_config(config, err);
    if (fd < 0)
        return fd;
    snprintf(number, sizeof(number), "%d", SPAWN_FIRST_FD);
    r = spawn_detached(path, argv, (int[]){fd, out}, 2, err);
    if (r == 0)
        *status = take_fd(&in);
    return r;
}

int coord_tracer_started(int status, struct err *err)
{
    _cleanup_close_ int fd = status;
    char text[1000];
    ssize_t n = spawn_read(fd, text, sizeof(text));

    if (n < 0)
        return err_set(err, (int)-n, "starting dmtcp_tracer: %s", strerror((int)-n));
    if (!strcmp(text, STARTED_OK))
        return 0;
    text[strcspn(text, "\n")] = '\0';
    return err_set(err, EIO, "starting dmtcp_tracer: %s", text[0] ? text : "it died at once");
}

void coord_started(int status_fd, const struct err *why)
{
    if (status_fd <= 0)
        return;
    if (why)
        (void)!write(status_fd, why->msg, strlen(why->msg));
    else
        (void)!write(status_fd, STARTED_OK, strlen(STARTED_OK));
    close(status_fd);
}

int coord_export(struct coord *c, void **data, size_t *len, struct err *err)
{
    Wire__Connection x = WIRE__CONNECTION__INIT;

    if (wire_export(c->wire, &x, err) < 0)
        return -err->code;
    x.fd = c->fd;
    x.next_seq = c->next_seq;
    x.n_queued = c->n_queue;
    x.queued = c->queue;
    x.where = c->hostname;
    x.port = (uint32_t)c->port;
    x.key_file = c->key_file;
    *len = wire__connection__get_packed_size(&x);
    *data = malloc(*len);
    if (!*data)
        return err_set(err, ENOMEM, "out of memory");
    wire__connection__pack(&x, *data);
    if (fcntl(c->fd, F_SETFD, 0) < 0) {
        err_errno(err, "connection");
        free(*data);
        *data = NULL;
        return -err->code;
    }
    return 0;
}

static int import(struct coord *c, Wire__Connection *x, struct err *err)
{
    c->wire = wire_import(x, err);
    if (!c->wire)
        return -err->code;
    if (fcntl(x->fd, F_SETFD, FD_CLOEXEC) < 0)
        return err_errno(err, "connection");
    c->fd = x->fd;
    c->next_seq = x->next_seq;
    c->queue = x->queued; /* made by the same allocator: protobuf-c's default is malloc */
    c->n_queue = c->cap_queue = x->n_queued;
    x->queued = NULL;
    x->n_queued = 0;
    return 0;
}

int coord_import(struct coord **out, const void *data, size_t len, struct err *err)
{
    Wire__Connection *x = wire__connection__unpack(NULL, len, data);
    struct coord *c = x ? coord_alloc(x->where, (int)x->port, x->key_file) : NULL;
    int r;

    if (!x)
        return err_set(err, EINVAL, "not an exported connection");
    r = c ? import(c, x, err) : err_set(err, ENOMEM, "out of memory");
    wire__connection__free_unpacked(x, NULL);
    if (r < 0)
        coord_close(c);
    else
        *out = c;
    return r;
}
