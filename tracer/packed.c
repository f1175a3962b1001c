/* See packed.h. */
#include "tracer/packed.h"

#include <errno.h>

#include "tracer/guard.h"

struct packed *packed_alloc(void)
{
    return guard_alloc(sizeof(struct packed) + PACKED_MAX);
}

void packed_free(struct packed *p)
{
    guard_free(p, sizeof(struct packed) + PACKED_MAX);
}

int packed_put(struct packed *p, const ProtobufCMessage *m, struct err *err)
{
    if (protobuf_c_message_get_packed_size(m) > PACKED_MAX)
        return err_set(err, E2BIG, "more waits in it than can be saved");
    p->len = protobuf_c_message_pack(m, p->data);
    return 0;
}

static void *from_arena(void *arena, size_t n)
{
    return arena_alloc(arena, n);
}

static void leave_it(void *arena, void *p)
{
}

void *packed_get(struct ckpt *c, const struct packed *p, const ProtobufCMessageDescriptor *d, struct err *err)
{
    ProtobufCAllocator in_arena = {from_arena, leave_it, c->arena};
    void *m = protobuf_c_message_unpack(d, &in_arena, p->len, p->data);

    if (!m)
        err_set(err, ENOMEM, "out of memory");
    return m;
}
