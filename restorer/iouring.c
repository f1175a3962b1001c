/*
 * io_uring. A new ring counts from zero, but the program knows its counters (and liburing keeps copies), so
 * the new ring is brought to where the old one was: by as many operations that do nothing, of which as many
 * say so as there were completions. Then what was under way is submitted again, the shared memory gets the
 * content it had, and last the ring is put and mapped where it was. A new ring takes ten million such
 * operations a second.
 *
 * It is made by a process that used it, since its operations act on that process's memory; and at the very
 * end, since a ring with a polling thread has a thread, which must not take a number that the image wants.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "base/util.h"
#include "image/iouring.pb-c.h"
#include "image/vma.h"
#include "restorer/mapat.h"
#include "restorer/restore.h"

#define REGISTER_RING_FDS 20 /* IORING_REGISTER_RING_FDS */

struct ring {
    const Iouring *m;
    struct io_uring_params p;
    struct rproc *owner;
    int number; /* in the owner, until it is where it belongs: a ring cannot be sent through a socket */
    int fd;     /* our copy */
    uint8_t *rings;
    struct io_uring_sqe *sqes;
    size_t rings_size, sqes_size;
};

static const Iouring *iouring_of(const struct robject *o)
{
    return (const Iouring *)o->msg;
}

static uint32_t *word(const struct ring *k, uint32_t offset)
{
    return (uint32_t *)(void *)(k->rings + offset);
}

static uint32_t load(const struct ring *k, uint32_t offset)
{
    return __atomic_load_n(word(k, offset), __ATOMIC_ACQUIRE);
}

static void store(const struct ring *k, uint32_t offset, uint32_t value)
{
    __atomic_store_n(word(k, offset), value, __ATOMIC_RELEASE);
}

static void close_ring(struct ring *k)
{
    if (k->rings)
        munmap(k->rings, k->rings_size);
    if (k->sqes)
        munmap(k->sqes, k->sqes_size);
    if (k->fd >= 0)
        close(k->fd);
}

static bool power_of_two(uint32_t n, uint32_t max)
{
    return n && n <= max && !(n & (n - 1));
}

static int iouring_prepare(struct restore *r, struct robject *o, struct err *err)
{
    const Iouring *m = iouring_of(o);
    struct io_uring_params p;

    if (!power_of_two(m->sq_entries, 1u << 15) || !power_of_two(m->cq_entries, 1u << 16) ||
        m->sqes.len != m->sq_entries * sizeof(struct io_uring_sqe) || m->n_pending > m->sq_entries ||
        m->offsets.len != sizeof(p.sq_off) + sizeof(p.cq_off) || m->files_slots > 1u << 15 ||
        m->buffers_slots > 1u << 14 || m->n_registered > 16 || !restore_proc(r, m->owner))
        return err_set(err, EINVAL, "io_uring: impossible sizes");
    for (size_t i = 0; i < m->n_files; i++)
        if (m->files[i]->slot >= m->files_slots || !restore_ofd(r, m->files[i]->ofd))
            return err_set(err, EINVAL, "io_uring: a registered file that is not there");
    for (size_t i = 0; i < m->n_buffers; i++)
        if (m->buffers[i]->slot >= m->buffers_slots)
            return err_set(err, EINVAL, "io_uring: a registered buffer without a slot");
    for (size_t i = 0; i < m->n_pending; i++)
        if (m->pending[i].len != sizeof(struct io_uring_sqe))
            return err_set(err, EINVAL, "io_uring: an operation of the wrong size");
    return 0;
}

static int iouring_open(struct restore *r, struct robject *o, struct rofd *d, int *fd, struct err *err)
{
    *fd = eventfd(0, EFD_CLOEXEC); /* until the end */
    return *fd < 0 ? err_errno(err, "eventfd") : 0;
}

/* ---- making it ---- */

