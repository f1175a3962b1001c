/*
 * SEM_UNDO: what a process has added to semaphores and will take back when it ends. No call tells these
 * numbers, but unshare(CLONE_SYSVSEM) makes a process take them back at once (ipc/sem.c: exit_sem), so the
 * values before and after show them; then the process does the same operations again. A helper process does
 * that (guard.h). It is done only where kcmp(2) says that there is an undo list at all, and only if nobody
 * waits for a semaphore: everyone in the tree is frozen and does not, and somebody outside would be let
 * through.
 *
 * Threads share one list, which an unshare by one of them leaves as it is. So of a process with threads
 * (where every one has a list, used or not) the numbers cannot be had, and a note says so.
 */
#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/sem.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/log.h"
#include "base/util.h"
#include "image/sysv.h"
#include "tracer/guard.h"
#include "tracer/sysv.h"

#define KCMP_SYSVSEM 6 /* enum kcmp_type */
#define UNDO_MAX     65536u

extern const struct kind_ops sysv_ops;

union semun {
    int val;
    struct semid_ds *buf;
    unsigned short *array;
    struct seminfo *info;
};

/* Values of all sets that there are. */
struct set {
    int id;
    unsigned n;
    unsigned short *v;
};
struct sets {
    struct set *set;
    size_t n, cap;
};

struct found {
    size_t n;
    struct undo {
        pid_t pid;
        int set;
        unsigned sem;
        int adjust;
    } undo[UNDO_MAX];
};

struct job {
    struct ckpt *c;
    struct found *found;
};

static int read_sets(struct sets *s, struct err *err)
{
    struct seminfo info;
    struct semid_ds d;
    int top = semctl(0, 0, SEM_INFO, (union semun){.info = &info});

    s->n = 0;
    for (int i = 0; i <= top; i++) {
        int id = semctl(i, 0, SEM_STAT_ANY, (union semun){.buf = &d});
        struct set *more = id < 0 ? s->set : grow(s->set, s->n, &s->cap, sizeof(*more));
        unsigned short *v = id < 0 ? NULL : calloc(d.sem_nsems + 1, sizeof(*v));

        if (id < 0)
            continue;
        if (!more || !v)
            return err_set(err, ENOMEM, "out of memory");
        s->set = more;
        if (semctl(id, 0, GETALL, (union semun){.array = v}) < 0)
            continue; /* not readable, so not the tree's */
        s->set[s->n++] = (struct set){id, (unsigned)d.sem_nsems, v};
    }
    return 0;
}

static int nobody_waits(const struct sets *s, struct err *err)
{
    for (size_t i = 0; i < s->n; i++)
        for (unsigned k = 0; k < s->set[i].n; k++)
            if (semctl(s->set[i].id, (int)k, GETNCNT, (union semun){0}) > 0 ||
                semctl(s->set[i].id, (int)k, GETZCNT, (union semun){0}) > 0)
                return err_set(
                    err, EOPNOTSUPP,
                    "it has used System V semaphores with SEM_UNDO, and a process outside waits for "
                    "semaphore %u "
                    "of set %d: what is to be undone cannot be asked without letting that one through",
                    k, s->set[i].id);
    return 0;
}

/* Do again what was undone: one operation for each semaphore, all in one call per set. */
static int redo(struct proc *p, const struct set *before, const struct set *after, struct found *f,
                struct err *err)
{
    _cleanup_free_ struct sembuf *op = calloc(before->n + 1, sizeof(*op));
    _cleanup_batch_ struct inj_batch b = {0};
    unsigned n = 0;
    uint32_t call;

