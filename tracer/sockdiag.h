/*
 * What the kernel says of sockets through NETLINK_SOCK_DIAG (sock_diag(7)): for unix sockets things that no
 * system call on the socket tells, such as which socket is the other end. One dump per checkpoint, made while
 * everything is frozen, so that the cost grows with the number of sockets and not with its square.
 */
#ifndef TRACER_SOCKDIAG_H
#define TRACER_SOCKDIAG_H

#include <stdbool.h>
#include <stdint.h>

#include "tracer/ckpt.h"

struct unix_diag {
    uint32_t ino;       /* 0: belongs to a connection that is not accepted yet */
    uint8_t type, state, shutdown; /* state: TCP_ESTABLISHED, TCP_LISTEN, TCP_CLOSE */
    bool has_peer, has_file;
    uint32_t peer;      /* inode of the other end; 0: closed, or not accepted yet */
    uint32_t file_ino, file_dev; /* of the name in the file system, dev as the kernel encodes it */
    uint32_t rqueue, wqueue; /* bytes to read, bytes in flight to the peer; listening: connections, backlog */
    const uint32_t *pending; /* inodes of the clients of connections not accepted yet, in order; 0: closed */
    uint32_t npending;
    uint32_t listener;  /* not accepted yet: inode of the listening socket; 0: not known */
    const char *name;   /* sun_path */
    uint32_t name_len;
    struct unix_diag *next; /* in the hash */
};

/* All unix sockets of the tracer's network namespace; made on the first call. */
struct unix_table;
int unix_table_get(struct ckpt *c, struct unix_table **t, struct err *err);
const struct unix_diag *unix_table_find(const struct unix_table *t, uint64_t ino);

/* The end that is not accepted yet of the connection whose client is `ino`; NULL when there is none. */
const struct unix_diag *unix_table_embryo(const struct unix_table *t, uint64_t client);

/* Does a connection that waits at this listening socket have data in it that nobody could read yet? */
bool unix_table_unread(const struct unix_table *t, const struct unix_diag *listener);

/*
 * Send one netlink request and call `each` for every answer until the dump ends. Returns 0 or the first error
 * of the kernel's or of `each`.
 */
int diag_dump(const void *request, size_t len, int (*each)(void *arg, const void *payload, size_t n, struct err *err),
              void *arg, struct err *err);

#endif
