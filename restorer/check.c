/*
 * Do the images fit together, and this machine? Records were checked one by one when they were read (their
 * checksums say that they are what was written); here what they say is not believed: numbers are bounded, ids must
 * lead somewhere, addresses must be ones that a process can have. After this the driver need not look twice.
 */
#include <cpuid.h>
#include <signal.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/user.h>

#include "base/log.h"
#include "base/util.h"
#include "image/vma.h"
#include "restorer/core.h"

#define PID_LIMIT    (1 << 22) /* the kernel's PID_MAX_LIMIT */
#define STATE_ZOMBIE 1u
#define XSAVE_HEADER 512u /* where the legacy area ends and XSTATE_BV is */
#define XSAVE_MIN    576u

static int bad(struct err *err, const char *what)
{
    return err_set(err, EINVAL, "%s", what);
}

static int check_thread(const struct rproc *p, const Thread *t, struct err *err)
{
    const struct user_regs_struct *regs = (const void *)t->regs.data;

    if (t->tid <= 0 || t->tid >= PID_LIMIT)
        return bad(err, "a thread's id is out of bounds");
    if (t->regs.len != sizeof(*regs) || regs->cs != 0x33)
        return err_set(err, EINVAL, "thread %d: its registers are not those of a 64-bit program", t->tid);
    if (t->xstate.len < XSAVE_MIN || t->xstate.len > 65536)
        return err_set(err, EINVAL, "thread %d: extended state of %zu bytes", t->tid, t->xstate.len);
    if (t->affinity.len > 8192 || t->nodemask.len > 8192)
        return err_set(err, EINVAL, "thread %d: a CPU or node mask without end", t->tid);
    for (size_t i = 0; i < t->n_pending; i++)
        if (t->pending[i]->info.len != sizeof(siginfo_t))
            return err_set(err, EINVAL, "thread %d: a pending signal of a strange size", t->tid);
    for (size_t i = 0; i < t->n_seccomp; i++)
        if (t->seccomp[i]->program.len % 8 || t->seccomp[i]->program.len > 4096 * 8)
            return err_set(err, EINVAL, "thread %d: a seccomp filter of a strange size", t->tid);
    return 0;
}

static int check_vma(const Vma *v, uint64_t from, struct err *err)
{
    uint64_t top = v->kind == VMA_VSYSCALL ? UINT64_MAX : USER_TOP;

    if (v->start % PAGE || v->end % PAGE || v->offset % PAGE || v->start >= v->end || v->end > top)
        return err_set(err, EINVAL, "mapping %#llx-%#llx: not an address range of a process",
                       (unsigned long long)v->start, (unsigned long long)v->end);
    if (v->start < from)
        return err_set(err, EINVAL, "mapping %#llx-%#llx: over another one, or out of order",
                       (unsigned long long)v->start, (unsigned long long)v->end);
    if (v->prot > 7 || v->pkey > 15 || v->name.len > 255)
        return err_set(err, EINVAL, "mapping %#llx: values that no kernel has", (unsigned long long)v->start);
    return 0;
}

static int check_ranges(PageRange *const *range, size_t n, struct err *err)
{
    uint64_t from = 0;

    for (size_t i = 0; i < n; i++) {
        if (range[i]->start % PAGE || range[i]->end % PAGE || range[i]->start >= range[i]->end ||
            range[i]->start < from || range[i]->end > USER_TOP)
            return bad(err, "a list of pages is out of order");
        from = range[i]->end;
    }
    return 0;
}

static int check_mm(const Mm *mm, struct err *err)
{
    uint64_t from = 0;

    for (size_t i = 0; i < mm->n_vmas; i++) {
        if (check_vma(mm->vmas[i], from, err) < 0)
            return -err->code;
        from = mm->vmas[i]->end;
    }
    if (mm->auxv.len > 4096 || mm->auxv.len % 8 || mm->vdso_content.len > (1u << 20))
        return bad(err, "an auxiliary vector or vDSO of a strange size");
    if (check_ranges(mm->inherited, mm->n_inherited, err) < 0)
        return -err->code;
    return check_ranges(mm->guards, mm->n_guards, err);
}