    if (!op)
        return err_set(err, ENOMEM, "out of memory");
    for (unsigned k = 0; k < before->n; k++) {
        int adjust = (int)after->v[k] - (int)before->v[k];
        if (!adjust)
            continue;
        if (f->n == UNDO_MAX)
            return err_set(err, E2BIG, "too many SEM_UNDO adjustments");
        f->undo[f->n++] = (struct undo){p->pid, before->id, k, adjust};
        op[n++] = (struct sembuf){(unsigned short)k, (short)-adjust, SEM_UNDO | IPC_NOWAIT};
    }
    if (!n)
        return 0;
    if (inj_begin(&b, &p->inj, err) < 0)
        return -err->code;
    call = inj_call(&b, 0, SYS_semop, before->id, inj_data(&b, op, n * sizeof(*op)), n);
    if (inj_run(&b, err) < 0)
        return -err->code;
    if (inj_failed(inj_ret(&b, call)))
        return err_set(err, (int)-inj_ret(&b, call),
                       "putting back the SEM_UNDO adjustments of semaphore set %d: %s", before->id,
                       strerror((int)-inj_ret(&b, call)));
    return 0;
}

static int ask_process(struct proc *p, struct found *f, struct err *err)
{
    struct sets before = {0}, after = {0};
    int64_t ret;

    if (read_sets(&before, err) < 0 || nobody_waits(&before, err) < 0)
        return -err->code;
    if (inj_syscall(&p->inj, &ret, err, SYS_unshare, (uint64_t[6]){CLONE_SYSVSEM}) < 0)
        return -err->code;
    if (inj_failed(ret))
        return err_set(err, (int)-ret, "unshare(CLONE_SYSVSEM): %s", strerror((int)-ret));
    if (read_sets(&after, err) < 0)
        return -err->code;
    for (size_t i = 0; i < before.n && i < after.n; i++)
        if (before.set[i].id == after.set[i].id && redo(p, &before.set[i], &after.set[i], f, err) < 0)
            return -err->code;
    return 0; /* the helper ends soon: its memory needs no freeing */
}

/*
 * In the helper, which is fresh from fork(2) and so has no undo list itself: a process that compares equal
 * has none either.
 */
static int ask_all(void *arg, struct err *err)
{
    struct job *j = arg;

    for (size_t i = 0; i < j->c->nprocs; i++) {
        struct proc *p = j->c->procs[i];

        if (!p->injected || p->zombie || syscall(SYS_kcmp, getpid(), p->pid, KCMP_SYSVSEM, 0, 0) <= 0)
            continue;
        if (p->nthreads > 1) {
            log_note("process %d has threads: what it has done to System V semaphores with SEM_UNDO, if it "
                     "has, is not "
                     "undone when it ends after a restart",
                     p->pid);
            continue;
        }
        if (ask_process(p, j->found, err) < 0)
            return err_wrap(err, "process %d", p->pid);
    }
    return 0;
}

static int keep(struct ckpt *c, const struct undo *u, struct err *err)
{
    struct object *o = ckpt_find_object(c, &sysv_ops, SYSV_SEM, (uint64_t)u->set, NULL, 0);
    SysvUndo *m = arena_alloc(c->arena, sizeof(*m));

    if (!m)
        return err_set(err, ENOMEM, "out of memory");
    if (!o)
        return err_set(
            err, EOPNOTSUPP,
            "process %d: it has used System V semaphore set %d with SEM_UNDO, which belongs to others",
            u->pid, u->set);
    sysv_undo__init(m);
    m->pid = u->pid;
    m->sem = u->sem;
    m->adjust = u->adjust;
    arena_push(c->arena, (void ***)&((Sysv *)o->msg)->undo, &((Sysv *)o->msg)->n_undo, m);
    return 0;
}

int collect_sem_undo(struct ckpt *c, struct err *err)
{
    struct job j = {c, NULL};
    bool any = false;
    int r;

    for (struct object *o = c->objects; o; o = o->next)
        any |= o->ops == &sysv_ops && ((Sysv *)o->msg)->type == SYSV_SEM;
    if (!any)
        return 0;
    j.found = guard_alloc(sizeof(*j.found));
    if (!j.found)
        return err_set(err, ENOMEM, "out of memory");
    r = guarded(ask_all, &j, err);
    for (size_t i = 0; r == 0 && i < j.found->n; i++)
        r = keep(c, &j.found->undo[i], err);
    guard_free(j.found, sizeof(*j.found));
    return r;
}