static int setup(struct ring *k, struct err *err)
{
    const Iouring *m = k->m;
    struct io_uring_params p = {.flags = IORING_SETUP_CQSIZE, .cq_entries = m->cq_entries};
    _cleanup_batch_ struct inj_batch b = {0};
    uint32_t call;
    uint64_t at;
    int64_t ret;

    if (m->sqpoll)
        p.flags |= IORING_SETUP_SQPOLL;
    if (m->sqpoll && m->sq_cpu >= 0) {
        p.flags |= IORING_SETUP_SQ_AFF;
        p.sq_thread_cpu = (uint32_t)m->sq_cpu;
    }
    if (inj_begin(&b, &k->owner->inj, err) < 0)
        return -err->code;
    at = inj_data(&b, &p, sizeof(p));
    call = inj_call(&b, 0, SYS_io_uring_setup, m->sq_entries, at);
    if (inj_run(&b, err) < 0)
        return -err->code;
    ret = inj_ret(&b, call);
    if (inj_failed(ret))
        return err_set(err, (int)-ret, "io_uring_setup: %s", strerror((int)-ret));
    memcpy(&k->p, inj_at(&b, at), sizeof(k->p));
    k->number = (int)ret;
    k->fd = inj_get_fd(&k->owner->inj, k->number, err);
    if (k->fd < 0)
        return -err->code;
    if (memcmp(&k->p.sq_off, m->offsets.data, sizeof(k->p.sq_off)) ||
        memcmp(&k->p.cq_off, m->offsets.data + sizeof(k->p.sq_off), sizeof(k->p.cq_off)))
        return err_set(err, EOPNOTSUPP, "this kernel lays out its memory in another way");
    return 0;
}

static int map_here(struct ring *k, struct err *err)
{
    void *rings, *sqes;

    k->rings_size = k->p.sq_off.array + 4ul * k->p.sq_entries;
    k->sqes_size = sizeof(struct io_uring_sqe) * k->p.sq_entries;
    rings = mmap(NULL, k->rings_size, PROT_READ | PROT_WRITE, MAP_SHARED, k->fd, IORING_OFF_SQ_RING);
    k->rings = rings == MAP_FAILED ? NULL : rings;
    sqes = mmap(NULL, k->sqes_size, PROT_READ | PROT_WRITE, MAP_SHARED, k->fd, (off_t)IORING_OFF_SQES);
    k->sqes = sqes == MAP_FAILED ? NULL : sqes;
    if (!k->rings || !k->sqes)
        return err_errno(err, "mapping it");
    memset(k->sqes, 0, k->sqes_size);
    for (uint32_t i = 0; i < k->p.sq_entries; i++)
        *word(k, k->p.sq_off.array + 4 * i) = i;
    return 0;
}

/* ---- counting up ---- */

static int enter(struct ring *k, struct inj *remote, uint32_t n, unsigned flags, int64_t *ret,
                 struct err *err)
{
    if (!remote) {
        long r = syscall(SYS_io_uring_enter, k->fd, n, 0, flags, NULL, 0);
        *ret = r < 0 ? -errno : r;
        return 0;
    }
    return inj_syscall(remote, ret, err, SYS_io_uring_enter, (uint64_t[6]){(uint64_t)k->number, n, 0, flags});
}

/* Let the kernel take the next n entries: for us, or for the process whose files and memory they are about.
 */
static int submit(struct ring *k, uint32_t n, struct inj *remote, struct err *err)
{
    bool polled = k->p.flags & IORING_SETUP_SQPOLL;
    uint32_t tail = load(k, k->p.sq_off.tail) + n;
    int64_t ret;

    store(k, k->p.sq_off.tail, tail);
    do {
        if (enter(k, remote, n, polled ? IORING_ENTER_SQ_WAKEUP : 0, &ret, err) < 0)
            return -err->code;
        if (ret < 0 && ret != -EINTR)
            return err_set(err, (int)-ret, "io_uring_enter: %s", strerror((int)-ret));
    } while (polled && load(k, k->p.sq_off.head) != tail);
    return load(k, k->p.sq_off.head) == tail ? 0
                                             : err_set(err, EIO, "the kernel took only some of its entries");
}

/* The nth entry from the tail on, empty. */
static struct io_uring_sqe *next_sqe(struct ring *k, uint32_t n)
{
    struct io_uring_sqe *sqe = &k->sqes[(load(k, k->p.sq_off.tail) + n) & (k->p.sq_entries - 1)];

    memset(sqe, 0, sizeof(*sqe));
    return sqe;
}

static void drain(struct ring *k)
{
    store(k, k->p.cq_off.head, load(k, k->p.cq_off.tail));
}

