/*
 * Pages that a process still shares with the one it was forked from (copy-on-write) are stored once, in the other's
 * image, and are shared again after a restart: Mm.inherited. Root sees page frame numbers in /proc/PID/pagemap; others do
 * not, and compare contents (bit 56, "exclusively mapped", is an estimate for large folios). A page that is equal in
 * both may be shared in any case: nobody can tell.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "base/util.h"
#include "image/vma.h"
#include "tracer/collect.h"
#include "tracer/memory.h"

#define PAGE         4096u
#define AT_ONCE      64u
#define PM_PRESENT   (1ull << 63)
#define PM_FILE      (1ull << 61)
#define PM_PFN       ((1ull << 55) - 1)

struct pair {
    struct ckpt *c;
    struct proc *child, *parent;
    int child_map, parent_map; /* /proc/PID/pagemap */
    uint8_t *content;          /* two blocks of AT_ONCE pages: the child's, the parent's */
};

/* The same mapping in both, as the restorer judges it (restorer/mm.c). */
static bool same_mapping(const Vma *a, const Vma *b)
{
    return a->kind == b->kind && a->object == b->object && a->flags == b->flags && (a->flags & MAP_PRIVATE) &&
           !(a->flags & MAP_HUGETLB) && !(b->advice & (VMA_ADV_DONTFORK | VMA_ADV_WIPEONFORK)) &&
           (a->kind == VMA_ANON || (a->kind == VMA_FILE && a->offset - b->offset == a->start - b->start));
}

static int add_range(struct pair *k, uint64_t start, uint64_t end)
{
    Mm *mm = k->child->mm;
    PageRange *last = mm->n_inherited ? mm->inherited[mm->n_inherited - 1] : NULL;

    if (last && last->end == start) {
        last->end = end;
        return 0;
    }
    last = arena_alloc(k->c->arena, sizeof(*last));
    if (!last)
        return -ENOMEM;
    page_range__init(last);
    last->start = start;
    last->end = end;
    arena_push(k->c->arena, (void ***)&mm->inherited, &mm->n_inherited, last);
    return 0;
}

/* What /proc/PID/pagemap says of n pages in both. */
struct block {
    uint64_t c[AT_ONCE], p[AT_ONCE];
    bool known, read; /* pagemap could be read; contents were, too, since frame numbers are hidden */
};

static bool candidate(const struct block *b, uint64_t i)
{
    return (b->c[i] & b->p[i] & PM_PRESENT) && !((b->c[i] | b->p[i]) & PM_FILE);
}

static void look(const struct pair *k, uint64_t addr, uint64_t n, struct block *b)
{
    struct err ignored;
    bool hidden = false;

    b->read = false;
    b->known = pread_full(k->child_map, b->c, n * 8, (off_t)(addr / PAGE * 8)) == 0 &&
               pread_full(k->parent_map, b->p, n * 8, (off_t)(addr / PAGE * 8)) == 0;
    for (uint64_t i = 0; b->known && i < n && !hidden; i++)
        hidden = candidate(b, i) && !(b->c[i] & PM_PFN);
    if (hidden)
        b->read = read_memory(proc_task(k->child), addr, k->content, (uint32_t)(n * PAGE), &ignored) == 0 &&
                  read_memory(proc_task(k->parent), addr, k->content + AT_ONCE * PAGE, (uint32_t)(n * PAGE), &ignored) == 0;
}

static bool shared(const struct pair *k, const struct block *b, uint64_t i)
{
    if (!b->known || !candidate(b, i))
        return false;
    if (b->c[i] & PM_PFN)
        return (b->c[i] & PM_PFN) == (b->p[i] & PM_PFN);
    return b->read && !memcmp(k->content + i * PAGE, k->content + (AT_ONCE + i) * PAGE, PAGE);
}

/* Go through one run of pages that the child has. What is not shared stays in the child's list (*keep). */
static int split_run(struct pair *k, struct page_run run, const Vma *u, struct page_list *keep, struct err *err)
{
    struct block b;

    for (uint64_t at = run.addr; at < run.addr + run.len;) {
        uint64_t n = (run.addr + run.len - at) / PAGE;
        n = n < AT_ONCE ? n : AT_ONCE;
        b.known = false;
        if (u && at < u->end && at + n * PAGE > u->start)
            look(k, at, n, &b);
        for (uint64_t i = 0; i < n; i++) {
            uint64_t addr = at + i * PAGE;
            bool in = u && addr >= u->start && addr < u->end;
            int r = in && shared(k, &b, i) ? add_range(k, addr, addr + PAGE)
                                                      : page_list_add(keep, addr, addr + PAGE, err);
            if (r < 0)
                return r;
        }
        at += n * PAGE;
    }
    return 0;
}

/* The parent's mapping that matches v, NULL: none. Both lists ascend; *k is where to go on. */
static const Vma *counterpart(const Mm *parent, const Vma *v, size_t *k)
{
    while (*k < parent->n_vmas && parent->vmas[*k]->end <= v->start)
        (*k)++;
    for (size_t i = *k; i < parent->n_vmas && parent->vmas[i]->start < v->end; i++)
        if (same_mapping(v, parent->vmas[i]))
            return parent->vmas[i];
    return NULL;
}

static int split_all(struct pair *k, struct page_list *keep, struct err *err)
{
    size_t n, at = 0, v = 0;
    uint64_t bytes;
    const struct page_run *runs = page_runs(k->child, &n, &bytes);
    const Mm *mm = k->child->mm;

    for (size_t i = 0; i < n; i++) {
        struct page_run rest = runs[i];
        while (rest.len) { /* a run may go over several mappings */
            while (v < mm->n_vmas && mm->vmas[v]->end <= rest.addr)
                v++;
            uint64_t end = rest.addr + rest.len;
            bool inside = v < mm->n_vmas && mm->vmas[v]->start <= rest.addr;
            if (inside && mm->vmas[v]->end < end)
                end = mm->vmas[v]->end;
            const Vma *u = inside ? counterpart(k->parent->mm, mm->vmas[v], &at) : NULL;
            if (split_run(k, (struct page_run){rest.addr, end - rest.addr}, u, keep, err) < 0)
                return -err->code;
            rest = (struct page_run){end, rest.addr + rest.len - end};
        }
    }
    return 0;
}

static int open_pagemap(pid_t pid)
{
    char path[40];

    snprintf(path, sizeof(path), "/proc/%d/pagemap", pid);
    return open(path, O_RDONLY | O_CLOEXEC);
}

int collect_inherited(struct ckpt *c, struct proc *p, struct err *err)
{
    struct pair k = {.c = c, .child = p, .parent = p->parent ? p->parent->mm_proc : NULL};
    struct page_list keep = {0};
    int r;

    if (p->shares_mm || !k.parent || k.parent == p || k.parent->zombie || !k.parent->mm)
        return 0;
    _cleanup_close_ int child = open_pagemap(proc_task(p)), parent = open_pagemap(proc_task(k.parent));
    if (child < 0 || parent < 0)
        return 0;
    k.child_map = child;
    k.parent_map = parent;
    _cleanup_free_ uint8_t *content = malloc(2 * AT_ONCE * PAGE);
    if (!content)
        return err_set(err, ENOMEM, "out of memory");
    k.content = content;
    r = split_all(&k, &keep, err);
    if (r < 0) {
        page_list_free(&keep);
        return r;
    }
    if (p->mm->n_inherited)
        p->mm->inherit_from = k.parent->pid;
    set_page_runs(p, &keep);
    return 0;
}
