/* What the files about internet sockets share. */
#ifndef TRACER_INET_H
#define TRACER_INET_H

#include "base/sockdiag.h"
#include "image/inet.pb-c.h"
#include "image/socket.h"
#include "tracer/ckpt.h"
#include "tracer/socket.h"

extern const struct kind_ops inet_ops;

/* object.priv */
struct inet_sock {
    const struct fd_info *fi; /* some fd of it */
    struct inet_end local, remote;
    struct tcp_state tcp;
    int outq;                 /* bytes sent and not acknowledged, or not sent yet */
    struct object *peer;      /* PEER_OBJECT */
    uint32_t waiting;         /* TCP_LISTEN: connections that were found */
    struct object *next;      /* in the hash of tcptable.c */
    const struct inet_entry *entry; /* what sock_diag says of it; NULL: it is in no table */
    bool is_held;             /* tcpkeep.c: in repair mode, and this fd is a copy of it */
    int held;
    ProtobufCBinaryData tail; /* tcpsettle.c: what its peer had sent and still has; behind what waits here … */
    uint64_t tail_after;      /* … when it had received so many bytes. What comes later is the beginning of the tail */
};

/* inet.c: message of an object; NULL: it is no internet socket, or one of another protocol. */
Inet *inet_of(const struct object *o);
bool inet_is_tcp(const struct object *o);

/* Each kind of protocol: tcp.c, dgram.c. `fd` is the tracer's copy. */
int tcp_collect(struct ckpt *c, int fd, struct object *o, struct err *err);
int tcp_match(struct ckpt *c, struct object *o, struct err *err);
int tcp_settle(struct ckpt *c, struct err *err); /* tcpsettle.c: of all sockets, on the first call */
int tcp_peek(struct ckpt *c, int fd, struct object *o, struct err *err); /* tcppeek.c */
int tcp_read_queue(struct ckpt *c, int fd, Inet *m, struct err *err); /* what waits in it, into m->bytes */
/* tcpkeep.c: a connection that leads out. May we? Read all of it. Put it back; when all are: the helper. */
int tcp_keep_allowed(int fd, struct err *err);
int tcp_keep(struct ckpt *c, int fd, struct object *o, struct err *err);
int tcp_take_tail(struct ckpt *c, int from_fd, struct object *from, int to_fd, struct object *to, struct err *err);
void tcp_keep_release(struct ckpt *c, struct object *o);
int dgram_collect(struct ckpt *c, int fd, struct object *o, struct err *err);
int mcast_collect(struct ckpt *c, int fd, Inet *m, struct err *err); /* mcast.c: the groups that it is in */
int dgram_peek(struct ckpt *c, int fd, struct object *o, struct err *err);
int dgram_check_again(const Inet *m, int fd, const InetMessage *k, struct err *err); /* dgramagain.c: can it come again? */

/* tcptable.c: all TCP sockets of the host and of the checkpoint, by their addresses. */
struct tcp_table;
int tcp_table_get(struct ckpt *c, struct tcp_table **t, struct err *err);
/* Of the checkpoint: with these addresses; connected. */
struct object *tcp_table_object(const struct tcp_table *t, const struct inet_end *local, const struct inet_end *remote);
/* Of the host: the same; the socket with this inode. */
const struct inet_entry *tcp_table_entry(const struct tcp_table *t, const struct inet_end *local,
                                         const struct inet_end *remote);
const struct inet_entry *tcp_table_inode(const struct tcp_table *t, uint64_t ino);
/* The listening socket of the checkpoint at which connections to this address arrive; room: one that has more
 * waiting connections than were found so far. */
struct object *tcp_table_listener(const struct tcp_table *t, const struct inet_end *local, bool room);
/* Entries without an fd: f is called for those that may wait to be accepted, oldest first. */
int tcp_table_waiting(const struct tcp_table *t, int (*f)(void *arg, const struct inet_entry *e, struct err *err),
                      void *arg, struct err *err);

#endif