/* `n` operations that do nothing, the first `loud` of which post a completion. */
static int count_up(struct ring *k, uint32_t n, uint32_t loud, struct err *err)
{
    while (n > 0) {
        uint32_t now = n < k->p.sq_entries ? n : k->p.sq_entries;

        for (uint32_t i = 0; i < now; i++)
            next_sqe(k, i)->flags = i < loud ? 0 : IOSQE_CQE_SKIP_SUCCESS; /* IORING_OP_NOP is 0 */
        if (submit(k, now, NULL, err) < 0)
            return -err->code;
        drain(k);
        loud -= now < loud ? now : loud;
        n -= now;
    }
    return 0;
}

/* Completions beyond one for each entry (of operations that complete several times): messages from another
 * ring. */
static int post_more(struct ring *k, uint32_t n, struct err *err)
{
    __attribute__((cleanup(close_ring))) struct ring from = {.fd = -1};

    if (n == 0)
        return 0;
    from.fd = (int)syscall(SYS_io_uring_setup, 64, &from.p);
    if (from.fd < 0)
        return err_errno(err, "io_uring_setup");
    if (map_here(&from, err) < 0)
        return -err->code;
    while (n > 0) {
        uint32_t now = n < 64 ? n : 64;

        for (uint32_t i = 0; i < now; i++) {
            struct io_uring_sqe *sqe = next_sqe(&from, i);
            sqe->opcode = IORING_OP_MSG_RING;
            sqe->fd = k->fd;
            sqe->flags = IOSQE_CQE_SKIP_SUCCESS;
        }
        if (submit(&from, now, NULL, err) < 0)
            return -err->code;
        drain(&from);
        drain(k);
        n -= now;
    }
    return load(k, k->p.cq_off.tail) == k->m->cq_tail
               ? 0
               : err_set(err, EIO, "its completions could not be counted up");
}

static int bring_up(struct ring *k, struct err *err)
{
    uint32_t n = k->m->sq_head - (uint32_t)k->m->n_pending, loud = k->m->cq_tail < n ? k->m->cq_tail : n;

    return count_up(k, n, loud, err) < 0 || post_more(k, k->m->cq_tail - loud, err) < 0 ? -err->code : 0;
}

/* ---- what is registered ---- */

static int remote_register(struct ring *k, unsigned op, const void *arg, size_t size, unsigned n,
                           const char *what, struct err *err)
{
    _cleanup_batch_ struct inj_batch b = {0};
    uint32_t call;

    if (inj_begin(&b, &k->owner->inj, err) < 0)
        return -err->code;
    call = inj_call(&b, 0, SYS_io_uring_register, k->number, op, inj_data(&b, arg, size), n);
    if (inj_run(&b, err) < 0)
        return -err->code;
    if (inj_failed(inj_ret(&b, call)))
        return err_set(err, (int)-inj_ret(&b, call), "registering its %s: %s", what,
                       strerror((int)-inj_ret(&b, call)));
    return 0;
}

static int number_in(const struct rproc *p, uint64_t ofd)
{
    for (size_t i = 0; p->fdtable && i < p->fdtable->n_fds; i++)
        if (p->fdtable->fds[i]->ofd == ofd)
            return (int)p->fdtable->fds[i]->fd;
    return -1;
}

static int register_files(struct ring *k, struct err *err)
{
    const Iouring *m = k->m;
    _cleanup_free_ int32_t *fds = malloc((m->files_slots + 1) * sizeof(*fds));

    if (!fds)
        return err_set(err, ENOMEM, "out of memory");
    for (uint32_t i = 0; i < m->files_slots; i++)
        fds[i] = -1;
    for (size_t i = 0; i < m->n_files; i++) {
        fds[m->files[i]->slot] = number_in(k->owner, m->files[i]->ofd);
        if (fds[m->files[i]->slot] < 0)
            return err_set(err, EINVAL, "a registered file that process %d does not have", k->owner->pid);
    }
    if (!m->files_slots)
        return 0;
    return remote_register(k, IORING_REGISTER_FILES, fds, m->files_slots * sizeof(*fds), m->files_slots,
                           "files", err);
}

static int register_buffers(struct ring *k, struct err *err)
{
    const Iouring *m = k->m;
    _cleanup_free_ struct iovec *iov = calloc(m->buffers_slots + 1, sizeof(*iov));

    if (!iov)
        return err_set(err, ENOMEM, "out of memory");
    for (size_t i = 0; i < m->n_buffers; i++)
        iov[m->buffers[i]->slot] =
            (struct iovec){(void *)(uintptr_t)m->buffers[i]->addr, (size_t)m->buffers[i]->len};
    if (!m->buffers_slots)
        return 0;
    return remote_register(k, IORING_REGISTER_BUFFERS, iov, m->buffers_slots * sizeof(*iov), m->buffers_slots,
                           "buffers", err);
}

