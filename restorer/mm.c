/*
 * Address spaces, first part: mappings and contents. Everything goes to its final address at once, since a
 * skeleton has nothing there. What will be filled is mapped writable, whatever it is in the end (mmfinal.c), and
 * stays so until no process is forked any more.
 *
 * A child that still shares pages with the process that it was forked from keeps those mappings, and only what
 * differs is replaced: the pages then are shared copy-on-write as they were.
 */
#include <errno.h>
#include <linux/prctl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "base/util.h"
#include "image/vma.h"
#include "injector/ptrace.h"
#include "restorer/core.h"
#include "restorer/sysv.h"

#ifndef MAP_DROPPABLE
#define MAP_DROPPABLE 0x08
#endif
#define FDS_AT_ONCE   200u

/* Files that a process maps, with the fd numbers that they have there for the moment. */
struct mfile {
    uint64_t object;
    bool write;
    int fd, remote;
};

struct build {
    struct restore *r;
    struct rproc *p;
    const Mm *from;        /* of the process whose copy this one is and keeps pages of, or NULL */
    struct inj_batch b;
    struct mfile *file;
    size_t n_files, cap_files;
    PageRange *keep;       /* ranges of mappings that stay as the fork made them */
    size_t n_keep, cap_keep;
    struct err *err;
};

int run_batch(struct inj_batch *b, const char *what, struct err *err)
{
    if (!b->ncalls)
        return 0;
    if (inj_run(b, err) < 0 || inj_check(b, err, what) < 0)
        return -err->code;
    inj_reset(b);
    return 0;
}

int run_full_batch(struct inj_batch *b, const char *what, struct err *err)
{
    return b->ncalls < INJ_MAX_CALLS - 64 && b->used < INJ_DATA_SIZE / 2 ? 0 : run_batch(b, what, err);
}

struct rproc *mm_source(const struct restore *r, const struct rproc *p)
{
    if (!p->mm || p->own_mm || !p->mm->inherit_from || !p->mm->n_inherited)
        return NULL;
    return restore_proc(r, p->mm->inherit_from);
}

/* --- removing what the fork brought ---------------------------------------------------------- */

static int munmap_between(struct build *m, uint64_t start, uint64_t end)
{
    if (start < end)
        inj_call(&m->b, BLOB_MUST, SYS_munmap, start, end - start);
    return run_full_batch(&m->b, "unmapping", m->err);
}

/* All but the area and the parked vDSO, which lies behind it, and what is to be kept. */
static int unmap_others(struct build *m)
{
    uint64_t area = m->r->area, area_end = m->r->vdso_home + vdso_size(m->r), at = 0;
    bool passed = false;

    for (size_t i = 0; i <= m->n_keep; i++) {
        uint64_t start = i < m->n_keep ? m->keep[i].start : USER_TOP;

        if (!passed && start > area) {
            if (munmap_between(m, at, area) < 0)
                return -m->err->code;
            at = area_end;
            passed = true;
        }
        if (munmap_between(m, at, start) < 0)
            return -m->err->code;
        at = i < m->n_keep ? m->keep[i].end : start;
    }
    return 0;
}

int mm_clear(struct restore *r, struct rproc *p, struct err *err)
{
    struct build m = {.r = r, .p = p, .err = err};
    int r2;

    if (inj_begin(&m.b, &p->inj, err) < 0)
        return -err->code;
    if (!p->came_from && !p->cleared)
        vdso_park(r, p, &m.b);
    r2 = unmap_others(&m) < 0 || run_batch(&m.b, "clearing its memory", err) < 0 ? -err->code : 0;
    inj_end(&m.b);
    p->cleared = true;
    return r2;
}

/* --- keeping pages --------------------------------------------------------------------------- */

static bool same_mapping(const Vma *a, const Vma *b)
{
    return a->kind == b->kind && a->object == b->object && a->flags == b->flags && (a->flags & MAP_PRIVATE) &&
           (a->kind == VMA_ANON || a->offset - b->offset == a->start - b->start);
}

static bool any_inherited(const Mm *mm, uint64_t start, uint64_t end)
{
    size_t lo = 0, hi = mm->n_inherited;

    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (mm->inherited[mid]->end <= start)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < mm->n_inherited && mm->inherited[lo]->start < end;
}

