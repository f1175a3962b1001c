/* What the files about unix sockets share. */
#ifndef TRACER_UNIX_H
#define TRACER_UNIX_H

#include "image/socket.h"
#include "image/unix.pb-c.h"
#include "tracer/ckpt.h"
#include "tracer/sockdiag.h"

struct kept {
    int fd; /* of the tracer's own: something in flight that nobody has open */
    struct kept *next;
};

/* object.priv */
struct unix_sock {
    const struct fd_info *fi; /* some fd of it */
    const struct unix_diag *diag;
    struct kept *kept;
};

extern const struct kind_ops unix_ops;

/* unixname.c: where in the file system its name is, if it is there. fd: the tracer's copy. Fills msg->file. */
int unix_locate(struct ckpt *c, int fd, struct object *o, struct err *err);

#endif