/* The ring's own fd, under numbers of its own: of the main thread, which is the one that runs our calls. */
static int register_self(struct ring *k, uint64_t ofd, struct err *err)
{
    for (size_t i = 0; i < k->m->n_registered; i++) {
        struct io_uring_rsrc_update u = {.offset = k->m->registered[i]};
        int number = number_in(k->owner, ofd);

        u.data = (uint64_t)number;
        if (number < 0)
            return err_set(err, EINVAL, "process %d does not have it", k->owner->pid);
        if (remote_register(k, REGISTER_RING_FDS, &u, sizeof(u), 1, "own descriptor", err) < 0)
            return -err->code;
    }
    return 0;
}

/* ---- what was under way, and the memory ---- */

static int submit_pending(struct ring *k, struct err *err)
{
    for (size_t i = 0; i < k->m->n_pending; i++)
        memcpy(next_sqe(k, (uint32_t)i), k->m->pending[i].data, sizeof(struct io_uring_sqe));
    return k->m->n_pending ? submit(k, (uint32_t)k->m->n_pending, &k->owner->inj, err) : 0;
}

/* Completions that the program has not seen yet. Before anything new can complete. */
static int set_completions(struct ring *k, struct err *err)
{
    const uint8_t *old = k->m->rings.data;
    uint32_t head, mask = k->m->cq_entries - 1;

    if (k->m->rings.len != k->rings_size ||
        k->p.cq_off.cqes + sizeof(struct io_uring_cqe) * k->m->cq_entries > k->rings_size)
        return err_set(err, EINVAL, "its memory in the image has another size");
    memcpy(&head, old + k->p.cq_off.head, sizeof(head));
    if (k->m->cq_tail - head > k->m->cq_entries)
        return err_set(err, EINVAL, "more completions in the image than it can have");
    for (uint32_t i = head; i != k->m->cq_tail; i++) {
        size_t at = k->p.cq_off.cqes + sizeof(struct io_uring_cqe) * (i & mask);
        memcpy(k->rings + at, old + at, sizeof(struct io_uring_cqe));
    }
    memcpy(word(k, k->p.cq_off.overflow), old + k->p.cq_off.overflow, 4);
    store(k, k->p.cq_off.head, head);
    return 0;
}

/*
 * What the program has written for the kernel to take. An array without an entry belongs to a ring that was
 * made without one, where entries are taken in order: that is what the array of the new one says.
 */
static void set_submissions(struct ring *k)
{
    const uint8_t *old = k->m->rings.data;
    size_t array = 4ul * k->m->sq_entries;
    bool used = false;
    uint32_t tail;

    for (size_t i = 0; i < array; i++)
        used |= old[k->p.sq_off.array + i] != 0;
    if (used)
        memcpy(k->rings + k->p.sq_off.array, old + k->p.sq_off.array, array);
    memcpy(k->sqes, k->m->sqes.data, k->sqes_size);
    memcpy(word(k, k->p.sq_off.dropped), old + k->p.sq_off.dropped, 4);
    memcpy(&tail, old + k->p.sq_off.tail, sizeof(tail));
    store(k, k->p.sq_off.tail, tail);
}

/* ---- to where it belongs ---- */

/* A number for it in p, above all that p has; the caller's to close. */
static int obtain(struct ring *k, struct rproc *p, int *number, struct err *err)
{
    _cleanup_batch_ struct inj_batch b = {0};
    uint32_t pidfd, got;

    if (inj_begin(&b, &p->inj, err) < 0)
        return -err->code;
    if (p == k->owner) {
        got = inj_call(&b, BLOB_MUST, SYS_fcntl, k->number, F_DUPFD_CLOEXEC, 0);
    } else {
        pidfd = inj_call(&b, BLOB_MUST, SYS_pidfd_open, k->owner->pid, 0);
        got = inj_call(&b, BLOB_ARG_RET(0), SYS_pidfd_getfd, pidfd, k->number, 0);
        inj_call(&b, BLOB_ARG_RET(0), SYS_close, pidfd);
    }
    if (inj_run(&b, err) < 0 || inj_check(&b, err, "taking an io_uring over") < 0)
        return -err->code;
    *number = (int)inj_ret(&b, got);
    return *number >= 0 ? 0
                        : err_set(err, -*number, "process %d: taking it over from process %d: %s", p->pid,
                                  k->owner->pid, strerror(-*number));
}

