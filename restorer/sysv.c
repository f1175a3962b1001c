/*
 * System V IPC objects have no name but a number that the kernel gives, so they are made with the number they
 * had
 * (/proc/sys/kernel/shm_next_id and its kin). What outlived the tree, on the same boot, is the same object
 * still: it is used again and set back to what it was. What is not the same and has the number or the key is
 * another's; then the restart is refused.
 */
#include "restorer/sysv.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/syscall.h>

#include "base/log.h"
#include "base/util.h"
#include "image/sysv.h"
#include "image/sysv.pb-c.h"

#ifndef SHM_HUGE_SHIFT
#define SHM_HUGE_SHIFT 26
#endif
#define PAGE      4096ull
#define VALUE_MAX 32767 /* SEMVMX */

union semun {
    int val;
    struct semid_ds *buf;
    unsigned short *array;
    struct seminfo *info;
};

static const Sysv *sysv_of(const struct robject *o)
{
    return (const Sysv *)o->msg;
}

static const char *type_name(const Sysv *m)
{
    return m->type == SYSV_SHM ? "shared memory" : m->type == SYSV_SEM ? "semaphores" : "message queue";
}

static int failed(const Sysv *m, const char *what, struct err *err)
{
    err_errno(err, "%s", what);
    return err_wrap(err, "System V %s %d", type_name(m), m->ipc_id);
}

/* What a mapping of shared memory covers. */
static uint64_t whole_pages(const Sysv *m)
{
    uint64_t page = m->huge_size ? m->huge_size : PAGE;

    return (m->size + page - 1) / page * page;
}

static int sysv_prepare(struct restore *r, struct robject *o, struct err *err)
{
    const Sysv *m = sysv_of(o);

    if (m->type < SYSV_SHM || m->type > SYSV_MSG || m->ipc_id < 0 || m->n_values > 32000 ||
        m->size > 1ull << 46 || m->huge_size > 1ull << 40 || (m->huge_size & (m->huge_size - 1)))
        return err_set(err, EINVAL, "a System V object of unknown type or size");
    for (size_t i = 0; i < m->n_values; i++)
        if (m->values[i] > VALUE_MAX)
            return err_set(err, EINVAL, "semaphores %d: a value of %u", m->ipc_id, m->values[i]);
    for (size_t i = 0; i < m->n_undo; i++)
        if (m->undo[i]->sem >= m->n_values || m->undo[i]->adjust > VALUE_MAX ||
            m->undo[i]->adjust < -VALUE_MAX || !restore_proc(r, m->undo[i]->pid))
            return err_set(err, EINVAL, "semaphores %d: something to undo that cannot be", m->ipc_id);
    for (size_t i = 0; i < m->n_messages; i++)
        if (m->messages[i]->type <= 0)
            return err_set(err, EINVAL, "message queue %d: a message of type %lld", m->ipc_id,
                           (long long)m->messages[i]->type);
    return 0;
}

/* ---- is it still there? ---- */

/* Permissions and size of the object with this number; -errno. */
static int look(const Sysv *m, struct ipc_perm *perm, uint64_t *size, unsigned long *users)
{
    union {
        struct shmid_ds shm;
        struct semid_ds sem;
        struct msqid_ds msg;
    } u;
    int r;

    *size = m->size;
    *users = 0;
    switch (m->type) {
    case SYSV_SHM:
        r = shmctl(m->ipc_id, IPC_STAT, &u.shm);
        *perm = u.shm.shm_perm;
        *size = u.shm.shm_segsz;
        *users = u.shm.shm_nattch;
        break;
    case SYSV_SEM:
        r = semctl(m->ipc_id, 0, IPC_STAT, (union semun){.buf = &u.sem});
        *perm = u.sem.sem_perm;
        *size = u.sem.sem_nsems;
        break;
    default:
        r = msgctl(m->ipc_id, IPC_STAT, &u.msg);
        *perm = u.msg.msg_perm;
        break;
    }
    return r < 0 ? -errno : 0;
}

static bool same_boot(const struct robject *o)
{
    _cleanup_free_ char *now = NULL;
    const MachineInfo *machine = o->home && o->home->head ? o->home->head->machine : NULL;
    size_t len;

    if (!machine || !machine->boot_id ||
        read_file(AT_FDCWD, "/proc/sys/kernel/random/boot_id", &now, &len) < 0)
        return false;
    return !strncmp(now, machine->boot_id, strcspn(now, "\n"));
}