static int add_keep(struct build *m, uint64_t start, uint64_t end)
{
    PageRange *more = grow(m->keep, m->n_keep, &m->cap_keep, sizeof(*m->keep));

    if (!more)
        return err_set(m->err, ENOMEM, "out of memory");
    m->keep = more;
    m->keep[m->n_keep] = (PageRange)PAGE_RANGE__INIT;
    m->keep[m->n_keep].start = start;
    m->keep[m->n_keep++].end = end;
    return 0;
}

/* Where both have the same mapping and at least one page of it is shared. Both lists ascend. */
static int find_keeps(struct build *m)
{
    const Mm *mm = m->p->mm;

    for (size_t i = 0, k = 0; m->from && i < mm->n_vmas && k < m->from->n_vmas;) {
        const Vma *v = mm->vmas[i], *u = m->from->vmas[k];
        uint64_t start = v->start > u->start ? v->start : u->start, end = v->end < u->end ? v->end : u->end;

        if (start < end && same_mapping(v, u) && any_inherited(mm, start, end) && add_keep(m, start, end) < 0)
            return -m->err->code;
        if (v->end <= u->end)
            i++;
        if (u->end <= v->end)
            k++;
    }
    return 0;
}

static int drop(struct build *m, uint64_t start, uint64_t end)
{
    if (start < end)
        inj_call(&m->b, BLOB_MUST, SYS_madvise, start, end - start, MADV_DONTNEED);
    return run_full_batch(&m->b, "dropping pages that are not shared", m->err);
}

/* In what is kept, pages that are not shared go. */
static int drop_unshared(struct build *m)
{
    const Mm *mm = m->p->mm;

    for (size_t k = 0, i = 0; k < m->n_keep; k++) {
        uint64_t at = m->keep[k].start, end = m->keep[k].end;

        while (i < mm->n_inherited && mm->inherited[i]->end <= at)
            i++;
        for (size_t q = i; q < mm->n_inherited && mm->inherited[q]->start < end; q++) {
            if (drop(m, at, mm->inherited[q]->start) < 0)
                return -m->err->code;
            at = mm->inherited[q]->end;
        }
        if (drop(m, at, end) < 0)
            return -m->err->code;
    }
    return 0;
}

/* --- mapping --------------------------------------------------------------------------------- */

static bool wants_write(const Vma *v)
{
    return (v->flags & MAP_SHARED) && (v->max_prot & PROT_WRITE);
}

static struct mfile *find_file(struct build *m, uint64_t object, bool write)
{
    for (size_t i = 0; i < m->n_files; i++)
        if (m->file[i].object == object && m->file[i].write == write)
            return &m->file[i];
    return NULL;
}

static int need_file(struct build *m, uint64_t object, bool write)
{
    struct robject *o = restore_object(m->r, object);
    struct mfile *more;
    int fd;

    if (!o || !o->ops->map || find_file(m, object, write))
        return 0;
    if (o->ops->map(m->r, o, write, &fd, m->err) < 0)
        return -m->err->code;
    more = grow(m->file, m->n_files, &m->cap_files, sizeof(*m->file));
    if (!more)
        return err_set(m->err, ENOMEM, "out of memory");
    m->file = more;
    m->file[m->n_files++] = (struct mfile){object, write, fd, -1};
    return 0;
}

/* The process whose copy it is has set the same executable, which is mapped and so cannot be set again. */
static bool has_exe(const struct build *m)
{
    const struct rproc *from = m->p->came_from;

    return from && from->built && from->process->exe_file == m->p->process->exe_file;
}

static int send_files(struct build *m)
{
    const Mm *mm = m->p->mm;
    int fds[FDS_AT_ONCE], remote[FDS_AT_ONCE];

    for (size_t i = 0; i < mm->n_vmas; i++)
        if ((mm->vmas[i]->kind == VMA_FILE || mm->vmas[i]->kind == VMA_SHM) &&
            need_file(m, mm->vmas[i]->object, wants_write(mm->vmas[i])) < 0)
            return err_wrap(m->err, "mapping %#llx", (unsigned long long)mm->vmas[i]->start);
    if (m->p->process->exe_file && !has_exe(m) && need_file(m, m->p->process->exe_file, false) < 0)
        return err_wrap(m->err, "its executable");
    for (size_t at = 0; at < m->n_files;) {
        uint32_t n = 0;
        for (; n < FDS_AT_ONCE && at + n < m->n_files; n++)
            fds[n] = m->file[at + n].fd;
        if (inj_send_fds(&m->p->inj, fds, remote, n, m->err) < 0)
            return -m->err->code;
        for (uint32_t k = 0; k < n; k++)
            m->file[at + k].remote = remote[k];
        at += n;
    }
    return 0;
}

