/*
 * Asynchronous I/O contexts. A new one is made in the process and its ring moved to where the old one was,
 * which moves the context with it (fs/aio.c: aio_ring_mremap). Its tail, which the kernel counts for itself,
 * is brought to where it was by reads of /dev/null; then events that the program has not fetched are put in
 * their places.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "base/util.h"
#include "image/aio.pb-c.h"
#include "restorer/restore.h"

#define AIO_MAGIC 0xa10a10a1u
#define ROUND     64u /* events that are counted up at once, at most */

/* fs/aio.c: struct aio_ring */
struct aio_ring {
    uint32_t id, nr, head, tail, magic, compat, incompat, header_length;
};

static const Aio *aio_of(const struct robject *o)
{
    return (const Aio *)o->msg;
}

static void old_ring(const Aio *m, struct aio_ring *ring)
{
    memcpy(ring, m->ring.data, sizeof(*ring));
}

static int aio_prepare(struct restore *r, struct robject *o, struct err *err)
{
    const Aio *m = aio_of(o);
    struct aio_ring ring;

    if (m->ring.len < sizeof(ring) || m->ring.len != m->size || !restore_proc(r, m->pid))
        return err_set(err, EINVAL, "an asynchronous I/O context of impossible size");
    old_ring(m, &ring);
    if (ring.magic != AIO_MAGIC || ring.nr < 4 ||
        sizeof(ring) + (uint64_t)ring.nr * sizeof(struct io_event) > m->size || ring.head >= ring.nr ||
        ring.tail >= ring.nr)
        return err_set(err, EINVAL, "an asynchronous I/O context with an impossible ring");
    return 0;
}

/* io_setup doubles what it is asked for and adds two, then rounds up to pages (fs/aio.c). */
static int setup(struct rproc *p, const Aio *m, const struct aio_ring *old, uint64_t *at, struct err *err)
{
    _cleanup_batch_ struct inj_batch b = {0};
    aio_context_t ctx = 0;
    uint64_t where;
    uint32_t call;

    if (inj_begin(&b, &p->inj, err) < 0)
        return -err->code;
    where = inj_data(&b, &ctx, sizeof(ctx));
    call = inj_call(&b, 0, SYS_io_setup, (old->nr - 2) / 2, where);
    if (inj_run(&b, err) < 0)
        return -err->code;
    if (inj_failed(inj_ret(&b, call)))
        return err_set(err, (int)-inj_ret(&b, call), "io_setup: %s", strerror((int)-inj_ret(&b, call)));
    memcpy(&ctx, inj_at(&b, where), sizeof(ctx));
    *at = ctx;
    return 0;
}

static int transfer(struct rproc *p, uint64_t addr, void *buf, size_t n, bool write, struct err *err)
{
    struct iovec here = {buf, n}, there = {(void *)(uintptr_t)addr, n};
    ssize_t r = write ? process_vm_writev(p->host_pid, &here, 1, &there, 1, 0)
                      : process_vm_readv(p->host_pid, &here, 1, &there, 1, 0);

    return r == (ssize_t)n ? 0 : err_errno(err, "its ring");
}

/* `n` reads of /dev/null, each with an event. They are done when io_submit returns. */
static int read_null(struct inj_batch *b, uint64_t ctx, int64_t fd, uint32_t n, struct err *err)
{
    struct iocb cb = {.aio_lio_opcode = IOCB_CMD_PREAD, .aio_fildes = (uint32_t)fd};
    uint64_t list[ROUND], at;
    uint32_t call;

    inj_reset(b);
    at = inj_data(b, &cb, sizeof(cb));
    for (uint32_t i = 0; i < n; i++)
        list[i] = at;
    call = inj_call(b, 0, SYS_io_submit, ctx, n, inj_data(b, list, n * sizeof(list[0])));
    if (inj_run(b, err) < 0)
        return -err->code;
    return inj_ret(b, call) == n ? 0 : err_set(err, EIO, "its events cannot be counted up");
}

