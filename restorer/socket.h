/*
 * What the socket kinds (unix.c, inet.c, packet.c, netlink.c) share. Sockets are made and filled in the driver;
 * only calls after which the kernel remembers the caller (socketpair(2), connect(2), listen(2) on unix sockets)
 * are made in the process that made them (peercred.h).
 */
#ifndef RESTORER_SOCKET_H
#define RESTORER_SOCKET_H

#include <sys/socket.h>
#include <sys/un.h>

#include "image/socket.pb-c.h"
#include "restorer/restore.h"

/* Shared state; hangs off restore->sockets, made on first use. NULL when memory is out. */
struct rsockets {
    struct restore *r;
    struct runix **unixes; /* unix.c: all unix sockets */
    size_t n_unixes;
    bool unix_built, unix_filled;
    struct rinet **inets; /* inet.c: all internet sockets */
    size_t n_inets;
    bool inet_built, inet_filled, inet_lives;
    struct rinet **listening; /* tcpjoin.c: those that listen by now */
    size_t n_listening;
    struct held *held;        /* tcpadopt.c: sockets of programs that were killed after their checkpoint */
    bool looked_for_held;
};
struct rsockets *rsockets_of(struct restore *r, struct err *err);

/* tcpadopt.c: in dmtcp_restart, once the driver is forked: sockets that were looked for are the driver's alone. */
void tcp_adopt_forget(struct restore *r);

/* Is the common part of a record one that a tracer can have written, of this family? */
int socket_check(const Socket *m, uint32_t family, struct err *err);

/* A new socket of the same sort, non-blocking and close-on-exec, with its owner and the options that must be
 * set before bind(2). The fd is the caller's; -errno. */
int socket_make(const Socket *m, struct err *err);

/* Those options and the owner alone, for a socket that was made otherwise (accept(2), socketpair(2)). */
int socket_early(int fd, const Socket *m, struct err *err);

/* All options, the filter and the buffer sizes: last of all, since they change what is sent and received. */
int socket_late(int fd, const Socket *m, struct err *err);

/* Its two parts: options and sizes; the filter, and that it is locked. */
int socket_options(int fd, const Socket *m, struct err *err);
int socket_filter(int fd, const Socket *m, struct err *err);

/*
 * While queues are filled: as much room as the system gives. The image's own sizes come with
 * socket_late().
 */
void socket_widen(int fd, int option /* SO_SNDBUF or SO_RCVBUF */);

/* Back to the image's sizes, also those that the kernel had chosen itself (as near as we may). */
void socket_narrow(int fd, const Socket *m);

#endif
