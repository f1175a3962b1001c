/*
 * Sources of content, best first: the file opened anew for reading through /proc/PID/fd or the path given (a
 * description of our own, so SEEK_DATA may move its position); a copy of the program's descriptor, which is
 * only read with pread(2) because its position is the program's; the mappings, through /proc/PID/mem.
 */
#include "tracer/content.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>

#include "base/util.h"
#include "tracer/pool.h"

#define CHUNK       IMAGE_CHUNK_MAX
#define CHUNK_PAGES (CHUNK / IMAGE_PAGE)

struct reader {
    struct image_writer *w;
    uint64_t space;
    uint64_t size; /* of the content */
    int fd;
    bool seeks;   /* the fd's position is ours to move */
    uint8_t *buf; /* CHUNK bytes, page-aligned */
};

static void reader_end(struct reader *r)
{
    if (r->fd >= 0)
        close(r->fd);
    free(r->buf);
}

/* Better: one that can be read at all. */
void content_fd(struct content *k, const struct fd_info *fi)
{
    bool readable = !(fi->flags & O_PATH) && (fi->flags & O_ACCMODE) != O_WRONLY;

    if (k->proc && (!readable || (k->fd_flags & O_ACCMODE) != O_WRONLY))
        return;
    if (fi->flags & O_PATH)
        return;
    k->proc = fi->proc;
    k->fd = fi->fd;
    k->fd_flags = fi->flags;
}

int content_extent(struct ckpt *c, struct content *k, struct proc *p, uint64_t start, uint64_t end,
                   uint64_t offset, struct err *err)
{
    struct extent *e = arena_alloc(c->arena, sizeof(*e));

    if (!e)
        return err_set(err, ENOMEM, "out of memory");
    *e = (struct extent){.proc = p, .start = start, .end = end, .offset = offset, .next = k->extents};
    k->extents = e;
    if (offset + (end - start) > k->extent_end)
        k->extent_end = offset + (end - start);
    return 0;
}

static bool is_zero(const uint8_t *page)
{
    const uint64_t *w = (const uint64_t *)page;
    uint64_t any = 0;

    for (size_t i = 0; i < IMAGE_PAGE / 8 && !any; i += 8)
        any = w[i] | w[i + 1] | w[i + 2] | w[i + 3] | w[i + 4] | w[i + 5] | w[i + 6] | w[i + 7];
    return !any;
}

/* The buffer holds n bytes of the content at page-aligned offset `at`: store the runs of pages that hold
 * something. */
static int put_pages(const struct reader *r, uint64_t at, size_t n, struct err *err)
{
    size_t pages = (n + IMAGE_PAGE - 1) / IMAGE_PAGE;

    memset(r->buf + n, 0, pages * IMAGE_PAGE - n);
    for (size_t i = 0, from; i < pages; i++) {
        if (is_zero(r->buf + i * IMAGE_PAGE))
            continue;
        for (from = i; i < pages && !is_zero(r->buf + i * IMAGE_PAGE); i++)
            ;
        if (image_put_chunk(r->w, r->space, at + from * IMAGE_PAGE, r->buf + from * IMAGE_PAGE,
                            (uint32_t)((i - from) * IMAGE_PAGE), err) < 0)
            return -err->code;
    }
    return 0;
}

static int copy_range(const struct reader *r, uint64_t from, uint64_t to, struct err *err)
{
    for (uint64_t at = from; at < to; at += CHUNK) {
        size_t want = to - at < CHUNK ? (size_t)(to - at) : CHUNK;
        int e = pread_full(r->fd, r->buf, want, (off_t)at);
        if (e < 0)
            return err_set(err, -e, "reading its content at %" PRIu64 ": %s", at,
                           e == -ENODATA ? "it became shorter" : strerror(-e));
        if (put_pages(r, at, want, err) < 0)
            return -err->code;
    }
    return 0;
}

/* What lies within [at, end). Slices of one file are copied at the same time: they do not share a position.
 */
