/*
 * What the socket kinds (unix.c, inet.c, packet.c, netlink.c) share. The tracer looks at a socket through its
 * own copy of the fd (ckpt_get_fd()), so that nothing need be injected and system calls on it are plain ones.
 */
#ifndef TRACER_SOCKET_H
#define TRACER_SOCKET_H

#include <sys/socket.h>

#include "image/socket.pb-c.h"
#include "tracer/ckpt.h"

/* What lives as long as the checkpoint; hangs off ckpt->sockets, memory from the arena. */
struct sockets {
    struct unix_table *unixes; /* sockdiag.h */
    struct fresh *fresh;       /* sockopt.c: the options that new sockets have */
    struct tcp_table *tcp;     /* tcptable.c */
    bool tcp_settled;          /* tcpsettle.c has run */
    bool tcp_waiting;          /* tcp.c: connections not accepted yet were looked for */
    bool has_keeper;           /* tcpkeep.c */
    int keeper;                /* keeper.h: the channel to it */
};
struct sockets *sockets_of(struct ckpt *c, struct err *err); /* NULL when memory is out */

/* Is this fd a socket of this family? Never fails: a socket that can't be looked at is of no family. */
bool socket_is(const struct fd_info *fi, int family);

/* sockfamily.c: why a socket that no kind knows can't be saved: an error that names its family. */
int socket_refuse(const struct fd_info *fi, struct err *err);

/*
 * Family, type, owner, options, buffer sizes of the socket behind `fd` (the tracer's copy). *m is from the
 * arena. Refuses options that can be set but not read back.
 */
int socket_collect(struct ckpt *c, int fd, const struct stat *st, Socket **m, struct err *err);

/* sockopt.c: the options that differ from those of a fresh socket of the same family, type and protocol. */
int sockopt_collect(struct ckpt *c, int fd, Socket *m, struct err *err);

/* getsockopt of an int; `missing` when the socket does not know the option. */
int sockopt_int(int fd, int level, int name, int missing);

/* All of a socket address as getsockname/getpeername give it; length 0 when there is none. */
ProtobufCBinaryData socket_name(struct ckpt *c, int fd, bool peer);

#endif
