/*
 * System V shared memory, semaphores and message queues. All of it can be looked at without being changed:
 * message queues by MSG_COPY, shared memory through the mappings of the processes; only a segment that nobody
 * has attached is attached by the tracer to be read (its shm_atime and shm_lpid show that). What no call
 * tells is SEM_UNDO: sysvsem.c.
 */
#include "tracer/sysv.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <time.h>
#include <unistd.h>

#include "base/util.h"
#include "image/sysv.h"
#include "tracer/content.h"

#ifndef MSG_COPY
#define MSG_COPY 040000
#endif
#define PAGE   4096u
#define SECOND 1000000000ll

extern const struct kind_ops sysv_ops;

struct sysv {
    struct content content;
    bool attached; /* by a process of the tree */
};

union semun {
    int val;
    struct semid_ds *buf;
    unsigned short *array;
    struct seminfo *info;
};

/* What decides whether it is the tree's. Its time is in whole seconds. */
struct usage {
    const struct ipc_perm *perm;
    time_t ctime;
    pid_t pids[2];
};

struct object *sysv_add(struct ckpt *c, uint32_t type, int ipc_id, struct err *err)
{
    struct object *o = ckpt_find_object(c, &sysv_ops, type, (uint64_t)ipc_id, NULL, 0);
    struct sysv *k = arena_alloc(c->arena, sizeof(*k));
    Sysv *m = arena_alloc(c->arena, sizeof(*m));

    if (o)
        return o;
    o = k && m ? ckpt_add_object(c, &sysv_ops, type, (uint64_t)ipc_id, NULL, 0) : NULL;
    if (!o) {
        err_set(err, ENOMEM, "out of memory");
        return NULL;
    }
    sysv__init(m);
    m->id = o->id;
    m->type = type;
    m->ipc_id = ipc_id;
    k->content.fd = -1;
    o->msg = &m->base;
    o->priv = k;
    o->proc = c->procs[0];
    o->fd = -1;
    return o;
}

static bool same_namespace(const struct proc *p)
{
    char path[48];
    struct stat a, b;

    snprintf(path, sizeof(path), "/proc/%d/ns/ipc", p->pid);
    return stat(path, &a) == 0 && stat("/proc/self/ns/ipc", &b) == 0 && a.st_ino == b.st_ino;
}

/* The inode number of such a mapping is the segment's id (ipc/shm.c: shm_mmap and newseg). */
struct object *sysv_mapping_object(struct ckpt *c, struct proc *p, const struct map *m, struct err *err)
{
    struct object *o;
    struct sysv *k;

    if (!same_namespace(p)) {
        err_set(err, EOPNOTSUPP, "System V shared memory in an IPC namespace that is not the tracer's");
        return NULL;
    }
    o = sysv_add(c, SYSV_SHM, (int)m->ino, err);
    if (!o)
        return NULL;
    if (m->page_size > PAGE)
        ((Sysv *)o->msg)->huge_size = m->page_size;
    k = o->priv;
    if (!k->attached)
        o->proc = p;
    k->attached = true;
    return content_extent(c, &k->content, p, m->start, m->end, m->offset, err) < 0 ? NULL : o;
}

/* ---- whose is it? ---- */

static bool owner_in_tree(const struct ckpt *c, const struct ipc_perm *perm)
{
    for (size_t i = 0; i < c->nprocs; i++) {
        const Process *p = c->procs[i]->process;
        for (size_t k = 0; p && k < p->n_uids; k++)
            if (p->uids[k] == perm->cuid)
                return true;
    }
    return false;
}

/*
 * The second in which the tree began. A tick earlier: the kernel takes the time of an object from a clock
 * that is set by the timer interrupt (ktime_get_real_seconds).
 */
static time_t tree_start(const struct ckpt *c)
{
    int64_t first = INT64_MAX, tick = SECOND / sysconf(_SC_CLK_TCK);
    struct timespec boot, real;

    for (size_t i = 0; i < c->nprocs; i++)
        if (c->procs[i]->process && (int64_t)c->procs[i]->process->start_time_ns < first)
            first = (int64_t)c->procs[i]->process->start_time_ns;
    clock_gettime(CLOCK_BOOTTIME, &boot);
    clock_gettime(CLOCK_REALTIME, &real);
    /* With their fractions: whole seconds alone can say that the tree began after what it made at once. */
    return (time_t)(((real.tv_sec - boot.tv_sec) * SECOND + real.tv_nsec - boot.tv_nsec + first - tick) /
                    SECOND);
}

static bool is_ours(const struct ckpt *c, const struct usage *u)
{
    bool others = false;

    for (size_t i = 0; i < ARRAY_SIZE(u->pids); i++) {
        /* This very process made it, when it restored the tree. */
        if (u->pids[i] > 0 && (u->pids[i] == getpid() || ckpt_find_proc(c, u->pids[i])))
            return true;
        others |= u->pids[i] > 0 && (kill(u->pids[i], 0) == 0 || errno == EPERM);
    }
    return !others && owner_in_tree(c, u->perm) && u->ctime >= tree_start(c);
}

