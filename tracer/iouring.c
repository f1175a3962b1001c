/*
 * io_uring. All of a ring's state that a program can see is memory that it shares with the kernel, read
 * through a mapping of the tracer's own; fdinfo tells the kernel's indices and what is registered, and
 * iouringops.c finds the operations that are under way. Nothing is taken or cancelled. What nothing tells is
 * refused where it can be noticed: an eventfd, provided buffers, a ring in the program's own memory. Flags of
 * io_uring_setup(2) that only make a ring faster are not known and not restored.
 */
#include "tracer/iouring.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <time.h>

#include "base/util.h"
#include "tracer/fdinfo.h"

#define LINK                 "anon_inode:[io_uring]"
#define ENTER_REGISTERED     (1u << 4) /* IORING_ENTER_REGISTERED_RING */
#define REGISTER_PBUF_STATUS 26
#define SETTLE_MS            4   /* operations that are not done by then wait for something, */
#define SETTLE_LONG_MS       400 /* or are writes to a slow disk, which are waited for */

extern const struct kind_ops iouring_ops;

struct ring {
    int fd; /* in o->proc; -1: none seen yet */
};

static bool iouring_probe(const struct fd_info *fi)
{
    return !strcmp(fi->link, LINK);
}

static int make(struct ckpt *c, struct object *o, struct err *err)
{
    struct ring *k = arena_alloc(c->arena, sizeof(*k));
    Iouring *m = arena_alloc(c->arena, sizeof(*m));

    if (!k || !m)
        return err_set(err, ENOMEM, "out of memory");
    iouring__init(m);
    m->id = o->id;
    k->fd = -1;
    o->msg = &m->base;
    o->priv = k;
    return 0;
}

static int iouring_collect(struct ckpt *c, const struct fd_info *fi, struct object *o, struct err *err)
{
    return make(c, o, err);
}

static int iouring_describe(struct ckpt *c, const struct fd_info *fi, struct ofd *d, struct err *err)
{
    struct ring *k = d->object->priv;

    if (k->fd < 0) {
        k->fd = fi->fd;
        d->object->proc = fi->proc;
        d->object->fd = fi->fd;
    }
    return 0;
}

struct object *iouring_mapping_object(struct ckpt *c, struct proc *p, const struct map *m, struct err *err)
{
    dev_t dev = makedev(m->major, m->minor);
    struct object *o = ckpt_find_object(c, &iouring_ops, dev, m->ino, NULL, 0);

    if (o)
        return o;
    o = ckpt_add_object(c, &iouring_ops, dev, m->ino, NULL, 0);
    if (!o) {
        err_set(err, ENOMEM, "out of memory");
        return NULL;
    }
    o->proc = p;
    o->fd = -1;
    return make(c, o, err) < 0 ? NULL : o;
}

/* ---- fdinfo ---- */

static uint32_t number(const char *text, const char *key)
{
    const char *p = fdinfo_find(text, key);

    return p ? (uint32_t)strtoul(p, NULL, 0) : 0;
}

static bool has_entries(const char *text, const char *key)
{
    const char *p = fdinfo_find(text, key), *line = p ? strchr(p, '\n') : NULL;

    return line && line[1] == ' ';
}

static int read_state(const struct object *o, char **text, struct iouring_state *s, struct err *err)
{
    struct ring *k = o->priv;
    const char *p;

    free(*text);
    *text = NULL;
    if (read_proc(text, NULL, err, "%d/task/%d/fdinfo/%d", o->proc->pid, ckpt_fd_task(o->proc), k->fd) < 0)
        return -err->code;
    *s = (struct iouring_state){
        number(*text, "SqMask"),
        number(*text, "CachedSqHead"),
        number(*text, "SqTail"),
        number(*text, "CqMask"),
        number(*text, "CqHead"),
        number(*text, "CachedCqTail"),
        0,
    };
    if (!fdinfo_find(*text, "CachedSqHead") || s->sq_mask > 1u << 20 || s->cq_mask > 1u << 21)
        return err_set(err, EOPNOTSUPP, "its state is not told by this kernel (fdinfo)");
    p = fdinfo_find(*text, "CqOverflowList");
    for (p = p ? strchr(p, '\n') : NULL; p && p[1] == ' '; p = strchr(p + 1, '\n'))
        s->overflown++;
    return 0;
}

