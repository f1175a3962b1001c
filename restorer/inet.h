/* What the files about internet sockets share. */
#ifndef RESTORER_INET_H
#define RESTORER_INET_H

#include <netinet/in.h>

#include "base/sockdiag.h"
#include "image/inet.pb-c.h"
#include "image/socket.h"
#include "restorer/socket.h"

extern const struct rebuild_ops inet_ops;

/* An internet socket of the images. */
struct rinet {
    struct robject *o;
    const Inet *m;
    struct inet_end local, remote;
    struct rinet *peer; /* PEER_OBJECT; itself when it is connected to itself */
    int fd;             /* the driver's; its description's once that is made */
    int temp;           /* stands in for a peer that is not an object; -1: none */
    bool joined;        /* is connected, or was */
    bool listening;
    bool widened;
    bool kept, adopted; /* tcpkeep.c: in repair mode until all else stands; the very socket that the old program had */
};

/* Is a connection that leads out to be kept (or else reset)? */
bool inet_keeps(const struct restore *r, const Inet *m);

bool rinet_is_tcp(const struct rinet *u);

/* An address as large as any. */
union address {
    struct sockaddr sa;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};
socklen_t inet_address(const ProtobufCBinaryData *from, union address *a);

/*
 * inetbind.c. bind(2) that gets over the remains of the connections that the dead program had: they are removed if we
 * may, else waited for.
 */
int inet_bind(int fd, const union address *a, socklen_t len, struct err *err);
int inet_bind_error(const struct inet_end *e, int error, struct err *err); /* why bind(2) failed */

/*
 * Was the port chosen by bind(2), rather than by connect(2)? 2: surely; 1: likely, for connect takes every other port of
 * those that the kernel chooses from, as long as it can, and bind(2) the ones between (__inet_hash_connect()); 0: no.
 */
int inet_looks_bound(uint16_t port);

/*
 * Connect a new socket from a local address, port included, to another; returns when it is connected, or with
 * `wait` false when it is on its way. fd gets SO_REUSEADDR.
 */
int inet_connect(int fd, const ProtobufCBinaryData *local, const ProtobufCBinaryData *remote, bool wait, struct err *err);

int tcp_build(struct rsockets *s, struct err *err);  /* tcpbuild.c */
int tcp_join(struct rsockets *s, struct err *err);   /* tcpjoin.c: connections */
int tcp_fill(struct rsockets *s, struct err *err);   /* tcpfill.c */
/* tcpkeep.c: a connection that leads out; then, when nothing can fail any more, let them live. */
int tcp_keep(struct rsockets *s, struct rinet *u, struct err *err);
int tcp_keep_live(struct rsockets *s, struct err *err);
/* tcpadopt.c: look for sockets that are held; an fd of one, -ENOENT: nobody holds it; tell who held them. */
void tcp_adopt_find(struct rsockets *s);
int tcp_adopt(struct rsockets *s, const struct rinet *u);
void tcp_adopt_end(struct rsockets *s);
int dgram_build(struct rinet *u, struct err *err);   /* dgram.c */
int dgram_fill(struct rsockets *s, struct err *err);
/* dgramagain.c: ICMP and raw sockets. A raw socket hears nothing until socket_late() or dgram_listen(). */
int dgram_deafen(const struct rinet *u, struct err *err);
/* A packet that waited comes again. */
int dgram_again(const struct rsockets *s, const struct rinet *u, const InetMessage *k, struct err *err);
void dgram_listen(const struct rinet *u);

#endif
