/* What leads out of the tree and is replaced by a standard stream of dmtcp_restart. */
#ifndef TRACER_OUTSIDE_H
#define TRACER_OUTSIDE_H

#include "tracer/ckpt.h"

#define OUTSIDE_PIPE   1u /* Outside.type */
#define OUTSIDE_SOCKET 2u

extern const struct kind_ops outside_ops;

/*
 * Make the object, whose kind has found out that it leads outside, one of that kind. `stream` stands in for
 * it; `streams` as in struct fd_info.
 */
int outside_become(struct ckpt *c, struct object *o, uint32_t type, int stream, uint32_t streams,
                   struct err *err);

#endif