static void keep_perm(Sysv *m, const struct ipc_perm *perm, time_t ctime)
{
    m->key = perm->__key;
    m->uid = perm->uid;
    m->gid = perm->gid;
    m->cuid = perm->cuid;
    m->cgid = perm->cgid;
    m->mode = perm->mode & 0777;
    m->ctime = ctime;
}

static int failed(const Sysv *m, const char *what, struct err *err)
{
    err_errno(err, "%s", what);
    return err_wrap(err, "System V %s %d",
                    m->type == SYSV_SHM   ? "shared memory"
                    : m->type == SYSV_SEM ? "semaphores"
                                          : "message queue",
                    m->ipc_id);
}

/* ---- shared memory ---- */

/* No call tells the size of its pages, a mapping does. */
static int find_page_size(Sysv *m, struct err *err)
{
    void *p = shmat(m->ipc_id, NULL, SHM_RDONLY);
    struct map *maps = NULL;
    size_t n = 0;

    if (p == (void *)-1)
        return failed(m, "attaching it to look at it", err);
    if (read_maps(getpid(), &maps, &n, err) == 0)
        for (size_t i = 0; i < n; i++)
            if (maps[i].start == (uint64_t)p && maps[i].page_size > PAGE)
                m->huge_size = maps[i].page_size;
    maps_free(maps, n);
    shmdt(p);
    return maps ? 0 : -err->code;
}

static int collect_shm(struct ckpt *c, int id, const struct shmid_ds *d, struct err *err)
{
    struct object *o = sysv_add(c, SYSV_SHM, id, err);
    Sysv *m = o ? (Sysv *)o->msg : NULL;

    if (!o || (!((struct sysv *)o->priv)->attached && find_page_size(m, err) < 0))
        return -err->code;
    keep_perm(m, &d->shm_perm, d->shm_ctime);
    m->size = d->shm_segsz;
    m->dest = d->shm_perm.mode & SHM_DEST;
    m->locked = d->shm_perm.mode & SHM_LOCKED;
    return 0;
}

static int each_shm(struct ckpt *c, struct err *err)
{
    struct shmid_ds d;
    int top = shmctl(0, SHM_INFO, &d);

    for (int i = 0; i <= top; i++) {
        int id = shmctl(i, SHM_STAT_ANY, &d);
        struct usage u = {&d.shm_perm, d.shm_ctime, {d.shm_cpid, d.shm_lpid}};

        if (id < 0)
            continue;
        /* Attached by others only: not the tree's, whoever made it. */
        if (!ckpt_find_object(c, &sysv_ops, SYSV_SHM, (uint64_t)id, NULL, 0) &&
            (d.shm_nattch > 0 || !is_ours(c, &u)))
            continue;
        if (collect_shm(c, id, &d, err) < 0)
            return -err->code;
    }
    return 0;
}

static bool all_zero(const uint8_t *p, size_t n)
{
    return n == 0 || (p[0] == 0 && !memcmp(p, p + 1, n - 1));
}

static int write_detached(const Sysv *m, uint64_t space, struct image_writer *w, struct err *err)
{
    const uint8_t *p = shmat(m->ipc_id, NULL, SHM_RDONLY);
    uint64_t size = (m->size + PAGE - 1) / PAGE * PAGE;
    int r = 0;

    if (p == (void *)-1)
        return failed(m, "attaching it to read it", err);
    for (uint64_t at = 0; at < size && r == 0; at += IMAGE_CHUNK_MAX) {
        uint32_t n = size - at < IMAGE_CHUNK_MAX ? (uint32_t)(size - at) : IMAGE_CHUNK_MAX;
        if (!all_zero(p + at, n))
            r = image_put_chunk(w, space, at, p + at, n, err);
    }
    shmdt(p);
    return r;
}

/* Mappings may show a part of it only; then the rest is read by attaching it as well. */
static int sysv_write(struct ckpt *c, struct object *o, struct image_writer *w, struct err *err)
{
    const Sysv *m = (const Sysv *)o->msg;
    const struct sysv *k = o->priv;
    const struct extent *whole = NULL;

    if (m->type != SYSV_SHM)
        return 0;
    for (const struct extent *e = k->content.extents; e; e = e->next)
        if (e->offset == 0 && e->end - e->start >= m->size)
            whole = e;
    if (whole) {
        struct content one = {.fd = -1, .huge = m->huge_size != 0,
                              .extents = &(struct extent){whole->proc, whole->start, whole->end, 0, NULL},
                              .extent_end = whole->end - whole->start};
        return content_write(&one, o->id, (m->size + PAGE - 1) / PAGE * PAGE, w, err);
    }
    return write_detached(m, o->id, w, err);
}

/* ---- semaphores ---- */