static int copy_slice(const struct reader *r, uint64_t at, uint64_t end, struct err *err)
{
    while (at < end) {
        off_t data = r->seeks ? lseek(r->fd, (off_t)at, SEEK_DATA) : (off_t)at;
        off_t hole = data >= 0 && r->seeks ? lseek(r->fd, data, SEEK_HOLE) : (off_t)end;

        if (data < 0 && errno == ENXIO)
            return 0;
        if (data < 0 || hole <= data) { /* a file system that cannot tell */
            data = (off_t)at;
            hole = (off_t)end;
        }
        uint64_t from = (uint64_t)data & ~(uint64_t)(IMAGE_PAGE - 1);
        uint64_t to = ((uint64_t)hole + IMAGE_PAGE - 1) & ~(uint64_t)(IMAGE_PAGE - 1);
        from = from < at ? at : from;
        to = to > end ? end : to;
        if (from < to && copy_range(r, from, to, err) < 0)
            return -err->code;
        at = to > at ? to : end;
    }
    return 0;
}

#define SLICE      (8ull << 20)
#define SLICES_MAX 65536u

struct slices {
    const struct reader *reader;
    uint64_t step;
};

static int slice_job(void *arg, unsigned worker, size_t i, struct err *err)
{
    const struct slices *s = arg;
    struct reader r = *s->reader;
    uint64_t at = i * s->step, left = r.size - at;
    int e;

    (void)worker;
    if (r.seeks && lseek(r.fd, (off_t)at, SEEK_DATA) < 0 && errno == ENXIO)
        return 0; /* nothing from here on: no buffer is needed */
    r.buf = aligned_alloc(IMAGE_PAGE, CHUNK);
    if (!r.buf)
        return err_set(err, ENOMEM, "out of memory");
    e = copy_slice(&r, at, at + (left < s->step ? left : s->step), err);
    free(r.buf);
    return e;
}

static int copy_file(const struct reader *r, struct err *err)
{
    struct slices s = {.reader = r, .step = SLICE};

    while (r->size / s.step >= SLICES_MAX)
        s.step *= 2;
    return pool_run(slice_job, &s, (size_t)((r->size + s.step - 1) / s.step), err);
}

/* ---- mappings ---- */

/* Does the system swap? Then a page of shared memory may exist without being resident anywhere. */
static bool swap_in_use(void)
{
    _cleanup_free_ char *text = NULL;
    const char *line;

    if (read_file(AT_FDCWD, "/proc/swaps", &text, NULL) < 0)
        return true;
    line = strchr(text, '\n');
    return line && line[1];
}

#define WINDOW (INJ_DATA_SIZE / 2) /* pages that one mincore(2) is asked about */

/*
 * Which of n pages at addr exist, one byte each: mincore(2) in the process looks into the page cache, so it
 * knows pages that another process wrote. Reading one that does not exist would create it.
 */
static int resident(struct proc *p, uint64_t addr, size_t n, uint8_t *vec, struct err *err)
{
    _cleanup_batch_ struct inj_batch b = {0};
    uint64_t at;
    uint32_t call;

    memset(vec, 1, n);
    if (!p->injected)
        return 0;
    if (inj_begin(&b, &p->inj, err) < 0)
        return -err->code;
    at = inj_data(&b, NULL, n);
    call = inj_call(&b, 0, SYS_mincore, addr, n * IMAGE_PAGE, at);
    if (inj_run(&b, err) < 0)
        return -err->code;
    if (!inj_failed(inj_ret(&b, call)))
        memcpy(vec, inj_at(&b, at), n);
    return 0;
}

/*
 * Copy n pages of a mapping that begin at `start`, those that vec says exist and `done`, a bit for each page
 * of the object, does not say were stored already.
 */