/* 1: it is there and the same, 0: it is not there. */
static int find_again(const struct robject *o, unsigned long *users, struct err *err)
{
    const Sysv *m = sysv_of(o);
    struct ipc_perm perm = {0};
    uint64_t size, wanted = m->type == SYSV_SEM ? m->n_values : m->size;
    int r = look(m, &perm, &size, users);

    if (r == -EINVAL || r == -EIDRM)
        return 0;
    if (r == 0 && same_boot(o) && perm.__key == m->key && perm.cuid == m->cuid && size == wanted)
        return 1;
    return err_set(err, EEXIST, "System V %s %d (key %#x): another object has that number now", type_name(m),
                   m->ipc_id, (unsigned)m->key);
}

/* ---- making it ---- */

static int get(const Sysv *m, int flags)
{
    switch (m->type) {
    case SYSV_SHM:
        if (m->huge_size)
            flags |= SHM_HUGETLB | __builtin_ctzll(m->huge_size) << SHM_HUGE_SHIFT;
        return shmget(m->key, m->size, (int)m->mode | flags);
    case SYSV_SEM:
        return semget(m->key, (int)m->n_values, (int)m->mode | flags);
    default:
        return msgget(m->key, (int)m->mode | flags);
    }
}

static void remove_it(const Sysv *m, int id)
{
    if (m->type == SYSV_SHM)
        shmctl(id, IPC_RMID, NULL);
    else if (m->type == SYSV_SEM)
        semctl(id, 0, IPC_RMID, (union semun){0});
    else
        msgctl(id, IPC_RMID, NULL);
}

static int choose_number(const Sysv *m, struct err *err)
{
    const char *path = m->type == SYSV_SHM   ? "/proc/sys/kernel/shm_next_id"
                       : m->type == SYSV_SEM ? "/proc/sys/kernel/sem_next_id"
                                             : "/proc/sys/kernel/msg_next_id";
    _cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC);
    char text[16];

    if (fd < 0 || write(fd, text, (size_t)snprintf(text, sizeof(text), "%d", m->ipc_id)) < 0)
        return err_errno(err, "choosing its number (%s, needs CAP_CHECKPOINT_RESTORE)", path);
    return 0;
}

static int make(const Sysv *m, struct err *err)
{
    int id;

    if (choose_number(m, err) < 0)
        return err_wrap(err, "System V %s %d", type_name(m), m->ipc_id);
    id = get(m, IPC_CREAT | IPC_EXCL);
    if (id < 0 && errno == EEXIST)
        return err_set(err, EEXIST, "System V %s %d: another object has the key %#x now", type_name(m),
                       m->ipc_id, (unsigned)m->key);
    if (id < 0)
        return failed(m, m->huge_size ? "making it of huge pages (/proc/sys/vm/nr_hugepages)" : "making it", err);
    if (id != m->ipc_id) {
        remove_it(m, id);
        return err_set(err, EEXIST, "System V %s %d: the number is taken", type_name(m), m->ipc_id);
    }
    return 0;
}

static int set_owner(const Sysv *m, struct err *err)
{
    struct shmid_ds shm = {.shm_perm = {.uid = m->uid, .gid = m->gid, .mode = (unsigned short)m->mode}};
    struct semid_ds sem = {.sem_perm = shm.shm_perm};
    struct msqid_ds msg = {.msg_perm = shm.shm_perm, .msg_qbytes = m->size};
    int r;

    if (m->type == SYSV_SHM)
        r = shmctl(m->ipc_id, IPC_SET, &shm);
    else if (m->type == SYSV_SEM)
        r = semctl(m->ipc_id, 0, IPC_SET, (union semun){.buf = &sem});
    else
        r = msgctl(m->ipc_id, IPC_SET, &msg);
    return r < 0 ? failed(m, "setting its owner", err) : 0;
}

/* ---- content ---- */

static int fill_shm(const struct restore *r, const struct robject *o, bool is_new, struct err *err)
{
    const Sysv *m = sysv_of(o);
    const struct image_chunk *c;
    uint8_t *p = shmat(m->ipc_id, NULL, 0);
    size_t n;
    int res = 0;

    if (p == (void *)-1)
        return failed(m, "attaching it to fill it", err);
    if (!is_new)
        memset(p, 0, whole_pages(m));
    c = image_chunks(o->home->image, o->id, &n);
    for (size_t i = 0; i < n && res == 0; i++) {
        if (c[i].addr > whole_pages(m) || c[i].len > whole_pages(m) - c[i].addr)
            res = err_set(err, EINVAL, "shared memory %d: content beyond its end", m->ipc_id);
        else
            res = image_read_chunk(o->home->image, &c[i], p + c[i].addr, err);
    }
    shmdt(p);
    if (res == 0 && m->locked && shmctl(m->ipc_id, SHM_LOCK, NULL) < 0)
        restore_note(r, "System V shared memory %d cannot be locked: %s", m->ipc_id, strerror(errno));
    return res;
}

