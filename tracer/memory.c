/*
 * Private memory: which pages hold something of the process's own (PAGEMAP_SCAN, or /proc/PID/pagemap on kernels
 * before 6.7), and their contents into the page store, read from outside by several threads at once.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/uio.h>

#include "base/log.h"
#include "base/util.h"
#include "image/vma.h"
#include "tracer/collect.h"
#include "tracer/memory.h"
#include "tracer/pool.h"
#include "tracer/snapshot.h"

/* include/uapi/linux/fs.h of 6.7 and later; Debian 12's headers are older. */
struct scan_region {
    uint64_t start, end, categories;
};
struct scan_arg {
    uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
    uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
#define SCAN_IOCTL    _IOWR('f', 16, struct scan_arg)
#define SCAN_FILE     (1ull << 2)
#define SCAN_PRESENT  (1ull << 3)
#define SCAN_SWAPPED  (1ull << 4)
#define SCAN_PFNZERO  (1ull << 5)
#define SCAN_GUARD    (1ull << 8)
#define SCAN_AT_ONCE  512

/* Entries of /proc/PID/pagemap (Documentation/admin-guide/mm/pagemap.rst). */
#define PM_EXCLUSIVE  (1ull << 56)
#define PM_FILE       (1ull << 61)
#define PM_PRESENT    (1ull << 63)

int page_list_add(struct page_list *m, uint64_t start, uint64_t end, struct err *err)
{
    if (m->n && m->runs[m->n - 1].addr + m->runs[m->n - 1].len == start) {
        m->runs[m->n - 1].len += end - start;
    } else {
        struct page_run *more = grow(m->runs, m->n, &m->cap, sizeof(*m->runs));
        if (!more)
            return err_set(err, ENOMEM, "out of memory");
        m->runs = more;
        more[m->n++] = (struct page_run){start, end - start};
    }
    m->bytes += end - start;
    return 0;
}

static int add_guard(struct ckpt *c, struct proc *p, uint64_t start, uint64_t end)
{
    PageRange *g = arena_alloc(c->arena, sizeof(*g));

    page_range__init(g);
    g->start = start;
    g->end = end;
    arena_push(c->arena, (void ***)&p->mm->guards, &p->mm->n_guards, g);
    return 0;
}

static int scan(struct ckpt *c, struct proc *p, int fd, const Vma *v, uint64_t *guard, struct err *err)
{
    struct scan_region regions[SCAN_AT_ONCE];
    struct scan_arg a = {
        .size = sizeof(a), .start = v->start, .end = v->end, .vec = (uint64_t)regions, .vec_len = SCAN_AT_ONCE,
        .category_inverted = SCAN_FILE | SCAN_PFNZERO, .category_mask = SCAN_FILE | SCAN_PFNZERO,
        .category_anyof_mask = SCAN_PRESENT | SCAN_SWAPPED | *guard, .return_mask = *guard,
    };

    while (a.start < v->end) {
        int n = ioctl(fd, SCAN_IOCTL, &a);
        if (n < 0 && errno == EINVAL && *guard) { /* a kernel without guard regions */
            *guard = 0;
            a.category_anyof_mask = SCAN_PRESENT | SCAN_SWAPPED;
            a.return_mask = 0;
            continue;
        }
        if (n < 0)
            return err_errno(err, "PAGEMAP_SCAN");
        for (int i = 0; i < n; i++) {
            int r = regions[i].categories & SCAN_GUARD ? add_guard(c, p, regions[i].start, regions[i].end)
                                                       : page_list_add(p->mem, regions[i].start, regions[i].end, err);
            if (r < 0)
                return r;
        }
        if (n < SCAN_AT_ONCE && a.walk_end >= v->end)
            break;
        if (a.walk_end <= a.start && n == 0)
            break;
        a.start = a.walk_end;
    }
    return 0;
}

/* Documentation/admin-guide/mm/pagemap.rst: bit 63 present, 62 swapped, 61 file page or shared. */
static int scan_pagemap(struct proc *p, int fd, const Vma *v, struct err *err)
{
    uint64_t e[4096];

    for (uint64_t at = v->start; at < v->end;) {
        size_t want = (v->end - at) / 4096 < ARRAY_SIZE(e) ? (v->end - at) / 4096 : ARRAY_SIZE(e);
        int r = pread_full(fd, e, want * 8, (off_t)(at / 4096 * 8));
        if (r < 0)
            return err_set(err, -r, "pagemap: %s", strerror(-r));
        for (size_t i = 0; i < want; i++)
            if (e[i] >> 62 && !(e[i] >> 61 & 1) &&
                (r = page_list_add(p->mem, at + i * 4096, at + (i + 1) * 4096, err)) < 0)
                return r;
        at += want * 4096;
    }
    return 0;
}

int collect_pages(struct ckpt *c, struct proc *p, struct err *err)
{
    char path[40];
    uint64_t guard = SCAN_GUARD;
    struct page_list *m = calloc(1, sizeof(*m));
    bool have_scan = true;

    p->mem = m;
    if (!m)
        return err_set(err, ENOMEM, "out of memory");
    snprintf(path, sizeof(path), "/proc/%d/pagemap", proc_task(p));
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_errno(err, "%s", path);
    for (size_t i = 0; i < p->mm->n_vmas; i++) {
        const Vma *v = p->mm->vmas[i];
        if (!(v->flags & MAP_PRIVATE) || (v->kind != VMA_ANON && v->kind != VMA_FILE && v->kind != VMA_SHM))
            continue;
        int r = have_scan ? scan(c, p, fd, v, &guard, err) : scan_pagemap(p, fd, v, err);
        if (r == -ENOTTY && have_scan) {
            have_scan = false;
            r = scan_pagemap(p, fd, v, err);
        }
        if (r < 0)
            return err_wrap(err, "process %d: mapping at %#" PRIx64, p->pid, v->start);
    }
    return 0;
}

const struct page_run *page_runs(const struct proc *p, size_t *n, uint64_t *bytes)
{
    const struct page_list *m = p->mem;

    *n = m ? m->n : 0;
    *bytes = m ? m->bytes : 0;
    return m ? m->runs : NULL;
}

void page_list_free(struct page_list *l)
{
    free(l->runs);
    *l = (struct page_list){0};
}

void set_page_runs(struct proc *p, struct page_list *l)
{
    struct page_list *m = p->mem;

    page_list_free(m);
    *m = *l;
}

void free_pages(struct proc *p)
{
    if (p->mem)
        page_list_free(p->mem);
    free(p->mem);
    p->mem = NULL;
}

/* --- contents -------------------------------------------------------------------------------------- */

struct chunk_job {
    struct proc *proc;
    pid_t pid; /* from whom it is read: the process or its snapshot */
    uint64_t addr;
    uint32_t len;
};

struct store {
    struct chunk_job *jobs;
    size_t n, cap;
    void **buffers; /* one for each worker */
    void (*progress)(void *arg, uint64_t bytes);
    void *progress_arg;
};

static bool is_zero(const void *page)
{
    const uint64_t *w = page;

    for (size_t i = 0; i < IMAGE_PAGE / 8; i += 8)
        if (w[i] | w[i + 1] | w[i + 2] | w[i + 3] | w[i + 4] | w[i + 5] | w[i + 6] | w[i + 7])
            return false;
    return true;
}

/* Put a buffer of pages, leaving out those that are zero. */
int put_pages(struct image_writer *w, uint64_t space, uint64_t addr, const void *data, uint32_t len, struct err *err)
{
    const char *d = data;

    for (uint32_t at = 0; at < len;) {
        uint32_t end = at;
        while (end < len && !is_zero(d + end))
            end += IMAGE_PAGE;
        if (end > at && image_put_chunk(w, space, addr + at, d + at, end - at, err) < 0)
            return -err->code;
        for (at = end; at < len && is_zero(d + at);)
            at += IMAGE_PAGE;
    }
    return 0;
}

/* Is any page of the range anonymous memory that others have mapped, too (copy-on-write since a fork)? */
static bool any_shared(pid_t pid, uint64_t addr, uint32_t len)
{
    uint64_t entry[IMAGE_CHUNK_MAX / IMAGE_PAGE];
    size_t n = len / IMAGE_PAGE;
    char path[32];

    if (n > ARRAY_SIZE(entry))
        return true;
    snprintf(path, sizeof(path), "/proc/%d/pagemap", pid);
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || pread_full(fd, entry, n * sizeof(*entry), (off_t)(addr / IMAGE_PAGE * sizeof(*entry))) < 0)
        return false;
    for (size_t i = 0; i < n; i++)
        if ((entry[i] & (PM_PRESENT | PM_FILE | PM_EXCLUSIVE)) == PM_PRESENT)
            return true;
    return false;
}