static int collect_sem(struct ckpt *c, int id, const struct semid_ds *d, struct err *err)
{
    struct object *o = sysv_add(c, SYSV_SEM, id, err);
    _cleanup_free_ unsigned short *v = calloc(d->sem_nsems + 1, sizeof(*v));
    Sysv *m = o ? (Sysv *)o->msg : NULL;

    if (!o || !v)
        return o ? err_set(err, ENOMEM, "out of memory") : -err->code;
    keep_perm(m, &d->sem_perm, d->sem_ctime);
    if (semctl(id, 0, GETALL, (union semun){.array = v}) < 0)
        return failed(m, "reading their values", err);
    m->n_values = d->sem_nsems;
    m->values = arena_alloc(c->arena, (d->sem_nsems + 1) * sizeof(*m->values));
    for (size_t i = 0; m->values && i < m->n_values; i++)
        m->values[i] = v[i];
    return m->values ? 0 : err_set(err, ENOMEM, "out of memory");
}

/* The last user of each semaphore is known: one of the tree will do, one alive outside speaks against it. */
static bool set_is_ours(const struct ckpt *c, int id, const struct semid_ds *d)
{
    struct usage u = {&d->sem_perm, d->sem_ctime, {0, 0}};

    for (unsigned long i = 0; i < d->sem_nsems; i++) {
        pid_t pid = semctl(id, (int)i, GETPID, (union semun){0});
        if (pid <= 0)
            continue;
        if (pid == getpid() || ckpt_find_proc(c, pid))
            return true;
        if (kill(pid, 0) == 0 || errno == EPERM)
            u.pids[0] = pid;
    }
    return is_ours(c, &u);
}

static int each_sem(struct ckpt *c, struct err *err)
{
    struct seminfo info;
    struct semid_ds d;
    int top = semctl(0, 0, SEM_INFO, (union semun){.info = &info});

    for (int i = 0; i <= top; i++) {
        int id = semctl(i, 0, SEM_STAT_ANY, (union semun){.buf = &d});

        if (id < 0 ||
            (!ckpt_find_object(c, &sysv_ops, SYSV_SEM, (uint64_t)id, NULL, 0) && !set_is_ours(c, id, &d)))
            continue;
        if (collect_sem(c, id, &d, err) < 0)
            return -err->code;
    }
    return 0;
}

/* ---- message queues ---- */

struct room {
    long type;
    char data[];
};

static int collect_messages(struct ckpt *c, Sysv *m, size_t max, struct err *err)
{
    _cleanup_free_ struct room *room = malloc(sizeof(*room) + max + 1);

    for (long i = 0; room; i++) {
        ssize_t n = msgrcv(m->ipc_id, room, max, i, MSG_COPY | IPC_NOWAIT | MSG_NOERROR);
        SysvMessage *msg;
        if (n < 0 && errno == ENOMSG)
            return 0;
        if (n < 0)
            return failed(m, "looking at its messages (MSG_COPY, CONFIG_CHECKPOINT_RESTORE)", err);
        msg = arena_alloc(c->arena, sizeof(*msg));
        if (!msg)
            break;
        sysv_message__init(msg);
        msg->type = room->type;
        msg->data = arena_bytes(c->arena, room->data, (size_t)n);
        arena_push(c->arena, (void ***)&m->messages, &m->n_messages, msg);
    }
    return err_set(err, ENOMEM, "out of memory");
}

static int collect_msg(struct ckpt *c, int id, const struct msqid_ds *d, struct err *err)
{
    struct object *o = sysv_add(c, SYSV_MSG, id, err);
    Sysv *m = o ? (Sysv *)o->msg : NULL;

    if (!o)
        return -err->code;
    keep_perm(m, &d->msg_perm, d->msg_ctime);
    m->size = d->msg_qbytes;
    return d->msg_qnum ? collect_messages(c, m, d->__msg_cbytes, err) : 0;
}

static int each_msg(struct ckpt *c, struct err *err)
{
    struct msqid_ds d;
    int top = msgctl(0, MSG_INFO, &d);

    for (int i = 0; i <= top; i++) {
        int id = msgctl(i, MSG_STAT_ANY, &d);
        struct usage u = {&d.msg_perm, d.msg_ctime, {d.msg_lspid, d.msg_lrpid}};

        if (id >= 0 && is_ours(c, &u) && collect_msg(c, id, &d, err) < 0)
            return -err->code;
    }
    return 0;
}

int collect_sysv(struct ckpt *c, struct err *err)
{
    bool here = false;

    for (size_t i = 0; i < c->nprocs; i++)
        here |= !c->procs[i]->zombie && same_namespace(c->procs[i]);
    if (!here)
        return 0;
    return each_shm(c, err) < 0 || each_msg(c, err) < 0 || each_sem(c, err) < 0 ||
                   collect_sem_undo(c, err) < 0
               ? -err->code
               : 0;
}

const struct kind_ops sysv_ops = {
    .kind = KIND_SYSV,
    .write = sysv_write,
};