static int copy_mapped(const struct reader *r, const struct extent *e, uint64_t start, size_t n,
                       const uint8_t *vec, uint8_t *done, struct err *err)
{
    uint64_t first = (e->offset + (start - e->start)) / IMAGE_PAGE;
    bool any = false;

    for (size_t i = 0; i < n; i++) {
        uint8_t *page = r->buf + i * IMAGE_PAGE, *flags = &done[(first + i) / 8],
                bit = (uint8_t)(1u << (first + i) % 8);

        /* A page that cannot be read is behind the end of the object. */
        if (!(vec[i] & 1) || (*flags & bit) ||
            pread_full(r->fd, page, IMAGE_PAGE, (off_t)(start + i * IMAGE_PAGE)) < 0) {
            memset(page, 0, IMAGE_PAGE);
            continue;
        }
        *flags |= bit;
        any = true;
    }
    return any ? put_pages(r, first * IMAGE_PAGE, n * IMAGE_PAGE, err) : 0;
}

static int copy_window(const struct reader *r, const struct extent *e, uint64_t start, size_t pages,
                       uint8_t *vec, uint8_t *done, struct err *err)
{
    for (size_t i = 0; i < pages; i += CHUNK_PAGES) {
        size_t n = pages - i < CHUNK_PAGES ? pages - i : CHUNK_PAGES;
        bool any = false;

        for (size_t k = 0; k < n; k++)
            any |= vec[i + k] & 1;
        if (any && copy_mapped(r, e, start + i * IMAGE_PAGE, n, vec + i, done, err) < 0)
            return -err->code;
    }
    return 0;
}

static int copy_extent(struct reader *r, const struct extent *e, uint8_t *done, bool all, struct err *err)
{
    _cleanup_free_ uint8_t *vec = malloc(WINDOW);
    char path[40];

    snprintf(path, sizeof(path), "/proc/%d/mem", ckpt_fd_task(e->proc));
    if (r->fd >= 0)
        close(r->fd);
    r->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (r->fd < 0 || !vec)
        return err_errno(err, "%s", path);
    for (uint64_t at = e->start; at < e->end; at += (uint64_t)WINDOW * IMAGE_PAGE) {
        uint64_t left = (e->end - at) / IMAGE_PAGE;
        size_t n = left < WINDOW ? (size_t)left : WINDOW;

        if (all)
            memset(vec, 1, n);
        else if (resident(e->proc, at, n, vec, err) < 0)
            return -err->code;
        if (copy_window(r, e, at, n, vec, done, err) < 0)
            return -err->code;
    }
    return 0;
}

static int copy_extents(struct reader *r, const struct content *k, struct err *err)
{
    _cleanup_free_ uint8_t *done = calloc(1, k->extent_end / IMAGE_PAGE / 8 + 1);
    bool all = k->huge || swap_in_use();

    if (!done)
        return err_set(err, ENOMEM, "out of memory");
    if (!k->extents)
        return err_set(err, EACCES, "its content cannot be read");
    for (const struct extent *e = k->extents; e; e = e->next)
        if (copy_extent(r, e, done, all, err) < 0)
            return -err->code;
    return 0;
}

/* ---- */

static int open_source(struct reader *r, const struct content *k)
{
    struct err ignored;
    char path[64];

    r->seeks = true;
    if (k->proc) {
        snprintf(path, sizeof(path), "/proc/%d/fd/%d", ckpt_fd_task(k->proc), k->fd);
        r->fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    }
    if (r->fd < 0 && k->via)
        r->fd = open(k->via, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (r->fd >= 0)
        return 0;
    r->seeks = false;
    if (k->proc && (k->fd_flags & O_ACCMODE) != O_WRONLY && !(k->fd_flags & O_DIRECT))
        r->fd = ckpt_get_fd(k->proc, k->fd, &ignored);
    return r->fd < 0 ? -EACCES : 0;
}

int content_write(const struct content *k, uint64_t id, uint64_t size, struct image_writer *w,
                  struct err *err)
{
    __attribute__((cleanup(reader_end))) struct reader r = {.w = w, .space = id, .size = size, .fd = -1};

    if (open_source(&r, k) == 0)
        return copy_file(&r, err);
    r.buf = aligned_alloc(IMAGE_PAGE, CHUNK);
    if (!r.buf)
        return err_set(err, ENOMEM, "out of memory");
    return copy_extents(&r, k, err);
}
