/*
 * What a helper process (guard.h) finds goes to the tracer as the packed message of the object; its memory
 * there is the arena's.
 */
#ifndef TRACER_PACKED_H
#define TRACER_PACKED_H

#include <protobuf-c/protobuf-c.h>

#include "tracer/ckpt.h"

#define PACKED_MAX (64u << 20)

struct packed {
    size_t len;
    uint8_t data[];
};

struct packed *packed_alloc(void); /* shared; NULL when there is no memory */
void packed_free(struct packed *p);

/* In the helper. -E2BIG */
int packed_put(struct packed *p, const ProtobufCMessage *m, struct err *err);
/* In the tracer: the message, NULL with err. */
void *packed_get(struct ckpt *c, const struct packed *p, const ProtobufCMessageDescriptor *d,
                 struct err *err);

#endif