/* The submitter's own work: with IORING_SETUP_DEFER_TASKRUN completions are posted only when it asks for
 * them. */
static int run_deferred(const struct object *o, struct err *err)
{
    int64_t ignored;

    return inj_syscall(&o->proc->inj, &ignored, err, SYS_io_uring_enter,
                       (uint64_t[6]){(uint64_t)((struct ring *)o->priv)->fd, 0, 0, IORING_ENTER_GETEVENTS});
}

/* Wait for file operations to end: until nothing is under way, or nothing ends any more. */
static int settle(const struct object *o, char **text, struct iouring_state *s, int patience, struct err *err)
{
    uint32_t before;
    int quiet = 0;

    if (run_deferred(o, err) < 0 || read_state(o, text, s, err) < 0)
        return -err->code;
    while (s->sq_head != s->cq_tail && quiet < patience) {
        before = s->cq_tail;
        poll(NULL, 0, 1);
        if (read_state(o, text, s, err) < 0)
            return -err->code;
        quiet = s->cq_tail == before ? quiet + 1 : 0;
    }
    return 0;
}

/* ---- memory ---- */

/* The layout of a ring of this size, which this kernel tells for one of our own. */
static int layout(const struct iouring_state *s, struct io_uring_params *p, struct err *err)
{
    *p = (struct io_uring_params){.flags = IORING_SETUP_CQSIZE, .cq_entries = s->cq_mask + 1};
    _cleanup_close_ int fd = (int)syscall(SYS_io_uring_setup, s->sq_mask + 1, p);

    return fd < 0 ? err_errno(err, "io_uring_setup, to learn the layout of a ring") : 0;
}

/* Through a system call, since memory behind the end of what the ring has would be a fault. */
static int copy_region(struct ckpt *c, int fd, uint64_t offset, size_t size, ProtobufCBinaryData *out,
                       struct err *err)
{
    size_t whole = (size + 4095) & ~(size_t)4095, got = 0;
    uint8_t *at = mmap(NULL, whole, PROT_READ, MAP_SHARED, fd, (off_t)offset);

    if (at == MAP_FAILED)
        return err_errno(err, "mapping it");
    *out = (ProtobufCBinaryData){size, arena_alloc(c->arena, whole)};
    while (out->data && got < size) {
        size_t n = size - got < 4096 ? size - got : 4096;
        if (process_vm_readv(getpid(), &(struct iovec){out->data + got, n}, 1, &(struct iovec){at + got, n},
                             1, 0) != (ssize_t)n)
            break; /* a ring without a submission array is shorter: zeros */
        got += n;
    }
    munmap(at, whole);
    if (!out->data)
        return err_set(err, ENOMEM, "out of memory");
    return got ? 0 : err_set(err, EOPNOTSUPP, "its memory is the program's own (IORING_SETUP_NO_MMAP)");
}

static int copy_memory(struct ckpt *c, int fd, const struct iouring_state *s, Iouring *m, struct err *err)
{
    struct io_uring_params p;
    uint8_t offsets[sizeof(p.sq_off) + sizeof(p.cq_off)];

    if (layout(s, &p, err) < 0)
        return -err->code;
    memcpy(offsets, &p.sq_off, sizeof(p.sq_off));
    memcpy(offsets + sizeof(p.sq_off), &p.cq_off, sizeof(p.cq_off));
    m->offsets = arena_bytes(c->arena, offsets, sizeof(offsets));
    if (copy_region(c, fd, IORING_OFF_SQ_RING, p.sq_off.array + 4ul * (s->sq_mask + 1), &m->rings, err) < 0)
        return -err->code;
    return copy_region(c, fd, IORING_OFF_SQES, sizeof(struct io_uring_sqe) * (s->sq_mask + 1ul), &m->sqes,
                       err);
}

/* ---- what is registered ---- */

/* The description whose link reads like the registered file's. Two ends of a pipe do: then nothing tells
 * which. */
static struct ofd *find_file(struct ckpt *c, struct object *o, const char *text, size_t len, struct err *err)
{
    struct proc *p = o->proc->files_proc ? o->proc->files_proc : o->proc;
    struct ofd *found = NULL;
    char link[64];