static bool has_content(const struct build *m, const Vma *v)
{
    size_t n, lo = 0;
    const struct image_chunk *c = image_chunks(m->p->mm_home->image, IMAGE_SPACE_PRIVATE, &n);

    for (size_t hi = n; lo < hi;) {
        size_t mid = (lo + hi) / 2;
        if (c[mid].addr + c[mid].len <= v->start)
            lo = mid + 1;
        else
            hi = mid;
    }
    return (lo < n && c[lo].addr < v->end) || any_inherited(m->p->mm, v->start, v->end);
}

/* Writable for the moment when something has to be put there. */
static uint32_t build_prot(const struct build *m, const Vma *v)
{
    return (v->flags & MAP_PRIVATE) && has_content(m, v) ? v->prot | PROT_READ | PROT_WRITE : v->prot;
}

static int map_range(struct build *m, const Vma *v, uint64_t start, uint64_t end)
{
    const uint32_t passed = MAP_SHARED | MAP_PRIVATE | MAP_GROWSDOWN | MAP_NORESERVE | MAP_HUGETLB |
                            (uint32_t)MAP_HUGE_MASK << MAP_HUGE_SHIFT;
    uint64_t flags = (v->flags & passed) | MAP_FIXED;
    uint64_t fd = ~0ull, offset = 0;

    if (v->kind == VMA_ANON) {
        flags |= MAP_ANONYMOUS;
        if (v->advice & VMA_ADV_DROPPABLE)
            flags = (flags & ~(uint64_t)(MAP_PRIVATE | MAP_NORESERVE)) | MAP_DROPPABLE;
    } else {
        fd = (uint64_t)find_file(m, v->object, wants_write(v))->remote;
        offset = v->offset + (start - v->start);
        flags &= ~(uint64_t)(MAP_HUGETLB | (uint32_t)MAP_HUGE_MASK << MAP_HUGE_SHIFT);
    }
    inj_call(&m->b, BLOB_MUST, SYS_mmap, start, end - start, build_prot(m, v), flags, fd, offset);
    if (v->advice & VMA_ADV_HUGEPAGE) /* before it is filled: then with huge pages, in a fifth of the time */
        inj_call(&m->b, 0, SYS_madvise, start, end - start, MADV_HUGEPAGE);
    return run_full_batch(&m->b, "mapping", m->err);
}

/* The parts of a mapping that are not kept. */
static int map_rest(struct build *m, const Vma *v, size_t *keep)
{
    uint64_t at = v->start;

    while (*keep < m->n_keep && m->keep[*keep].end <= v->start)
        (*keep)++;
    for (size_t k = *keep; k < m->n_keep && m->keep[k].start < v->end; k++) {
        if (at < m->keep[k].start && map_range(m, v, at, m->keep[k].start) < 0)
            return -m->err->code;
        inj_call(&m->b, BLOB_MUST, SYS_mprotect, m->keep[k].start, m->keep[k].end - m->keep[k].start,
                 build_prot(m, v));
        at = m->keep[k].end;
    }
    return at < v->end ? map_range(m, v, at, v->end) : run_full_batch(&m->b, "mapping", m->err);
}