/*
 * process_vm_readv is the fast way for what a process has alone. It pins pages, for which the kernel gives the process
 * its own copy of each that is shared copy-on-write (gup_must_unshare() in mm/internal.h); /proc/PID/mem does not, and it
 * can read what the process itself may not (PROT_NONE).
 */
int read_memory(pid_t pid, uint64_t addr, void *buf, uint32_t len, struct err *err)
{
    struct iovec l = {buf, len}, r = {(void *)addr, len};
    char path[32];
    int res;

    if (!any_shared(pid, addr, len) && process_vm_readv(pid, &l, 1, &r, 1, 0) == (ssize_t)len)
        return 0;
    snprintf(path, sizeof(path), "/proc/%d/mem", pid);
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_errno(err, "%s", path);
    res = pread_full(fd, buf, len, (off_t)addr);
    if (res < 0)
        return err_set(err, -res, "process %d: reading its memory at %#" PRIx64 ": %s", pid, addr, strerror(-res));
    return 0;
}

static int store_chunk(void *arg, unsigned worker, size_t i, struct err *err)
{
    struct store *s = arg;
    struct chunk_job *j = &s->jobs[i];

    if (read_memory(j->pid, j->addr, s->buffers[worker], j->len, err) < 0 ||
        put_pages(j->proc->writer, IMAGE_SPACE_PRIVATE, j->addr, s->buffers[worker], j->len, err) < 0)
        return -err->code;
    if (s->progress)
        s->progress(s->progress_arg, j->len);
    return 0;
}

