/*
 * Page contents of an open image. Chunks are checked when they are read, not when the image is
 * opened, so that opening costs nothing per GiB; image_verify() checks them all at once and in
 * parallel for who must know before going on. Everything is read with pread(2): a
 * mapped file that shrinks, or a disk that fails, would be SIGBUS instead of an error.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include <lz4.h>

#include "base/util.h"
#include "image/reader.h"

#define VERIFY_THREADS_MAX 16

static int chunk_error(const struct image *img, const struct image_chunk *c, const char *what,
                       struct err *err)
{
    size_t i = (size_t)(c - img->chunks);

    if (c->space)
        return err_set(err, EUCLEAN, "pages: chunk %zu at 0x%llx of object %llu: %s", i,
                       (unsigned long long)c->addr, (unsigned long long)c->space, what);
    return err_set(err, EUCLEAN, "pages: chunk %zu at 0x%llx: %s", i, (unsigned long long)c->addr, what);
}

static const char *bad_entry(const struct image_chunk *c)
{
    if (!c->len || c->len > IMAGE_CHUNK_MAX || c->len % IMAGE_PAGE)
        return "bad length";
    if (c->addr % IMAGE_PAGE || c->addr + c->len < c->addr)
        return "bad address";
    if (c->zero)
        return "bad entry";
    if (c->codec == IMAGE_RAW)
        return c->stored != c->len || c->offset % IMAGE_PAGE ? "bad place in the file" : NULL;
    if (c->codec == IMAGE_LZ4)
        return !c->stored || c->stored >= c->len || c->offset % LAYOUT_ALIGN ? "bad place in the file" : NULL;
    return "compressed in an unknown way";
}

int image_check_chunks(const struct image *img, struct err *err)
{
    uint64_t contents = 0;

    for (size_t i = 0; i < img->n_chunks; i++) {
        const struct image_chunk *c = &img->chunks[i], *before = i ? c - 1 : NULL;
        const char *bad = bad_entry(c);

        if (bad)
            return chunk_error(img, c, bad, err);
        if (before &&
            (before->space > c->space || (before->space == c->space && before->addr + before->len > c->addr)))
            return chunk_error(img, c, "out of order, or over the one before", err);
        contents += c->len;
    }
    if (contents != img->end.contents)
        return err_set(err, EUCLEAN, "pages: %llu bytes where the end record says %llu",
                       (unsigned long long)contents, (unsigned long long)img->end.contents);
    return 0;
}

const struct image_chunk *image_all_chunks(const struct image *img, size_t *n)
{
    *n = img->n_chunks;
    return img->chunks;
}

/* Index of the first chunk whose space is not below `space`. */
static size_t first_of_space(const struct image *img, uint64_t space)
{
    size_t lo = 0, hi = img->n_chunks;

    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;

        if (img->chunks[mid].space < space)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

const struct image_chunk *image_chunks(const struct image *img, uint64_t space, size_t *n)
{
    size_t first = first_of_space(img, space);
    size_t last = space == UINT64_MAX ? img->n_chunks : first_of_space(img, space + 1);

    *n = last - first;
    return img->chunks + first;
}

/* The stored bytes, checked. */
static int read_stored(const struct image *img, const struct image_chunk *c, void *buf, struct err *err)
{
    if (image_pread(img, buf, c->stored, c->offset, err) < 0)
        return err_wrap(err, "pages: chunk %zu at 0x%llx", (size_t)(c - img->chunks),
                        (unsigned long long)c->addr);
    if (layout_checksum(buf, c->stored) != c->xxh3)
        return chunk_error(img, c, "checksum does not match", err);
    return 0;
}

static int decompress(const struct image *img, const struct image_chunk *c, const void *stored, void *dst,
                      struct err *err)
{
    int n = LZ4_decompress_safe(stored, dst, (int)c->stored, (int)c->len);

    return n >= 0 && (uint32_t)n == c->len ? 0 : chunk_error(img, c, "compressed data is damaged", err);
}

int image_read_chunk(const struct image *img, const struct image_chunk *c, void *dst, struct err *err)
{
    uint8_t stored[IMAGE_CHUNK_MAX];

    if (c->codec == IMAGE_RAW)
        return read_stored(img, c, dst, err);
    if (read_stored(img, c, stored, err) < 0)
        return -err->code;
    return decompress(img, c, stored, dst, err);
}

/* The chunk in the mapping, unchecked; NULL with a code when the file cannot be mapped. */
static const uint8_t *map_chunk(struct image *img, const struct image_chunk *c, struct err *err)
{
    const uint8_t *data;

    err->code = 0;
    pthread_mutex_lock(&img->map_lock);
    if (!img->map) {
        void *map = mmap(NULL, img->size, PROT_READ, MAP_PRIVATE, img->fd, 0);

        if (map == MAP_FAILED)
            err_errno(err, "cannot map the image");
        else
            img->map = map;
    }
    data = img->map;
    pthread_mutex_unlock(&img->map_lock);
    return data ? data + c->offset : NULL;
}

static const void *check_mapped(const struct image *img, const struct image_chunk *c, const uint8_t *data, struct err *err)
{
    if (data && layout_checksum(data, c->stored) != c->xxh3) {
        chunk_error(img, c, "checksum does not match", err);
        return NULL;
    }
    return data;
}

const void *image_chunk_raw(struct image *img, const struct image_chunk *c, struct err *err)
{
    err->code = 0;
    return c->codec == IMAGE_RAW ? check_mapped(img, c, map_chunk(img, c, err), err) : NULL;
}

/* Is all of it in the page cache? Who may not know is told so (mincore(2)), and reads it as if it were. */
static bool cached(const uint8_t *data, size_t len)
{
    unsigned char page[IMAGE_CHUNK_MAX / IMAGE_PAGE];

    if (mincore((void *)data, len, page) < 0)
        return true;
    for (size_t i = 0; i < len / IMAGE_PAGE; i++)
        if (!(page[i] & 1))
            return false;
    return true;
}

/* Past the page cache, into which pages would have to be put first that nobody asks for again. */
static bool read_direct(struct image *img, const struct image_chunk *c, void *buf)
{
    char path[32];
    int fd;

    pthread_mutex_lock(&img->map_lock);
    if (img->direct_fd == -1) {
        snprintf(path, sizeof(path), "/proc/self/fd/%d", img->fd);
        img->direct_fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC | O_NONBLOCK);
        if (img->direct_fd < 0)
            img->direct_fd = -2; /* not on this file system */
    }
    fd = img->direct_fd;
    pthread_mutex_unlock(&img->map_lock);
    return fd >= 0 && pread_full(fd, buf, c->stored, (off_t)c->offset) == 0;
}