/* What the kernel remembers of the layout: brk, arguments, auxiliary vector, executable. */
static void set_layout(struct build *m)
{
    const Mm *mm = m->p->mm;
    const struct mfile *exe = find_file(m, m->p->process->exe_file, false);
    struct prctl_mm_map map = {
        .start_code = mm->start_code, .end_code = mm->end_code, .start_data = mm->start_data,
        .end_data = mm->end_data, .start_brk = mm->start_brk, .brk = mm->brk, .start_stack = mm->start_stack,
        .arg_start = mm->arg_start, .arg_end = mm->arg_end, .env_start = mm->env_start, .env_end = mm->env_end,
        .auxv_size = (uint32_t)mm->auxv.len, .exe_fd = exe && !has_exe(m) ? (uint32_t)exe->remote : ~0u,
    };

    map.auxv = mm->auxv.len ? (void *)inj_data(&m->b, mm->auxv.data, mm->auxv.len) : NULL;
    inj_call(&m->b, BLOB_MUST, SYS_prctl, PR_SET_MM, PR_SET_MM_MAP, inj_data(&m->b, &map, sizeof(map)), sizeof(map), 0);
}

static int map_all(struct build *m)
{
    const Mm *mm = m->p->mm;
    size_t keep = 0;

    for (size_t i = 0; i < mm->n_vmas; i++) {
        const Vma *v = mm->vmas[i];

        if (v->kind == VMA_VDSO || v->kind == VMA_VVAR || v->kind == VMA_VSYSCALL)
            continue;
        if (v->kind == VMA_IOURING || v->kind == VMA_AIO)
            continue; /* comes with its ring, when all threads are there: iouring.c, aio.c */
        if (v->kind == VMA_SYSV) {
            if (run_batch(&m->b, "mapping", m->err) < 0 || sysv_attach(m->r, m->p, v, m->err) < 0)
                return -m->err->code;
        } else if (v->kind == VMA_ANON || v->kind == VMA_FILE || v->kind == VMA_SHM) {
            if (map_rest(m, v, &keep) < 0)
                return -m->err->code;
        } else {
            return err_set(m->err, ENOTSUP, "process %d: mapping %#llx is of a kind that cannot be rebuilt", m->p->pid,
                           (unsigned long long)v->start);
        }
    }
    set_layout(m);
    for (size_t i = 0; i < m->n_files; i++) {
        inj_call(&m->b, 0, SYS_close, m->file[i].remote);
        if (run_full_batch(&m->b, "mapping", m->err) < 0)
            return -m->err->code;
    }
    return run_batch(&m->b, "mapping", m->err);
}

static int build(struct build *m)
{
    struct rproc *source = mm_source(m->r, m->p);

    if (source && m->p->came_from && m->p->came_from->mm == source->mm)
        m->from = source->mm;
    if ((m->from && find_keeps(m) < 0) || send_files(m) < 0)
        return -m->err->code;
    if ((m->p->came_from || !m->p->cleared) && unmap_others(m) < 0)
        return -m->err->code;
    if (drop_unshared(m) < 0 || map_all(m) < 0)
        return -m->err->code;
    return fill_private(m->r, m->p, m->err);
}

int mm_build(struct restore *r, struct rproc *p, struct err *err)
{
    struct build m = {.r = r, .p = p, .err = err};
    int r2 = inj_begin(&m.b, &p->inj, err);

    if (r2 == 0)
        r2 = build(&m);
    inj_end(&m.b);
    free(m.file);
    free(m.keep);
    p->built = true;
    return r2 < 0 ? err_wrap(err, "process %d: memory", p->pid) : 0;
}

/* Pages that it shares with a process from which it could not be forked: copied. */
int mm_copy_inherited(struct restore *r, struct rproc *p, struct err *err)
{
    struct rproc *source = mm_source(r, p);
    _cleanup_free_ uint8_t *buf = NULL;

    if (!source || (p->came_from && p->came_from->mm == source->mm))
        return 0;
    buf = malloc(IMAGE_CHUNK_MAX);
    if (!buf)
        return err_set(err, ENOMEM, "out of memory");
    for (size_t i = 0; i < p->mm->n_inherited; i++) {
        const PageRange *g = p->mm->inherited[i];
        for (uint64_t at = g->start; at < g->end;) {
            uint64_t len = g->end - at < IMAGE_CHUNK_MAX ? g->end - at : IMAGE_CHUNK_MAX;
            if (pt_read(source->inj.pid, at, buf, len, err) < 0 || pt_write(p->inj.pid, at, buf, len, err) < 0)
                return err_wrap(err, "process %d: pages of process %d", p->pid, source->pid);
            at += len;
        }
    }
    return 0;
}