static int fill_sem(const Sysv *m, struct err *err)
{
    _cleanup_free_ unsigned short *v = calloc(m->n_values + 1, sizeof(*v));

    if (!v)
        return err_set(err, ENOMEM, "out of memory");
    for (size_t i = 0; i < m->n_values; i++)
        v[i] = (unsigned short)m->values[i];
    return semctl(m->ipc_id, 0, SETALL, (union semun){.array = v}) < 0
               ? failed(m, "setting their values", err)
               : 0;
}

struct room {
    long type;
    char data[];
};

/* Messages that came after the checkpoint go, then those of the image come in order. */
static int fill_msg(const Sysv *m, bool is_new, struct err *err)
{
    size_t max = 1;

    for (size_t i = 0; i < m->n_messages; i++)
        max = m->messages[i]->data.len > max ? m->messages[i]->data.len : max;
    _cleanup_free_ struct room *room = malloc(sizeof(*room) + max);
    if (!room)
        return err_set(err, ENOMEM, "out of memory");
    while (!is_new && msgrcv(m->ipc_id, room, max, 0, IPC_NOWAIT | MSG_NOERROR) >= 0)
        ;
    for (size_t i = 0; i < m->n_messages; i++) {
        room->type = m->messages[i]->type;
        memcpy(room->data, m->messages[i]->data.data, m->messages[i]->data.len);
        if (msgsnd(m->ipc_id, room, m->messages[i]->data.len, IPC_NOWAIT) < 0)
            return failed(m, "putting its messages back", err);
    }
    return 0;
}

static int sysv_make(struct restore *r, struct robject *o, struct err *err)
{
    const Sysv *m = sysv_of(o);
    unsigned long users = 0;
    int there = find_again(o, &users, err);

    if (there < 0 || (!there && make(m, err) < 0) || (!there && set_owner(m, err) < 0))
        return -err->code;
    if (there && users) {
        restore_note(r,
                     "System V shared memory %d is attached by others: it keeps the content that it has now",
                     m->ipc_id);
        return 0;
    }
    switch (m->type) {
    case SYSV_SHM:
        return fill_shm(r, o, !there, err);
    case SYSV_SEM:
        return fill_sem(m, err);
    default:
        return fill_msg(m, !there, err);
    }
}

int sysv_make_all(struct restore *r, struct err *err)
{
    bool any = false;

    for (struct robject *o = r->objects; o; o = o->next)
        any |= o->ops && (o->ops->kind == KIND_SYSV || o->ops->kind == KIND_MQUEUE);
    if (any && r->new_userns && unshare(CLONE_NEWIPC) < 0)
        return err_errno(err, "an IPC namespace");
    for (struct robject *o = r->objects; o; o = o->next)
        if (o->ops && o->ops->kind == KIND_SYSV && sysv_make(r, o, err) < 0)
            return -err->code;
    return 0;
}

/* ---- in the processes ---- */

/* Attach it anywhere, move the part that is wanted to its place, and let the rest go. */
static void attach_part(struct inj_batch *b, const Sysv *m, const Vma *v, uint64_t flags, uint64_t base)
{
    uint64_t len = v->end - v->start, size = whole_pages(m);

    inj_call(b, BLOB_MUST, SYS_shmat, m->ipc_id, base, flags);
    inj_call(b, BLOB_MUST, SYS_mremap, base + v->offset, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, v->start);
    if (v->offset)
        inj_call(b, BLOB_MUST, SYS_munmap, base, v->offset);
    if (v->offset + len < size)
        inj_call(b, BLOB_MUST, SYS_munmap, base + v->offset + len, size - v->offset - len);
}

/* An address where the whole segment has room for the moment: mmap finds it, without making it a mapping. */
static int find_room(struct rproc *p, uint64_t size, uint64_t *at, struct err *err)
{
    int64_t ret, ignored;

    if (inj_syscall(&p->inj, &ret, err, SYS_mmap,
                    (uint64_t[6]){0, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                                  (uint64_t)-1, 0}) < 0)
        return -err->code;
    if (inj_failed(ret))
        return err_set(err, (int)-ret, "process %d: room for shared memory: %s", p->pid, strerror((int)-ret));
    *at = (uint64_t)ret;
    return inj_syscall(&p->inj, &ignored, err, SYS_munmap, (uint64_t[6]){*at, size});
}

