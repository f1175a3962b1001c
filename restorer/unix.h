/* What the files about unix sockets share. */
#ifndef RESTORER_UNIX_H
#define RESTORER_UNIX_H

#include "image/socket.h"
#include "image/unix.pb-c.h"
#include "restorer/socket.h"

extern const struct rebuild_ops unix_ops;

/* A unix socket of the images. */
struct runix {
    struct robject *o;
    const Unix *m;
    struct runix *peer; /* PEER_OBJECT, and connected to each other */
    int fd;             /* the driver's; its description's once that is made */
    int node;           /* O_PATH fd of the file of its name; -1: none */
    int temp;           /* stands in for a peer that was closed; -1: none */
    bool joined;        /* is connected by now */
    uint32_t followers; /* datagram sockets that are to be connected to it first */
};

/* The one with this object id; NULL: there is none, or it is another kind of object. */
struct runix *runix_find(const struct restore *r, uint64_t id);

/* unixbind.c: give sockets their names. */
struct bind_job {
    int fd;
    const ProtobufCBinaryData *name;
    const UnixFile *file; /* where its file is to be; NULL: nowhere, bind(2) is only to remember the name */
    int node;             /* filled in: O_PATH fd of the file (also when it has no name), -1 for an abstract name */
};
int unix_bind(struct restore *r, struct bind_job *jobs, size_t n, struct err *err);

/* The address of a socket as connect(2) takes it. */
socklen_t unix_address(const ProtobufCBinaryData *name, struct sockaddr_un *a);

/* Is there something at the path that must not be replaced? */
int unix_check_file(const UnixFile *f, struct err *err);

int unix_build(struct restore *r, struct rsockets *s, struct err *err);   /* unixbuild.c */
int unix_join(struct restore *r, struct rsockets *s, struct err *err);    /* unixjoin.c: connections by way of a listener */
int unix_fill(struct restore *r, struct rsockets *s, struct err *err);    /* unixfill.c */

#endif