/* Every number that p has it under, and every mapping. */
static int settle(struct rproc *p, const struct robject *o, uint64_t ofd, struct ring *k, struct err *err)
{
    _cleanup_batch_ struct inj_batch b = {0};
    int number = -1;

    if (inj_begin(&b, &p->inj, err) < 0)
        return -err->code;
    if (obtain(k, p, &number, err) < 0)
        return -err->code;
    for (size_t i = 0; p->fdtable && i < p->fdtable->n_fds; i++)
        if (p->fdtable->fds[i]->ofd == ofd)
            inj_call(&b, BLOB_MUST, SYS_dup3, number, p->fdtable->fds[i]->fd,
                     p->fdtable->fds[i]->cloexec ? O_CLOEXEC : 0);
    if (inj_run(&b, err) < 0 || inj_check(&b, err, "putting an io_uring in its place") < 0)
        return -err->code;
    for (size_t n = 0; p->mm && !p->own_mm && n < p->mm->n_vmas; n++) {
        const Vma *v = p->mm->vmas[n];

        if (v->kind == VMA_IOURING && v->object == o->id &&
            map_at(p, v->start, v->end, v->prot, number, v->offset, err) < 0)
            return -err->code;
    }
    inj_reset(&b);
    for (size_t n = 0; p->mm && !p->own_mm && n < p->mm->n_vmas; n++) {
        const Vma *v = p->mm->vmas[n];

        if (v->kind == VMA_IOURING && v->object == o->id && (v->advice & VMA_ADV_DONTFORK))
            inj_call(&b, BLOB_MUST, SYS_madvise, v->start, v->end - v->start, MADV_DONTFORK);
    }
    inj_call(&b, 0, SYS_close, number);
    return inj_run(&b, err) < 0 ? -err->code : inj_check(&b, err, "putting an io_uring in its place");
}

static bool concerns(const struct rproc *p, const struct robject *o, uint64_t ofd)
{
    bool yes = false;

    for (size_t i = 0; p->fdtable && i < p->fdtable->n_fds; i++)
        yes |= p->fdtable->fds[i]->ofd == ofd;
    for (size_t n = 0; p->mm && !p->own_mm && n < p->mm->n_vmas; n++)
        yes |= p->mm->vmas[n]->kind == VMA_IOURING && p->mm->vmas[n]->object == o->id;
    return yes && p->alive;
}

static int make(struct restore *r, struct robject *o, struct ring *k, struct err *err)
{
    struct rofd *d = r->ofds;
    int64_t ignored;

    while (d && d->object != o)
        d = d->next;
    if (!d)
        return err_set(err, EINVAL, "no descriptor leads to it");
    if (setup(k, err) < 0 || map_here(k, err) < 0 || bring_up(k, err) < 0 || register_files(k, err) < 0 ||
        register_buffers(k, err) < 0 || set_completions(k, err) < 0 || submit_pending(k, err) < 0)
        return -err->code;
    set_submissions(k);
    for (size_t i = 0; i < r->nprocs; i++)
        if (concerns(&r->procs[i], o, d->msg->id) && settle(&r->procs[i], o, d->msg->id, k, err) < 0)
            return -err->code;
    if (register_self(k, d->msg->id, err) < 0)
        return -err->code;
    return inj_syscall(&k->owner->inj, &ignored, err, SYS_close, (uint64_t[6]){(uint64_t)k->number});
}

static int iouring_last(struct restore *r, struct robject *o, struct err *err)
{
    const Iouring *m = iouring_of(o);
    __attribute__((cleanup(close_ring))) struct ring k = {
        .m = m, .fd = -1, .number = -1, .owner = restore_proc(r, m->owner)};

    return make(r, o, &k, err) < 0 ? err_wrap(err, "process %d: io_uring", m->owner) : 0;
}

const struct rebuild_ops iouring_ops = {
    .kind = KIND_IOURING,
    .descriptor = &iouring__descriptor,
    .prepare = iouring_prepare,
    .open = iouring_open,
    .last = iouring_last,
};