int sysv_attach(struct restore *r, struct rproc *p, const Vma *v, struct err *err)
{
    struct robject *o = restore_object(r, v->object);
    _cleanup_batch_ struct inj_batch b = {0};
    uint64_t flags, base = 0, size;
    const Sysv *m;

    if (!o || !o->ops || o->ops->kind != KIND_SYSV || sysv_of(o)->type != SYSV_SHM)
        return err_set(err, EINVAL, "process %d: mapping at %#llx: its shared memory is not in the image",
                       p->pid, (unsigned long long)v->start);
    m = sysv_of(o);
    size = whole_pages(m);
    if (v->offset > size || v->end - v->start > size - v->offset || v->offset % PAGE)
        return err_set(err, EINVAL, "process %d: mapping at %#llx: beyond the end of shared memory %d",
                       p->pid, (unsigned long long)v->start, m->ipc_id);
    flags = ((v->max_prot | v->prot) & PROT_WRITE ? 0 : SHM_RDONLY) | (v->prot & PROT_EXEC ? SHM_EXEC : 0);
    if (inj_begin(&b, &p->inj, err) < 0)
        return -err->code;
    if (v->offset == 0 && v->end - v->start == size) {
        inj_call(&b, BLOB_MUST, SYS_shmat, m->ipc_id, v->start, flags);
    } else {
        if (find_room(p, size, &base, err) < 0)
            return -err->code;
        attach_part(&b, m, v, flags, base);
    }
    if (inj_run(&b, err) < 0)
        return -err->code;
    return inj_check(&b, err, "attaching System V shared memory");
}

/* ---- what comes last ---- */

static int value_of(const Sysv *m, unsigned sem)
{
    return semctl(m->ipc_id, (int)sem, GETVAL, (union semun){0});
}

static int undo_op(struct restore *r, const Sysv *m, const SysvUndo *u, struct err *err)
{
    struct rproc *p = restore_proc(r, u->pid);
    struct sembuf op = {(unsigned short)u->sem, (short)-u->adjust, SEM_UNDO | IPC_NOWAIT};
    _cleanup_batch_ struct inj_batch b = {0};

    if (inj_begin(&b, &p->inj, err) < 0)
        return -err->code;
    inj_call(&b, BLOB_MUST, SYS_semop, m->ipc_id, inj_data(&b, &op, sizeof(op)), 1);
    return inj_run(&b, err) < 0 ? -err->code : inj_check(&b, err, "SEM_UNDO");
}

static int set_value(const Sysv *m, unsigned sem, int wanted, struct err *err)
{
    int now = value_of(m, sem);
    struct sembuf op = {(unsigned short)sem, (short)(wanted - now), IPC_NOWAIT}; /* SETVAL would forget what is to be undone */

    return now < 0 || (now != wanted && semop(m->ipc_id, &op, 1) < 0) ? failed(m, "setting a value", err) : 0;
}

/*
 * The operations that are undone at a process's end, by itself. Each is made from a value at which it is possible: all of
 * them together may be more than a semaphore can hold.
 */
static int restore_undo(struct restore *r, const Sysv *m, struct err *err)
{
    for (size_t i = 0; i < m->n_undo; i++) {
        const SysvUndo *u = m->undo[i];
        if (set_value(m, u->sem, u->adjust > 0 ? u->adjust : 0, err) < 0 || undo_op(r, m, u, err) < 0)
            return -err->code;
    }
    for (size_t i = 0; i < m->n_undo; i++)
        if (set_value(m, m->undo[i]->sem, (int)m->values[m->undo[i]->sem], err) < 0)
            return -err->code;
    return 0;
}

static int sysv_arm(struct restore *r, struct robject *o, struct err *err)
{
    const Sysv *m = sysv_of(o);

    if (m->type == SYSV_SEM)
        return restore_undo(r, m, err);
    if (m->dest && shmctl(m->ipc_id, IPC_RMID, NULL) < 0)
        return failed(m, "marking it for deletion", err);
    return 0;
}

const struct rebuild_ops sysv_ops = {
    .kind = KIND_SYSV,
    .descriptor = &sysv__descriptor,
    .prepare = sysv_prepare,
    .arm = sysv_arm,
};
