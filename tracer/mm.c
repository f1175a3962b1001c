/* The address space: layout and mappings, from /proc/PID/smaps, stat and auxv. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "base/util.h"
#include "image/vma.h"
#include "injector/ptrace.h"
#include "tracer/collect.h"
#include "tracer/procfs.h"
#include "tracer/shm.h"

static uint64_t advice_of(const struct map *m)
{
    static const struct {
        char two[3];
        uint64_t bit;
    } bits[] = {
        {"dc", VMA_ADV_DONTFORK},    {"wf", VMA_ADV_WIPEONFORK}, {"dd", VMA_ADV_DONTDUMP},
        {"mg", VMA_ADV_MERGEABLE},   {"hg", VMA_ADV_HUGEPAGE},   {"nh", VMA_ADV_NOHUGEPAGE},
        {"sr", VMA_ADV_SEQUENTIAL},  {"rr", VMA_ADV_RANDOM},     {"lo", VMA_ADV_LOCKED},
        {"lf", VMA_ADV_LOCKONFAULT}, {"dp", VMA_ADV_DROPPABLE},  {"sl", VMA_ADV_SEALED},
    };
    uint64_t advice = 0;

    for (size_t i = 0; i < ARRAY_SIZE(bits); i++)
        if (map_flag(m, bits[i].two))
            advice |= bits[i].bit;
    return advice;
}

static uint32_t prot_of(const struct map *m)
{
    return (m->perms[0] == 'r' ? PROT_READ : 0u) | (m->perms[1] == 'w' ? PROT_WRITE : 0u) |
           (m->perms[2] == 'x' ? PROT_EXEC : 0u);
}

static uint32_t max_prot_of(const struct map *m)
{
    return (map_flag(m, "mr") ? PROT_READ : 0u) | (map_flag(m, "mw") ? PROT_WRITE : 0u) |
           (map_flag(m, "me") ? PROT_EXEC : 0u);
}

static bool named(const struct map *m, const char *name)
{
    return !strcmp(m->name, name);
}

static uint32_t vma_kind(const struct object *o)
{
    switch (o->ops->kind) {
    case KIND_SHM:
        return VMA_SHM;
    case KIND_SYSV:
        return VMA_SYSV;
    case KIND_IOURING:
        return VMA_IOURING;
    case KIND_AIO:
        return VMA_AIO;
    default:
        return VMA_FILE;
    }
}

/* The first map that the file system, not the kernel, backs is looked at through /proc/PID/map_files. */
static int file_vma(struct ckpt *c, struct proc *p, const struct map *m, Vma *v, struct err *err)
{
    char *via =
        arena_printf(c->arena, "/proc/%d/map_files/%" PRIx64 "-%" PRIx64, proc_task(p), m->start, m->end);
    struct object *o = ckpt_mapping_object(c, p, via, m, err);

    if (!o)
        return err_wrap(err, "mapping at %#" PRIx64, m->start);
    v->object = o->id;
    v->offset = m->offset;
    v->kind = vma_kind(o);
    return 0;
}

/* The parasite of this process, or of another that shares its memory, of which the map shows something. */
static const struct inj *parasite_in(const struct ckpt *c, const struct proc *p, const struct map *m)
{
    for (size_t i = 0; i < c->nprocs; i++) {
        const struct proc *q = c->procs[i];
        if (q->mm_proc == p->mm_proc && q->injected && m->start < q->inj.base + q->inj.size &&
            m->end > q->inj.base)
            return &q->inj;
    }
    return NULL;
}

