/*
 * Asynchronous I/O contexts. A context is known to the program by the address of a ring that the kernel has
 * mapped for it, and the ring holds all of it but the operations under way. Those nothing tells; but they are
 * operations on files, which end soon (what could wait, the kernel does in io_submit(2) itself), so the ring
 * is watched until it does not change any more. IOCB_CMD_POLL is the exception: a poll that waits goes unseen
 * and is lost at a restart.
 */
#include "tracer/aio.h"

#include <errno.h>
#include <linux/aio_abi.h>
#include <poll.h>
#include <string.h>
#include <sys/uio.h>

#include "base/util.h"
#include "image/aio.pb-c.h"

#define AIO_MAGIC 0xa10a10a1u
#define QUIET_MS  5

extern const struct kind_ops aio_ops;

/* fs/aio.c: struct aio_ring */
struct aio_ring {
    uint32_t id, nr, head, tail, magic, compat, incompat, header_length;
};

struct object *aio_mapping_object(struct ckpt *c, struct proc *p, const struct map *m, struct err *err)
{
    struct object *o = ckpt_add_object(c, &aio_ops, (uint64_t)p->pid, m->start, NULL, 0);
    Aio *a = arena_alloc(c->arena, sizeof(*a));

    if (!o || !a) {
        err_set(err, ENOMEM, "out of memory");
        return NULL;
    }
    if (m->offset) {
        err_set(err, EOPNOTSUPP, "an asynchronous I/O ring of which a part was unmapped");
        return NULL;
    }
    aio__init(a);
    a->id = o->id;
    a->pid = p->pid;
    a->address = m->start;
    a->size = m->end - m->start;
    o->proc = p;
    o->fd = -1;
    o->msg = &a->base;
    return o;
}

static int read_memory(const struct proc *p, uint64_t addr, void *buf, size_t n, struct err *err)
{
    struct iovec here = {buf, n}, there = {(void *)(uintptr_t)addr, n};

    return process_vm_readv(p->pid, &here, 1, &there, 1, 0) == (ssize_t)n ? 0 : err_errno(err, "reading it");
}

static int read_when_quiet(struct ckpt *c, const struct object *o, Aio *m, struct err *err)
{
    struct aio_ring ring, before;
    int quiet = 0;

    if (read_memory(o->proc, m->address, &ring, sizeof(ring), err) < 0)
        return -err->code;
    if (ring.magic != AIO_MAGIC || ring.header_length != sizeof(ring))
        return err_set(err, EOPNOTSUPP, "its ring is of an unknown form");
    while (quiet < QUIET_MS) {
        before = ring;
        poll(NULL, 0, 1);
        if (read_memory(o->proc, m->address, &ring, sizeof(ring), err) < 0)
            return -err->code;
        quiet = ring.tail == before.tail ? quiet + 1 : 0;
    }
    m->ring = (ProtobufCBinaryData){m->size, arena_alloc(c->arena, m->size)};
    if (!m->ring.data)
        return err_set(err, ENOMEM, "out of memory");
    return read_memory(o->proc, m->address, m->ring.data, m->size, err);
}

static int aio_peek(struct ckpt *c, struct object *o, struct err *err)
{
    Aio *m = (Aio *)o->msg;

    if (read_when_quiet(c, o, m, err) < 0)
        return err_wrap(err, "process %d: asynchronous I/O context %#llx", m->pid,
                        (unsigned long long)m->address);
    return 0;
}

const struct kind_ops aio_ops = {
    .kind = KIND_AIO,
    .peek_receive = aio_peek,
};