const void *image_chunk_get(struct image *img, const struct image_chunk *c, void *buf, struct err *err)
{
    const uint8_t *data = NULL;

    err->code = 0;
    if (c->codec == IMAGE_RAW && !(data = map_chunk(img, c, err)))
        return NULL;
    if (data && cached(data, c->stored))
        return check_mapped(img, c, data, err);
    if (data && read_direct(img, c, buf))
        return check_mapped(img, c, buf, err);
    return image_read_chunk(img, c, buf, err) < 0 ? NULL : buf;
}

/* ---- checking everything ---- */

struct verify {
    const struct image *img;
    bool unpack;
    atomic_size_t next; /* chunks from here on are nobody's yet */
    pthread_mutex_t lock;
    size_t failed_at; /* of the failures seen, the one with the lowest number is told */
    struct err failure;
};

static void *verify_worker(void *arg)
{
    struct verify *v = arg;
    uint8_t stored[IMAGE_CHUNK_MAX], contents[IMAGE_CHUNK_MAX];
    struct err err = {0};
    size_t i;

    while ((i = atomic_fetch_add(&v->next, 1)) < v->img->n_chunks) {
        const struct image_chunk *c = &v->img->chunks[i];
        int r = read_stored(v->img, c, stored, &err);

        if (!r && v->unpack && c->codec != IMAGE_RAW)
            r = decompress(v->img, c, stored, contents, &err);
        if (!r)
            continue;
        pthread_mutex_lock(&v->lock);
        if (!v->failure.code || i < v->failed_at) {
            v->failure = err;
            v->failed_at = i;
        }
        pthread_mutex_unlock(&v->lock);
        atomic_store(&v->next, v->img->n_chunks); /* no more work for anybody */
    }
    return NULL;
}

static int usable_cpus(void)
{
    cpu_set_t set;

    return sched_getaffinity(0, sizeof(set), &set) < 0 ? 1 : CPU_COUNT(&set);
}

/* Threads besides the calling one; none when there is little to do or they can't be had. */
static int start_threads(struct verify *v, pthread_t *threads)
{
    int want = usable_cpus() - 1, n = 0;

    want = want > VERIFY_THREADS_MAX ? VERIFY_THREADS_MAX : want;
    if (v->img->n_chunks < 8)
        return 0;
    while (n < want && !pthread_create(&threads[n], NULL, verify_worker, v))
        n++;
    return n;
}

/* The bytes that no checksum covers. */
static int verify_gaps(const struct image *img, struct err *err)
{
    uint64_t pos = sizeof(struct layout_header);
    uint8_t buf[IMAGE_PAGE];

    for (size_t i = 0; i <= img->n_extents; i++) {
        uint64_t next = i < img->n_extents ? img->extents[i].start : img->end.index_offset;
        size_t len = (size_t)(next - pos); /* shorter than a page: check_extents() */

        if (len && image_pread(img, buf, len, pos, err) < 0)
            return -err->code;
        for (size_t j = 0; j < len; j++)
            if (buf[j])
                return err_set(err, EUCLEAN, "padding at offset %llu is not zero",
                               (unsigned long long)(pos + j));
        pos = i < img->n_extents ? img->extents[i].end : pos;
    }
    return 0;
}

static int verify(const struct image *img, bool unpack, struct err *err)
{
    struct verify v = {.img = img, .unpack = unpack, .lock = PTHREAD_MUTEX_INITIALIZER};
    pthread_t threads[VERIFY_THREADS_MAX];
    int n = start_threads(&v, threads);

    verify_worker(&v);
    while (n > 0)
        pthread_join(threads[--n], NULL);
    if (v.failure.code) {
        *err = v.failure;
        return -err->code;
    }
    return verify_gaps(img, err);
}

int image_verify(const struct image *img, struct err *err)
{
    return verify(img, true, err);
}

int image_verify_stored(const struct image *img, struct err *err)
{
    return verify(img, false, err);
}
