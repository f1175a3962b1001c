/* Asking all tracers the same and making one answer of theirs. Used by commands.c. */
#ifndef COORDINATOR_GATHER_H
#define COORDINATOR_GATHER_H

#include "coordinator/server.h"

struct gather;
typedef void (*gather_fn)(struct server *s, struct gather *g);

struct gather {
    struct gather *next;
    struct ask ask;
    size_t waiting;      /* for so many tracers */
    int64_t deadline;    /* ms */
    int timeout;         /* ms; each piece of text of a tracer starts it anew */
    gather_fn finish;    /* called once: NULL after that */
    Wire__Msg **answers; /* of those who gave one */
    uint64_t *from;      /* who: may be gone when the last one answers */
    size_t n, cap, cap_from;
    struct err failure; /* the first; code 0: none */
};

/*
 * Send msg to all tracers (or to one). finish is called when all have answered or are gone, or timeout ms
 * later, with what has come by then. Text is passed on to who asked as it comes.
 */
void gather(struct server *s, const struct ask *ask, Wire__Msg *msg, struct peer *only, int timeout,
            gather_fn finish);

#endif