static int put_head(struct rproc *p, const Aio *m, uint32_t head, struct err *err)
{
    return transfer(p, m->address + offsetof(struct aio_ring, head), &head, sizeof(head), true, err);
}

/*
 * As many events as the ring had, and of those only the ones that the program has not fetched stay: each
 * takes a request of those that may be under way until it is fetched. And the kernel gives requests to each
 * CPU in batches, so that never all can be had (fs/aio.c: get_reqs_available). So what counts as fetched
 * follows in small steps.
 */
static int count_up(struct rproc *p, const Aio *m, const struct aio_ring *old, struct err *err)
{
    const uint32_t unread = (old->tail + old->nr - old->head) % old->nr;
    const uint32_t fetched = old->tail + (old->tail < unread ? old->nr : 0) - unread;
    const uint32_t round = old->nr / 4 < ROUND ? old->nr / 4 : ROUND;
    _cleanup_batch_ struct inj_batch b = {0};
    uint32_t open_call, now;
    int64_t fd;

    if (inj_begin(&b, &p->inj, err) < 0)
        return -err->code;
    open_call = inj_call(&b, BLOB_MUST, SYS_openat, AT_FDCWD, inj_str(&b, "/dev/null"), O_RDONLY | O_CLOEXEC);
    if (inj_run(&b, err) < 0 || inj_check(&b, err, "/dev/null") < 0)
        return -err->code;
    fd = inj_ret(&b, open_call);
    for (uint32_t done = 0; done < fetched + unread; done += now) {
        uint32_t left = done < fetched ? fetched - done : fetched + unread - done;
        now = left < round ? left : round;
        if (done <= fetched && put_head(p, m, done % old->nr, err) < 0)
            return -err->code;
        if (read_null(&b, m->address, fd, now, err) < 0)
            return -err->code;
    }
    inj_reset(&b);
    inj_call(&b, 0, SYS_close, fd);
    return inj_run(&b, err);
}

static int move(struct rproc *p, const Aio *m, uint64_t from, struct err *err)
{
    int64_t ret;

    if (from == m->address)
        return 0;
    if (inj_syscall(&p->inj, &ret, err, SYS_mremap,
                    (uint64_t[6]){from, m->size, m->size, MREMAP_MAYMOVE | MREMAP_FIXED, m->address}) < 0)
        return -err->code;
    return inj_failed(ret) ? err_set(err, (int)-ret, "moving its ring: %s", strerror((int)-ret)) : 0;
}

static int make(struct rproc *p, const Aio *m, struct err *err)
{
    struct aio_ring old, now;
    uint64_t at = 0;

    old_ring(m, &old);
    if (setup(p, m, &old, &at, err) < 0 || transfer(p, at, &now, sizeof(now), false, err) < 0)
        return -err->code;
    if (now.nr != old.nr)
        return err_set(err, EOPNOTSUPP, "on this machine it has room for %u events instead of %u", now.nr,
                       old.nr);
    if (move(p, m, at, err) < 0 || count_up(p, m, &old, err) < 0)
        return -err->code;
    /* Behind the header everything, and in it the head, which is the program's. */
    if (transfer(p, m->address + sizeof(old), m->ring.data + sizeof(old), m->size - sizeof(old), true, err) <
        0)
        return -err->code;
    return put_head(p, m, old.head, err);
}

static int aio_arm(struct restore *r, struct robject *o, struct err *err)
{
    const Aio *m = aio_of(o);

    if (make(restore_proc(r, m->pid), m, err) < 0)
        return err_wrap(err, "process %d: asynchronous I/O context %#llx", m->pid,
                        (unsigned long long)m->address);
    return 0;
}

const struct rebuild_ops aio_ops = {
    .kind = KIND_AIO,
    .descriptor = &aio__descriptor,
    .prepare = aio_prepare,
    .arm = aio_arm,
};