    for (size_t i = 0; i < p->fdtable->n_fds; i++) {
        snprintf(link, sizeof(link), "/proc/%d/task/%d/fd/%u", p->pid, ckpt_fd_task(p),
                 p->fdtable->fds[i]->fd);
        _cleanup_free_ char *to = readlink_dup(link);
        if (!to || strlen(to) != len || memcmp(to, text, len) || found == p->ofds[i])
            continue;
        if (found) {
            err_set(err, EOPNOTSUPP, "which open file its registered file %.*s is cannot be told", (int)len,
                    text);
            return NULL;
        }
        found = p->ofds[i];
    }
    if (!found)
        err_set(err, EOPNOTSUPP, "its registered file %.*s is open nowhere else", (int)len, text);
    return found;
}

static int collect_files(struct ckpt *c, struct object *o, const char *text, Iouring *m, struct err *err)
{
    const char *p = fdinfo_find(text, "UserFiles"), *line = p ? strchr(p, '\n') : NULL;

    m->files_slots = p ? (uint32_t)strtoul(p, NULL, 10) : 0;
    for (; line && line[1] == ' '; line = strchr(line + 1, '\n')) {
        unsigned slot;
        int at = 0;
        if (sscanf(line + 1, " %u: %n", &slot, &at) != 1 || !at)
            return err_set(err, EPROTO, "registered files that fdinfo describes unintelligibly");
        const char *name = line + 1 + at;
        struct ofd *d = find_file(c, o, name, strcspn(name, "\n"), err);
        IouringFile *f = arena_alloc(c->arena, sizeof(*f));
        if (!d || !f)
            return d ? err_set(err, ENOMEM, "out of memory") : -err->code;
        iouring_file__init(f);
        f->slot = slot;
        f->ofd = d->msg->id;
        arena_push(c->arena, (void ***)&m->files, &m->n_files, f);
    }
    return 0;
}

static int collect_buffers(struct ckpt *c, const char *text, Iouring *m, struct err *err)
{
    const char *p = fdinfo_find(text, "UserBufs"), *line = p ? strchr(p, '\n') : NULL;

    m->buffers_slots = p ? (uint32_t)strtoul(p, NULL, 10) : 0;
    for (; line && line[1] == ' '; line = strchr(line + 1, '\n')) {
        unsigned long long addr, len;
        unsigned slot;
        IouringBuffer *b = arena_alloc(c->arena, sizeof(*b));
        if (!b)
            return err_set(err, ENOMEM, "out of memory");
        if (strstr(line + 1, "<none>") && strstr(line + 1, "<none>") < line + 1 + strcspn(line + 1, "\n"))
            continue;
        if (sscanf(line + 1, " %u: %llx/%llu", &slot, &addr, &len) != 3)
            return err_set(err, EPROTO, "registered buffers that fdinfo describes unintelligibly");
        iouring_buffer__init(b);
        b->slot = slot;
        b->addr = addr;
        b->len = len;
        arena_push(c->arena, (void ***)&m->buffers, &m->n_buffers, b);
    }
    return 0;
}

/* What no call tells but can be noticed. A ring for one task only (SINGLE_ISSUER) does not even let us ask.
 */
static int refuse_unseen(int fd, const char *text, const struct iouring_state *s, struct err *err)
{
    _cleanup_close_ int event = eventfd(0, EFD_CLOEXEC);

    if (s->overflown)
        return err_set(err, EOPNOTSUPP, "it has more completions than fit into its queue");
    if (has_entries(text, "Personalities"))
        return err_set(err, EOPNOTSUPP, "it has registered credentials (personalities)");
    if (syscall(SYS_io_uring_register, fd, IORING_REGISTER_EVENTFD, &event, 1) == 0)
        syscall(SYS_io_uring_register, fd, IORING_UNREGISTER_EVENTFD, NULL, 0);
    else if (errno == EBUSY)
        return err_set(err, EOPNOTSUPP, "it has a registered eventfd, and nothing tells which");
    else if (errno == EEXIST)
        return 0;
    for (uint32_t group = 0; group < 65536; group++) {
        uint32_t status[10] = {group};
        if (syscall(SYS_io_uring_register, fd, REGISTER_PBUF_STATUS, status, 1) == 0)
            return err_set(err, EOPNOTSUPP, "it has provided buffers (group %u), and nothing tells where",
                           group);
        if (errno == EINVAL && group == 0)
            return 0; /* not known to this kernel */
    }
    return 0;
}

