/* What the two files about terminals share: tty.c (which, and in what state) and ttyqueue.c (what waits in
 * them). */
#ifndef TRACER_TTY_H
#define TRACER_TTY_H

#include "image/tty.pb-c.h"
#include "tracer/ckpt.h"

#define TTY_PTY     1u /* Tty.type */
#define TTY_OUTSIDE 2u
#define TTY_HUNG    3u

/* Through whom a terminal is looked at; pointers are NULL while nobody was seen. */
struct tty_seen {
    struct proc *master, *slave;
    int master_fd, slave_fd;
    uint32_t master_flags; /* of fdinfo */
    bool hung;
};

/*
 * Save what waits in a pseudo-terminal of the tree, in both directions, into m. Terminals have no way to
 * peek: it is taken and put back in one batch, which the parasite finishes whatever becomes of the tracer.
 */
int tty_save_queues(struct ckpt *c, const struct tty_seen *seen, Tty *m, struct err *err);

#endif