int check_process(const struct restore *r, const struct rproc *p, struct err *err)
{
    const Process *m = p->process;

    if (m->pid <= 0 || m->pid >= PID_LIMIT || m->ppid < 0 || m->pgid < 0 || m->sid < 0)
        return bad(err, "a process id is out of bounds");
    if (m->state > 3)
        return bad(err, "the process is in a state that this version does not know");
    if (m->state == STATE_ZOMBIE)
        return 0;
    if (!p->nthreads || p->threads[0]->tid != m->pid)
        return bad(err, "its first thread is missing");
    if (!p->mm && m->mm_owner == m->pid)
        return bad(err, "its memory is missing");
    if (m->n_uids != 4 || m->n_gids != 4 || m->n_groups > 65536 || m->n_rlimits > 64)
        return bad(err, "its user and group ids, or its limits, are not as they must be");
    for (size_t i = 0; i < p->nthreads; i++)
        if (check_thread(p, p->threads[i], err) < 0)
            return -err->code;
    for (size_t i = 0; p->signals && i < p->signals->n_pending; i++)
        if (p->signals->pending[i]->info.len != sizeof(siginfo_t))
            return bad(err, "a pending signal of a strange size");
    for (size_t i = 0; p->signals && i < p->signals->n_actions; i++)
        if (p->signals->actions[i]->signo < 1 || p->signals->actions[i]->signo > 64)
            return bad(err, "a handler for a signal that does not exist");
    return p->mm ? check_mm(p->mm, err) : 0;
}

/* --- all together --- */

static int compare_pids(const void *a, const void *b)
{
    pid_t x = *(const pid_t *)a, y = *(const pid_t *)b;

    return x < y ? -1 : x > y;
}

/* No two threads with the same id. */
static int check_tids(const struct restore *r, struct err *err)
{
    size_t n = 0, k = 0;
    _cleanup_free_ pid_t *tid = NULL;

    for (size_t i = 0; i < r->nprocs; i++)
        n += r->procs[i].nthreads + 1;
    tid = calloc(n, sizeof(*tid));
    if (!tid)
        return err_set(err, ENOMEM, "out of memory");
    for (size_t i = 0; i < r->nprocs; i++) {
        const struct rproc *p = &r->procs[i];
        tid[k++] = p->pid;
        for (size_t t = 1; t < p->nthreads; t++)
            tid[k++] = p->threads[t]->tid;
    }
    qsort(tid, k, sizeof(*tid), compare_pids);
    for (size_t i = 1; i < k; i++)
        if (tid[i] == tid[i - 1])
            return err_set(err, EINVAL, "process or thread %d is there twice: the images are not of one checkpoint",
                           tid[i]);
    return 0;
}

static int check_parents(struct restore *r, struct err *err)
{
    for (size_t i = 0; i < r->nprocs; i++) {
        struct rproc *p = &r->procs[i];

        p->parent = p->process->ppid ? restore_proc(r, p->process->ppid) : NULL;
        if (p->process->ppid && !p->parent)
            return err_set(err, EINVAL, "%s: the image of its parent, process %d, is missing", p->path,
                           p->process->ppid);
    }
    for (size_t i = 0; i < r->nprocs; i++) {
        size_t depth = 0;
        for (const struct rproc *p = r->procs[i].parent; p; p = p->parent)
            if (++depth > r->nprocs)
                return err_set(err, EINVAL, "%s: it is its own ancestor", r->procs[i].path);
        if (depth > 20000)
            return err_set(err, E2BIG, "%s: more than 20000 generations of processes", r->procs[i].path);
    }
    return 0;
}

static int check_same(const struct restore *r, struct err *err)
{
    const ImageHead *first = r->procs[0].head;

    for (size_t i = 1; i < r->nprocs; i++) {
        const ImageHead *h = r->procs[i].head;

        if (strcmp(h->computation, first->computation) != 0 || h->generation != first->generation ||
            strcmp(h->host_id, first->host_id) != 0)
            return err_set(err, EINVAL, "%s and %s are not of the same checkpoint", r->procs[0].path, r->procs[i].path);
    }
    return 0;
}

static int check_owner_pid(const struct restore *r, const struct rproc *p, int32_t owner, const char *what,
                           struct err *err)
{
    const struct rproc *q = owner == p->pid || owner == 0 ? p : restore_proc(r, owner);

    if (!q || q->process->state == STATE_ZOMBIE)
        return err_set(err, EINVAL, "%s: it shares its %s with process %d, whose image is missing", p->path, what,
                       owner);
    return 0;
}

