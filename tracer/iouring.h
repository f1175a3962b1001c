/* What the files about io_uring share: iouring.c (state) and iouringops.c (operations under way); and who
 * maps it. */
#ifndef TRACER_IOURING_H
#define TRACER_IOURING_H

#include "image/iouring.pb-c.h"
#include "tracer/ckpt.h"
#include "tracer/procfs.h"

/* The ring that a mapping shows; NULL with err. */
struct object *iouring_mapping_object(struct ckpt *c, struct proc *p, const struct map *m, struct err *err);

/* The kernel's own indices, of fdinfo. */
struct iouring_state {
    uint32_t sq_mask, sq_head, sq_tail, cq_mask, cq_head, cq_tail;
    uint32_t overflown; /* completions that did not fit */
};

/*
 * Find the submissions that have not completed, from the memory of the rings, and add them to m->pending.
 * Refuses what cannot be submitted again, with -EBUSY: it may end by itself.
 */
int iouring_pending(struct ckpt *c, const struct iouring_state *s, Iouring *m, struct err *err);

#endif
