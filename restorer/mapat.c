/*
 * The memory of an io_uring can be mapped, and moved, only to where the kernel puts it (io_uring/memmap.c:
 * io_uring_get_unmapped_area). So the kernel is left no choice: all of the address space that is free is
 * reserved, but for the one hole that is wanted. A reservation costs a mapping without pages.
 */
#include "restorer/mapat.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "base/util.h"

#define LOWEST 0x10000ull        /* vm.mmap_min_addr is no higher anywhere */
#define TOP    0x7ffffffff000ull /* end of user addresses with four levels of page tables */

struct gap {
    uint64_t start, end;
};

struct gaps {
    struct gap *gap;
    size_t n, cap;
};

static int add_gap(struct gaps *g, uint64_t start, uint64_t end, struct err *err)
{
    struct gap *more;

    if (start >= end)
        return 0;
    more = grow(g->gap, g->n, &g->cap, sizeof(*more));
    if (!more)
        return err_set(err, ENOMEM, "out of memory");
    g->gap = more;
    g->gap[g->n++] = (struct gap){start, end};
    return 0;
}

/* What is free, without the range that is wanted. */
static int find_gaps(const struct rproc *p, uint64_t start, uint64_t end, struct gaps *g, struct err *err)
{
    _cleanup_free_ char *text = NULL;
    char *save = NULL;
    uint64_t at = LOWEST;
    bool done = false;

    if (read_proc(&text, NULL, err, "%d/maps", p->host_pid) < 0)
        return -err->code;
    for (char *line = strtok_r(text, "\n", &save); line || !done;
         line = line ? strtok_r(NULL, "\n", &save) : NULL) {
        unsigned long long from = TOP, to = TOP;

        if (line && (sscanf(line, "%llx-%llx", &from, &to) != 2 || from > TOP))
            from = to = TOP; /* [vsyscall] */
        done |= from == TOP;
        if (from > at) {
            uint64_t cut_start = start > at ? (start < from ? start : from) : at;
            uint64_t cut_end = end > at ? (end < from ? end : from) : at;
            if (add_gap(g, at, cut_start, err) < 0 || add_gap(g, cut_end, from, err) < 0)
                return -err->code;
        }
        at = to > at ? to : at;
        if (done)
            break;
    }
    return 0;
}

static int for_gaps(struct rproc *p, const struct gaps *g, bool reserve, struct err *err)
{
    _cleanup_batch_ struct inj_batch b = {0};

    if (inj_begin(&b, &p->inj, err) < 0)
        return -err->code;
    for (size_t i = 0; i < g->n; i++) {
        uint64_t at = g->gap[i].start, len = g->gap[i].end - at;

        if (reserve)
            inj_call(&b, BLOB_MUST, SYS_mmap, at, len, PROT_NONE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
        else
            inj_call(&b, BLOB_MUST, SYS_munmap, at, len);
        if (b.ncalls < INJ_MAX_CALLS && i + 1 < g->n)
            continue;
        if (inj_run(&b, err) < 0 || inj_check(&b, err, "leaving one hole in its address space") < 0)
            return -err->code;
        inj_reset(&b);
    }
    return 0;
}

int map_at(struct rproc *p, uint64_t start, uint64_t end, uint32_t prot, int number, uint64_t offset,
           struct err *err)
{
    struct gaps g = {0};
    int64_t at = 0;
    int r;

    r = find_gaps(p, start, end, &g, err);
    if (r == 0)
        r = for_gaps(p, &g, true, err);
    if (r == 0)
        r = inj_syscall(
            &p->inj, &at, err, SYS_mmap,
            (uint64_t[6]){0, end - start, prot, MAP_SHARED | MAP_POPULATE, (uint64_t)number, offset});
    if (r == 0)
        r = for_gaps(p, &g, false, err);
    free(g.gap);
    if (r == 0 && inj_failed(at))
        return err_set(err, (int)-at, "process %d: mapping at %#llx: %s", p->pid, (unsigned long long)start,
                       strerror((int)-at));
    if (r == 0 && (uint64_t)at != start)
        return err_set(err, EIO, "process %d: a mapping came out at %#llx instead of %#llx", p->pid,
                       (unsigned long long)at, (unsigned long long)start);
    return r;
}