/* Shared memory is made with clone(2) flags, so whoever shares must be next to each other in the tree. */
static int link_memory(const struct restore *r, struct rproc *p, struct err *err)
{
    int32_t owner = p->process->mm_owner ? p->process->mm_owner : p->pid;

    p->mm_home = restore_proc(r, owner);
    if (owner == p->pid)
        return 0;
    p->own_mm = p->mm; /* layout only */
    p->mm = p->mm_home->mm;
    if (!p->parent || p->parent->process->mm_owner != owner) {
        /* The owner is the one with the lowest pid, which need not be the first. */
        for (size_t i = 0; i < r->nprocs; i++)
            if (r->procs[i].parent == p && r->procs[i].process->mm_owner == owner)
                return 0;
        return err_set(err, ENOTSUP, "%s: it shares memory with process %d, which is not its parent", p->path, owner);
    }
    return 0;
}

static int check_sharing(const struct restore *r, struct rproc *p, struct err *err)
{
    const Process *m = p->process;

    if (m->state == STATE_ZOMBIE)
        return 0;
    if (check_owner_pid(r, p, m->files_owner, "open files", err) < 0 ||
        check_owner_pid(r, p, m->fs_owner, "directory", err) < 0 ||
        check_owner_pid(r, p, m->mm_owner, "memory", err) < 0 ||
        check_owner_pid(r, p, m->sighand_owner, "signal handlers", err) < 0)
        return -err->code;
    if (p->mm && p->mm->inherit_from && !restore_proc(r, p->mm->inherit_from))
        return err_set(err, EINVAL, "%s: it has pages of process %d, whose image is missing", p->path,
                       p->mm->inherit_from);
    return link_memory(r, p, err);
}

static int check_references(const struct restore *r, const struct rproc *p, struct err *err)
{
    for (size_t i = 0; p->mm && i < p->mm->n_vmas; i++) {
        const Vma *v = p->mm->vmas[i];
        const struct robject *o;

        if (v->kind != VMA_FILE && v->kind != VMA_SHM)
            continue;
        o = restore_object(r, v->object);
        if (!o || !o->ops->map)
            return err_set(err, EINVAL, "%s: mapping %#llx: what it maps is in none of the images", p->path,
                           (unsigned long long)v->start);
    }
    for (size_t i = 0; p->fdtable && i < p->fdtable->n_fds; i++)
        if (!restore_ofd(r, p->fdtable->fds[i]->ofd) || p->fdtable->fds[i]->fd >= 1u << 20)
            return err_set(err, EINVAL, "%s: what its fd %u is, is in none of the images", p->path,
                           p->fdtable->fds[i]->fd);
    if (p->process->exe_file && !restore_object(r, p->process->exe_file))
        return err_set(err, EINVAL, "%s: its executable is in none of the images", p->path);
    return 0;
}

int check_images(struct restore *r, struct err *err)
{
    if (check_same(r, err) < 0 || check_tids(r, err) < 0 || check_parents(r, err) < 0)
        return -err->code;
    for (size_t i = 0; i < r->nprocs; i++)
        if (check_sharing(r, &r->procs[i], err) < 0 || check_references(r, &r->procs[i], err) < 0)
            return -err->code;
    return 0;
}

/* --- this machine --- */

static const char *const xfeatures[] = {"x87", "SSE", "AVX", "MPX bounds", "MPX configuration", "AVX-512 masks",
                                        "AVX-512 (upper halves)", "AVX-512 (16 more registers)", "PT",
                                        "protection keys", "PASID", "CET user", "CET supervisor", "HDC", "UINTR",
                                        "LBR", "HWP", "AMX configuration", "AMX tiles", "APX"};

static uint64_t xcr0(void)
{
    uint32_t a, b, c, d, lo, hi;

    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE))
        return 3;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return (uint64_t)hi << 32 | lo;
}

int check_machine(const struct restore *r, struct err *err)
{
    uint64_t have = xcr0();

    for (size_t i = 0; i < r->nprocs; i++) {
        const struct rproc *p = &r->procs[i];
        uint64_t want = p->head->machine ? p->head->machine->xcr0 : 0, lacks = want & ~have;

        for (size_t t = 0; t < p->nthreads; t++) {
            uint64_t used;
            memcpy(&used, p->threads[t]->xstate.data + XSAVE_HEADER, sizeof(used));
            if (used & ~have)
                return err_set(err, ENOTSUP, "%s: thread %d uses %s, which this CPU does not have", p->path,
                               p->threads[t]->tid, xfeatures[(unsigned)__builtin_ctzll(used & ~have) % 20]);
        }
        if (!lacks || r->options.ignore_cpu)
            continue;
        return err_set(err, ENOTSUP,
                       "%s: it was made on a CPU with %s, which this one does not have, and the program may use it "
                       "(--ignore-cpu-features tries nevertheless)",
                       p->path, xfeatures[(unsigned)__builtin_ctzll(lacks) % 20]);
    }
    return 0;
}