static int add_jobs(struct store *s, struct proc *p, pid_t pid, uint64_t start, uint64_t end, struct err *err)
{
    for (uint64_t at = start; at < end; at += IMAGE_CHUNK_MAX) {
        uint64_t len = end - at < IMAGE_CHUNK_MAX ? end - at : IMAGE_CHUNK_MAX;
        struct chunk_job *more = grow(s->jobs, s->n, &s->cap, sizeof(*more));
        if (!more)
            return err_set(err, ENOMEM, "out of memory");
        s->jobs = more;
        more[s->n++] = (struct chunk_job){p, pid, at, (uint32_t)len};
    }
    return 0;
}

/* The pages that are to be read from the process itself, or (later) those that its snapshot has. */
static int make_jobs(struct store *s, struct proc *p, bool later, struct err *err)
{
    size_t n;
    uint64_t bytes;
    const struct page_run *runs = page_runs(p, &n, &bytes);
    pid_t pid = later ? p->snapshot->pid : proc_task(p);

    for (size_t i = 0; i < n; i++) {
        uint64_t at = runs[i].addr, end = at + runs[i].len, begin = at;
        while (at < end) { /* stretches that are all of one sort */
            uint64_t next;
            bool now = snapshot_lacks(p, at, &next), wanted = now != later;
            at = next < end ? next : end;
            if (wanted && at < end && snapshot_lacks(p, at, &next) == now)
                continue;
            if (wanted && add_jobs(s, p, pid, begin, at, err) < 0)
                return -err->code;
            begin = at;
        }
    }
    return 0;
}

int store_pages(struct ckpt *c, bool later, void (*progress)(void *, uint64_t), void *arg, struct err *err)
{
    struct store s = {.progress = progress, .progress_arg = arg};
    unsigned workers = pool_workers();
    int r = 0;

    s.buffers = calloc(workers, sizeof(void *));
    for (unsigned i = 0; s.buffers && i < workers && r == 0; i++) {
        s.buffers[i] = aligned_alloc(IMAGE_PAGE, IMAGE_CHUNK_MAX);
        if (!s.buffers[i])
            r = err_set(err, ENOMEM, "out of memory");
    }
    if (!s.buffers)
        return err_set(err, ENOMEM, "out of memory");
    for (size_t i = 0; i < c->nprocs && r == 0; i++)
        if (c->procs[i]->mem && (!later || (c->procs[i]->snapshot && c->procs[i]->snapshot->entered)))
            r = make_jobs(&s, c->procs[i], later, err);
    if (r == 0)
        r = pool_run(store_chunk, &s, s.n, err);
    for (unsigned i = 0; i < workers; i++)
        free(s.buffers[i]);
    free(s.buffers);
    free(s.jobs);
    return r;
}
