/*
 * Operations of an io_uring that are under way. The kernel does not list them. But what was submitted stands
 * in the submission entries until the program uses them again, and what has completed in the completion
 * entries; what is in the first and not in the second, by user_data, is under way. That is certain if it
 * makes up the difference of the kernel's two counters; where entries were used again since, operations are
 * lost from sight, and the checkpoint is refused.
 */
#include <errno.h>
#include <linux/io_uring.h>
#include <string.h>

#include "base/util.h"
#include "tracer/iouring.h"

#ifndef IORING_CQE_F_MORE
#define IORING_CQE_F_MORE (1u << 1)
#endif

struct view {
    const struct iouring_state *s;
    struct io_sqring_offsets sq;
    struct io_cqring_offsets cq;
    const uint8_t *rings;
    const struct io_uring_sqe *sqes;
};

static uint32_t word(const uint8_t *p)
{
    uint32_t v;

    memcpy(&v, p, sizeof(v));
    return v;
}

/* An array that was never written belongs to a ring without one: entries are taken in their own order. */
static bool has_array(const struct view *v)
{
    for (uint32_t i = 0; i <= v->s->sq_mask; i++)
        if (word(v->rings + v->sq.array + 4 * i))
            return true;
    return false;
}

static const struct io_uring_sqe *sqe_at(const struct view *v, uint32_t position, bool array)
{
    uint32_t i = position & v->s->sq_mask;

    if (array)
        i = word(v->rings + v->sq.array + 4 * i) & v->s->sq_mask;
    return &v->sqes[i];
}

static void cqe_at(const struct view *v, uint32_t position, struct io_uring_cqe *out)
{
    memcpy(out, v->rings + v->cq.cqes + sizeof(*out) * (position & v->s->cq_mask), sizeof(*out));
}

/* Done again they do the same, or wait for the same. What sends is not among them: some of it may be sent. */
static bool can_repeat(uint8_t opcode)
{
    switch (opcode) {
    case IORING_OP_NOP:
    case IORING_OP_POLL_ADD:
    case IORING_OP_TIMEOUT:
    case IORING_OP_LINK_TIMEOUT:
    case IORING_OP_ACCEPT:
    case IORING_OP_READ:
    case IORING_OP_READV:
    case IORING_OP_READ_FIXED:
    case IORING_OP_RECV:
    case IORING_OP_RECVMSG:
    case IORING_OP_FSYNC:
    case IORING_OP_EPOLL_CTL:
        return true;
    default:
        return false;
    }
}

/* Entries that were taken and are not used again already, from the first to the last. */
static uint32_t window(const struct view *v)
{
    uint32_t entries = v->s->sq_mask + 1, queued = v->s->sq_tail - v->s->sq_head, taken = v->s->sq_head;

    if (queued > entries)
        queued = entries;
    return taken < entries - queued ? taken : entries - queued;
}

/* Mark the submissions that have completed: each completion stands for the oldest of its user_data. */
static void strike_out(const struct view *v, const struct io_uring_sqe *const *sqe, bool *done, uint32_t n)
{
    uint32_t seen = v->s->cq_tail <= v->s->cq_mask ? v->s->cq_tail : v->s->cq_mask + 1;

    for (uint32_t k = v->s->cq_tail - seen; k != v->s->cq_tail; k++) {
        struct io_uring_cqe cqe;

        cqe_at(v, k, &cqe);
        if (cqe.flags & IORING_CQE_F_MORE)
            continue;
        for (uint32_t i = 0; i < n; i++)
            if (!done[i] && sqe[i]->user_data == cqe.user_data) {
                done[i] = true;
                break;
            }
    }
}

static int keep(struct ckpt *c, const struct io_uring_sqe *sqe, Iouring *m, struct err *err)
{
    ProtobufCBinaryData *more = arena_alloc(c->arena, (m->n_pending + 1) * sizeof(*more));

    if (!can_repeat(sqe->opcode))
        return err_set(err, EBUSY,
                       "operation %u (user_data %#llx) is under way, and cannot be started again",
                       sqe->opcode, (unsigned long long)sqe->user_data);
    if (!more)
        return err_set(err, ENOMEM, "out of memory");
    if (m->n_pending)
        memcpy(more, m->pending, m->n_pending * sizeof(*more));
    more[m->n_pending++] = arena_bytes(c->arena, sqe, sizeof(*sqe));
    m->pending = more;
    return 0;
}

int iouring_pending(struct ckpt *c, const struct iouring_state *s, Iouring *m, struct err *err)
{
    struct view v = {
        .s = s, .rings = m->rings.data, .sqes = (const struct io_uring_sqe *)(const void *)m->sqes.data};
    uint32_t under_way = s->sq_head - s->cq_tail, n, left = 0, silent = 0;

    memcpy(&v.sq, m->offsets.data, sizeof(v.sq));
    memcpy(&v.cq, m->offsets.data + sizeof(v.sq), sizeof(v.cq));
    n = window(&v);
    const struct io_uring_sqe **sqe = arena_alloc(c->arena, (n + 1) * sizeof(*sqe));
    bool *done = arena_alloc(c->arena, n + 1), array = has_array(&v);
    if (!sqe || !done)
        return err_set(err, ENOMEM, "out of memory");
    for (uint32_t i = 0; i < n; i++)
        sqe[i] = sqe_at(&v, s->sq_head - n + i, array);
    strike_out(&v, sqe, done, n);
    for (uint32_t i = 0; i < n; i++) {
        /* Without a completion when it succeeds: nothing tells whether it has. */
        if (!done[i] && (sqe[i]->flags & IOSQE_CQE_SKIP_SUCCESS))
            done[i] = true, silent++;
        left += !done[i];
    }
    /* Several completions for one submission, or none: then the counters say nothing, but what was seen does.
     */
    if (under_way != left && !silent && (int32_t)under_way > (int32_t)left)
        return err_set(
            err, EBUSY,
            "%u operations are under way, of which %u are not to be found among its entries any more",
            under_way, under_way - left);
    /* More than are under way: the oldest have completed, and their completions are out of sight. */
    for (uint32_t i = 0; i < n && (int32_t)under_way >= 0 && left > under_way; i++)
        if (!done[i])
            done[i] = true, left--;
    for (uint32_t i = 0; i < n; i++)
        if (!done[i] && keep(c, sqe[i], m, err) < 0)
            return -err->code;
    return 0;
}
