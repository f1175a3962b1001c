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
    uint32_t ino;
    uint8_t type, state, shutdown; /* state: TCP_ESTABLISHED, TCP_LISTEN, TCP_CLOSE */
    bool has_peer, has_file;
    uint32_t peer;      /* inode of the other end; 0: closed, or not accepted yet */
    uint32_t file_ino, file_dev; /* of the name in the file system, dev as the kernel encodes it */
    uint32_t rqueue, wqueue; /* bytes to read, bytes in flight to the peer; listening: connections, backlog */
    const uint32_t *pending; /* inodes of the clients of connections not accepted yet, in order; 0: closed */
    uint32_t npending;
    const char *name;   /* sun_path */
    uint32_t name_len;
    struct unix_diag *next; /* in the hash */
};

/* All unix sockets of the tracer's network namespace; made on the first call. */
struct unix_table;
int unix_table_get(struct ckpt *c, struct unix_table **t, struct err *err);
const struct unix_diag *unix_table_find(const struct unix_table *t, uint64_t ino);

/* The listening socket at which the connection of this client waits; 0: it does not wait. */
uint32_t unix_table_listener(const struct unix_table *t, uint64_t client);

#endif