static int add_vma(struct ckpt *c, struct proc *p, const struct map *m, struct err *err)
{
    Vma *v;

    if (named(m, "[vsyscall]"))
        return 0;
    v = arena_alloc(c->arena, sizeof(*v));
    vma__init(v);
    v->start = m->start;
    v->end = m->end;
    v->prot = prot_of(m);
    v->max_prot = max_prot_of(m);
    v->flags = m->perms[3] == 's' || map_flag(m, "sh") ? MAP_SHARED : MAP_PRIVATE;
    v->advice = advice_of(m);
    v->kind = VMA_ANON;
    if (map_flag(m, "gd"))
        v->flags |= MAP_GROWSDOWN;
    if (map_flag(m, "nr"))
        v->flags |= MAP_NORESERVE;
    if (map_flag(m, "ht"))
        v->flags |= MAP_HUGETLB | (uint32_t)__builtin_ctzll(m->page_size | 1ull << 31) << MAP_HUGE_SHIFT;
    if (!strncmp(m->name, "[anon:", 6))
        v->name = arena_bytes(c->arena, m->name + 6, strlen(m->name) - 7);
    if (named(m, "[vdso]"))
        v->kind = VMA_VDSO;
    else if (!strncmp(m->name, "[vvar", 5))
        v->kind = VMA_VVAR;
    else if (v->flags & MAP_PRIVATE && named(m, "/anon_hugepage (deleted)")) {
        v->flags |= MAP_ANONYMOUS; /* the file behind it holds nothing: each process has its own pages */
    } else if (m->ino || m->major || m->minor || m->name[0] == '/') {
        if (file_vma(c, p, m, v, err) < 0)
            return -err->code;
    } else {
        v->flags |= MAP_ANONYMOUS;
        if (named(m, "[heap]"))
            v->advice |= VMA_ADV_HEAP;
        if (named(m, "[stack]"))
            v->advice |= VMA_ADV_STACK;
    }
    arena_push(c->arena, (void ***)&p->mm->vmas, &p->mm->n_vmas, v);
    p->mm->resident_bytes += m->rss;
    return 0;
}

/*
 * A parasite is left out. The kernel makes one map of what has the same flags and lies side by side, so a map
 * that shows a parasite can also show what the program has mapped below and above it.
 */
static int add_map(struct ckpt *c, struct proc *p, const struct map *m, struct err *err)
{
    const struct inj *inj = parasite_in(c, p, m);
    struct map below = *m, above = *m;

    if (!inj)
        return add_vma(c, p, m, err);
    /* It was mapped just now, so it shows what mlockall(MCL_FUTURE) has asked for. */
    if (map_flag(m, "lo"))
        p->mm->mlock_future = MCL_CURRENT | MCL_FUTURE | (map_flag(m, "lf") ? MCL_ONFAULT : 0);
    below.end = inj->base;
    above.start = inj->base + inj->size;
    if (below.start < below.end && add_map(c, p, &below, err) < 0)
        return -err->code;
    return above.start < above.end ? add_map(c, p, &above, err) : 0;
}

static int save_vdso(struct ckpt *c, struct proc *p, struct err *err)
{
    for (size_t i = 0; i < p->mm->n_vmas; i++) {
        Vma *v = p->mm->vmas[i];
        if (v->kind != VMA_VDSO || v->end - v->start > 65536)
            continue;
        void *copy = arena_alloc(c->arena, v->end - v->start);
        if (pt_read(proc_task(p), v->start, copy, v->end - v->start, err) < 0)
            return -err->code;
        p->mm->vdso = v->start;
        p->mm->vdso_content = (ProtobufCBinaryData){.data = copy, .len = v->end - v->start};
    }
    return 0;
}

static int collect_layout(struct ckpt *c, struct proc *p, struct err *err)
{
    _cleanup_free_ char *auxv = NULL;
    struct proc_stat s;
    size_t len;
    Mm *m = p->mm;

    if (read_stat(proc_task(p), &s, err) < 0 || read_proc(&auxv, &len, err, "%d/auxv", proc_task(p)) < 0)
        return -err->code;
    m->start_code = s.start_code;
    m->end_code = s.end_code;
    m->start_data = s.start_data;
    m->end_data = s.end_data;
    m->start_brk = s.start_brk;
    m->start_stack = s.start_stack;
    m->arg_start = s.arg_start;
    m->arg_end = s.arg_end;
    m->env_start = s.env_start;
    m->env_end = s.env_end;
    m->auxv = arena_bytes(c->arena, auxv, len);
    return 0;
}

int collect_mm(struct ckpt *c, struct proc *p, struct err *err)
{
    struct map *maps;
    size_t n;
    int r = 0;

    p->mm = arena_alloc(c->arena, sizeof(*p->mm));
    mm__init(p->mm);
    if (collect_layout(c, p, err) < 0)
        return err_wrap(err, "process %d", p->pid);
    if (p->shares_mm)
        return 0;
    if (read_maps(proc_task(p), &maps, &n, err) < 0)
        return -err->code;
    for (size_t i = 0; i < n && r == 0; i++)
        r = add_map(c, p, &maps[i], err);
    maps_free(maps, n);
    if (r == 0)
        r = save_vdso(c, p, err);
    return r < 0 ? err_wrap(err, "process %d (%s)", p->pid, (char *)p->process->comm.data) : 0;
}