/* Numbers under which the main thread has registered the ring's fd: io_uring_register_ring_fd(3). */
static int collect_registered(struct ckpt *c, struct object *o, Iouring *m, struct err *err)
{
    enum { MOST = 16 }; /* IO_RINGFD_REG_MAX */
    _cleanup_batch_ struct inj_batch b = {0};
    uint32_t call[MOST], *list = arena_alloc(c->arena, MOST * sizeof(*list));
    size_t rings = 0;

    if (!list)
        return err_set(err, ENOMEM, "out of memory");
    if (inj_begin(&b, &o->proc->inj, err) < 0)
        return -err->code;
    for (uint32_t i = 0; i < MOST; i++)
        call[i] = inj_call(&b, 0, SYS_io_uring_enter, i, 0, 0, ENTER_REGISTERED);
    if (inj_run(&b, err) < 0)
        return -err->code;
    m->registered = list;
    for (uint32_t i = 0; i < MOST; i++)
        if (inj_ret(&b, call[i]) == 0)
            list[m->n_registered++] = i;
    for (struct object *other = c->objects; other; other = other->next)
        rings += other->ops == &iouring_ops && other->proc == o->proc;
    if (m->n_registered && rings > 1)
        return err_set(
            err, EOPNOTSUPP,
            "it or another ring of the process has its descriptor registered, and nothing tells which");
    return 0;
}

static void keep_state(const char *text, const struct iouring_state *s, Iouring *m)
{
    m->sq_entries = s->sq_mask + 1;
    m->cq_entries = s->cq_mask + 1;
    m->sqpoll = fdinfo_find(text, "SqThread") && (int32_t)number(text, "SqThread") >= 0;
    m->sq_cpu = m->sqpoll ? (int32_t)number(text, "SqThreadCpu") : -1;
    m->sq_head = s->sq_head;
    m->cq_tail = s->cq_tail;
}

/* Indices, memory and what is under way, which belong together. -EBUSY: something is that had better end
 * first. */
static int look(struct ckpt *c, struct object *o, int fd, char **text, int patience, struct err *err)
{
    Iouring *m = (Iouring *)o->msg;
    struct iouring_state s;

    if (settle(o, text, &s, patience, err) < 0)
        return -err->code;
    keep_state(*text, &s, m);
    m->n_pending = 0;
    if (refuse_unseen(fd, *text, &s, err) < 0 || copy_memory(c, fd, &s, m, err) < 0)
        return -err->code;
    return iouring_pending(c, &s, m, err);
}

static int collect_ring(struct ckpt *c, struct object *o, struct err *err)
{
    const struct ring *k = o->priv;
    Iouring *m = (Iouring *)o->msg;
    _cleanup_free_ char *text = NULL;
    int r;

    if (k->fd < 0)
        return err_set(err, EOPNOTSUPP, "it is mapped, but no descriptor leads to it any more");
    _cleanup_close_ int fd = ckpt_get_fd(o->proc, k->fd, err);
    if (fd < 0)
        return fd;
    m->owner = o->proc->pid;
    r = look(c, o, fd, &text, SETTLE_MS, err);
    if (r == -EBUSY)
        r = look(c, o, fd, &text, SETTLE_LONG_MS, err);
    if (r < 0 || collect_files(c, o, text, m, err) < 0 || collect_buffers(c, text, m, err) < 0)
        return -err->code;
    return collect_registered(c, o, m, err);
}

/* In the last phase: what other kinds do while they look may complete operations. */
static int iouring_peek(struct ckpt *c, struct object *o, struct err *err)
{
    if (collect_ring(c, o, err) < 0)
        return err_wrap(err, "process %d: fd %d: io_uring", o->proc->pid, o->fd);
    return 0;
}

const struct kind_ops iouring_ops = {
    .kind = KIND_IOURING,
    .probe = iouring_probe,
    .collect = iouring_collect,
    .describe = iouring_describe,
    .peek_receive = iouring_peek,
};
