/*
 * Writing an image. Many threads put chunks at once, and the only thing they share is the end of
 * the file: a thread compresses and checksums on its own, takes its piece of the file and its
 * entry of the index under the lock, and writes there without it. Where pieces can't be written
 * out of order (a pipe) the write happens under the lock as well.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include <lz4.h>
#include <lz4hc.h>

#include "base/util.h"
#include "image/kinds.h"
#include "image/layout.h"

/* Sizes for the disk's sake: see start_writeback() and reserve(). */
#define WRITEBACK_STEP (8u << 20)
#define RESERVE_MIN    (4u << 20)
#define RESERVE_MAX    (256u << 20)

/* What one thread needs to compress a chunk. */
struct scratch {
    struct scratch *next;
    void *state;
    uint8_t out[IMAGE_CHUNK_MAX];
};

struct image_writer {
    int fd;
    int direct_fd; /* the same file with O_DIRECT, or -1 */
    bool seekable;
    bool finished;
    struct image_options options;
    _Atomic uint64_t end;     /* where the next piece goes; changed under the lock */
    _Atomic uint64_t written; /* bytes handed to the kernel; tells when to start writeback */
    uint64_t header_xxh3;
    uint64_t seal;
    pthread_mutex_t lock; /* all below */
    struct layout_record *records;
    size_t n_records, cap_records;
    uint64_t record_bytes;
    struct image_chunk *chunks;
    size_t n_chunks, cap_chunks;
    struct image_totals totals;
    struct scratch *pool;
    uint64_t reserved;  /* with direct_fd: how far the file's blocks are allocated */
    struct err failure; /* the first one; code 0: none */
};

static int lock_writer(struct image_writer *w, struct err *err)
{
    pthread_mutex_lock(&w->lock);
    if (!w->failure.code && !w->finished)
        return 0;
    if (w->failure.code)
        *err = w->failure;
    else
        err_set(err, EINVAL, "the image is finished already");
    pthread_mutex_unlock(&w->lock);
    return -err->code;
}

/* An image that misses a piece must not be finished: remember the first failure. The lock is held. */
static int fail_locked(struct image_writer *w, const struct err *err)
{
    if (!w->failure.code)
        w->failure = *err;
    return -err->code;
}

static int fail(struct image_writer *w, const struct err *err)
{
    pthread_mutex_lock(&w->lock);
    fail_locked(w, err);
    pthread_mutex_unlock(&w->lock);
    return -err->code;
}

static int write_error(struct err *err, int r, uint64_t offset)
{
    return err_set(err, -r, "cannot write at offset %llu: %s", (unsigned long long)offset, strerror(-r));
}

/*
 * Direct writes that extend a file run one at a time (ext4_dio_write_checks() takes the inode
 * lock exclusively for them), so allocate ahead; image_finish() cuts the rest off. Where this
 * fails nothing is lost but speed. The lock is held.
 */
static void reserve(struct image_writer *w, uint64_t end)
{
    uint64_t step = w->reserved < RESERVE_MIN   ? RESERVE_MIN
                    : w->reserved > RESERVE_MAX ? RESERVE_MAX
                                                : w->reserved;

    if (end <= w->reserved)
        return;
    if (fallocate(w->fd, 0, (off_t)w->reserved, (off_t)(end - w->reserved + step)) < 0)
        w->reserved = UINT64_MAX;
    else
        w->reserved = end + step;
}

/*
 * What will be synced is better sent to the disk while the rest is still being compressed. A
 * step behind the end, where all threads are probably done.
 */
static void start_writeback(struct image_writer *w, size_t len)
{
    uint64_t before = atomic_fetch_add(&w->written, len);
    uint64_t step = (before + len) / WRITEBACK_STEP;

    if ((w->options.sync || w->options.early) && step > before / WRITEBACK_STEP && step >= 2)
        sync_file_range(w->fd, (off_t)((step - 2) * WRITEBACK_STEP), WRITEBACK_STEP, SYNC_FILE_RANGE_WRITE);
}

/* Take len bytes of the file, aligned; on a pipe write them now. The lock is held. */
static int place(struct image_writer *w, const void *data, size_t len, uint64_t align, uint64_t *offset,
                 struct err *err)
{
    static const uint8_t zeros[IMAGE_PAGE];
    uint64_t end = atomic_load_explicit(&w->end, memory_order_relaxed);
    uint64_t at = layout_align(end, align);
    int r = 0;

    if (at > INT64_MAX - len)
        return err_set(err, EFBIG, "the image is too large");
    if (!w->seekable) {
        r = write_full(w->fd, zeros, at - end);
        r = r ? r : write_full(w->fd, data, len);
    }
    if (r)
        return write_error(err, r, at);
    if (w->direct_fd >= 0)
        reserve(w, at + len);
    atomic_store_explicit(&w->end, at + len, memory_order_relaxed);
    *offset = at;
    return 0;
}

/* The write itself, of what place() gave room; without the lock. */
static int write_piece(struct image_writer *w, const void *data, size_t len, uint64_t offset, struct err *err)
{
    int r;

    if (!w->seekable)
        return 0;
    if (w->direct_fd >= 0 && !(offset % IMAGE_PAGE) && !(len % IMAGE_PAGE) &&
        !((uintptr_t)data % IMAGE_PAGE)) {
        r = pwrite_full(w->direct_fd, data, len, (off_t)offset);
        if (r != -EINVAL)
            return r ? write_error(err, r, offset) : 0;
    }
    r = pwrite_full(w->fd, data, len, (off_t)offset);
    if (r)
        return write_error(err, r, offset);
    start_writeback(w, len);
    return 0;
}

static int write_header(struct image_writer *w, struct err *err)
{
    struct layout_header h = {.version = LAYOUT_VERSION, .machine = IMAGE_MACHINE, .page_shift = 12};
    uint64_t offset;

    memcpy(h.magic, LAYOUT_MAGIC, sizeof(h.magic));
    h.xxh3 = layout_checksum(&h, offsetof(struct layout_header, xxh3));
    w->header_xxh3 = h.xxh3;
    if (place(w, &h, sizeof(h), LAYOUT_ALIGN, &offset, err) < 0)
        return -err->code;
    return write_piece(w, &h, sizeof(h), offset, err);
}

/* Not all file systems have O_DIRECT; then everything goes through the page cache. */
static int open_direct(int fd)
{
    char path[32];

    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    return open(path, O_WRONLY | O_DIRECT | O_CLOEXEC);
}

int image_create(struct image_writer **out, int fd, const struct image_options *options, struct err *err)
{
    struct image_writer *w;
    struct stat st;
    int flags = fcntl(fd, F_GETFL);

    *out = NULL;
    if (flags < 0 || fstat(fd, &st) < 0)
        return err_errno(err, "cannot look at the file");
    if (S_ISREG(st.st_mode) && st.st_size)
        return err_set(err, EEXIST, "the file is not empty");
    w = calloc(1, sizeof(*w));
    if (!w)
        return err_set(err, ENOMEM, "out of memory");
    w->fd = fd;
    w->seekable = S_ISREG(st.st_mode) && !(flags & O_APPEND);
    if (options)
        w->options = *options;
    w->direct_fd = w->seekable && w->options.direct ? open_direct(fd) : -1;
    pthread_mutex_init(&w->lock, NULL);
    if (write_header(w, err) < 0) {
        image_writer_free(w);
        return -err->code;
    }
    *out = w;
    return 0;
}

void image_writer_free(struct image_writer *w)
{
    if (!w)
        return;
    for (struct scratch *s = w->pool, *next; s; s = next) {
        next = s->next;
        free(s->state);
        free(s);
    }
    if (w->direct_fd >= 0)
        close(w->direct_fd);
    pthread_mutex_destroy(&w->lock);
    free(w->records);
    free(w->chunks);
    free(w);
}

uint64_t image_bytes(const struct image_writer *w)
{
    return atomic_load_explicit(&w->end, memory_order_relaxed);
}

void image_totals(struct image_writer *w, struct image_totals *totals)
{
    pthread_mutex_lock(&w->lock);
    *totals = w->totals;
    pthread_mutex_unlock(&w->lock);
}

uint64_t image_writer_seal(const struct image_writer *w)
{
    return w->seal;
}

static int check_record(const struct image_writer *w, uint32_t kind, size_t len, struct err *err)
{
    if (len > IMAGE_RECORD_MAX || w->record_bytes + len > IMAGE_RECORDS_MAX ||
        w->n_records >= LAYOUT_RECORDS_MAX)
        return err_set(err, EFBIG, "%s: a record of %zu bytes is too large or one too many", kind_name(kind),
                       len);
    if (!kind_known(kind))
        return err_set(err, EINVAL, "kind %u is not in the table of kinds", kind);
    if ((kind == KIND_HEAD) != (w->n_records == 0))
        return err_set(err, EINVAL, "%s: the first record, and no other, must be the head", kind_name(kind));
    return 0;
}

int image_put(struct image_writer *w, uint32_t kind, const void *payload, size_t len, struct err *err)
{
    struct layout_record entry = {.kind = kind, .len = (uint32_t)len, .xxh3 = layout_checksum(payload, len)};
    struct layout_record *records;
    int r;

    if (lock_writer(w, err) < 0)
        return -err->code;
    r = check_record(w, kind, len, err);
    records = r ? NULL : grow(w->records, w->n_records, &w->cap_records, sizeof(*records));
    if (!r && !records)
        r = err_set(err, ENOMEM, "out of memory");
    if (!r) {
        w->records = records;
        r = place(w, payload, len, LAYOUT_ALIGN, &entry.offset, err);
    }
    if (!r) {
        w->records[w->n_records++] = entry;
        w->record_bytes += len;
        w->totals.records++;
    } else {
        fail_locked(w, err);
    }
    pthread_mutex_unlock(&w->lock);
    if (!r && write_piece(w, payload, len, entry.offset, err) < 0)
        return fail(w, err);
    return r;
}

int image_put_msg(struct image_writer *w, uint32_t kind, const ProtobufCMessage *msg, struct err *err)
{
    size_t len = protobuf_c_message_get_packed_size(msg);
    _cleanup_free_ uint8_t *buf = len <= IMAGE_RECORD_MAX ? malloc(len ? len : 1) : NULL;

    if (!buf)
        err_set(err, len <= IMAGE_RECORD_MAX ? ENOMEM : EFBIG, "%s: cannot pack a record of %zu bytes",
                kind_name(kind), len);
    if (!buf)
        return fail(w, err);
    return image_put(w, kind, buf, protobuf_c_message_pack(msg, buf), err);
}

static struct scratch *get_scratch(struct image_writer *w)
{
    struct scratch *s;

    pthread_mutex_lock(&w->lock);
    s = w->pool;
    if (s)
        w->pool = s->next;
    pthread_mutex_unlock(&w->lock);
    if (s)
        return s;
    s = malloc(sizeof(*s));
    if (s)
        s->state = malloc((size_t)(w->options.level > 1 ? LZ4_sizeofStateHC() : LZ4_sizeofState()));
    if (s && !s->state) {
        free(s);
        s = NULL;
    }
    return s;
}

static void put_scratch(struct image_writer *w, struct scratch *s)
{
    if (!s)
        return;
    pthread_mutex_lock(&w->lock);
    s->next = w->pool;
    w->pool = s;
    pthread_mutex_unlock(&w->lock);
}

/* Compressed length, or 0 when it is not worth it: a raw chunk can be mapped, so it must save a sixteenth. */
static uint32_t compress(const struct image_writer *w, struct scratch *s, const void *data, uint32_t len)
{
    int room = (int)(len - len / 16), level = w->options.level, n;

    if (level > 1)
        n = LZ4_compress_HC_extStateHC(s->state, data, (char *)s->out, (int)len, room, level);
    else
        n = LZ4_compress_fast_extState(s->state, data, (char *)s->out, (int)len, room,
                                       level < 0 ? 1 - level : 1);
    return n > 0 ? (uint32_t)n : 0;
}

static int add_chunk(struct image_writer *w, struct image_chunk *entry, const void *stored, struct err *err)
{
    struct image_chunk *chunks;
    int r;

    if (lock_writer(w, err) < 0)
        return -err->code;
    chunks = grow(w->chunks, w->n_chunks, &w->cap_chunks, sizeof(*chunks));
    if (chunks)
        w->chunks = chunks;
    r = chunks && w->n_chunks < LAYOUT_CHUNKS_MAX ? 0 : err_set(err, ENOMEM, "too many chunks");
    r = r ? r
          : place(w, stored, entry->stored, entry->codec == IMAGE_RAW ? IMAGE_PAGE : LAYOUT_ALIGN,
                  &entry->offset, err);
    if (!r) {
        w->chunks[w->n_chunks++] = *entry;
        w->totals.chunks++;
        w->totals.contents += entry->len;
        w->totals.stored += entry->stored;
    } else {
        fail_locked(w, err);
    }
    pthread_mutex_unlock(&w->lock);
    if (!r && write_piece(w, stored, entry->stored, entry->offset, err) < 0)
        return fail(w, err);
    return r;
}

int image_put_chunk(struct image_writer *w, uint64_t space, uint64_t addr, const void *data, uint32_t len,
                    struct err *err)
{
    struct image_chunk entry = {.space = space, .addr = addr, .len = len, .stored = len, .codec = IMAGE_RAW};
    struct scratch *s = NULL;
    uint32_t packed = 0;
    int r;

    if (!len || len > IMAGE_CHUNK_MAX || len % IMAGE_PAGE || addr % IMAGE_PAGE || addr + len < addr) {
        err_set(err, EINVAL, "pages: %u bytes at 0x%llx are no chunk", len, (unsigned long long)addr);
        return fail(w, err);
    }
    if (w->options.compress == IMAGE_LZ4) {
        s = get_scratch(w);
        packed = s ? compress(w, s, data, len) : 0;
    }
    if (packed) {
        entry.codec = IMAGE_LZ4;
        entry.stored = packed;
        data = s->out;
    }
    entry.xxh3 = layout_checksum(data, entry.stored);
    r = add_chunk(w, &entry, data, err);
    put_scratch(w, s);
    return r;
}

static int compare_chunks(const void *a, const void *b)
{
    const struct image_chunk *x = a, *y = b;

    if (x->space != y->space)
        return x->space < y->space ? -1 : 1;
    return x->addr < y->addr ? -1 : x->addr > y->addr;
}

static int sort_chunks(struct image_writer *w, struct err *err)
{
    if (w->n_chunks)
        qsort(w->chunks, w->n_chunks, sizeof(*w->chunks), compare_chunks);
    for (size_t i = 1; i < w->n_chunks; i++) {
        const struct image_chunk *a = &w->chunks[i - 1], *b = &w->chunks[i];

        if (a->space == b->space && a->addr + a->len > b->addr)
            return err_set(err, EEXIST, "pages: two chunks overlap at 0x%llx", (unsigned long long)b->addr);
    }
    return 0;
}

/* Index and end record as one piece, so that the checksums are over plain memory. */
static int write_index(struct image_writer *w, struct err *err)
{
    size_t rec = w->n_records * sizeof(*w->records), chk = w->n_chunks * sizeof(*w->chunks);
    struct layout_end end = {.records = w->n_records, .chunks = w->n_chunks, .contents = w->totals.contents};
    size_t len = rec + chk + sizeof(end);
    _cleanup_free_ uint8_t *buf = malloc(len);

    if (!buf)
        return err_set(err, ENOMEM, "out of memory for the index");
    if (rec)
        memcpy(buf, w->records, rec);
    if (chk)
        memcpy(buf + rec, w->chunks, chk);
    memcpy(end.magic, LAYOUT_END_MAGIC, sizeof(end.magic));
    end.index_offset = layout_align(image_bytes(w), LAYOUT_ALIGN);
    end.size = end.index_offset + len;
    end.header_xxh3 = w->header_xxh3;
    end.index_xxh3 = layout_checksum(buf, rec + chk);
    end.xxh3 = layout_checksum(&end, offsetof(struct layout_end, xxh3));
    memcpy(buf + rec + chk, &end, sizeof(end));
    if (place(w, buf, len, LAYOUT_ALIGN, &end.index_offset, err) < 0 ||
        write_piece(w, buf, len, end.index_offset, err) < 0)
        return -err->code;
    w->seal = end.xxh3;
    return 0;
}

int image_finish(struct image_writer *w, struct err *err)
{
    int r;

    if (lock_writer(w, err) < 0)
        return -err->code;
    r = w->n_records ? sort_chunks(w, err) : err_set(err, EINVAL, "an image needs a head record");
    r = r ? r : write_index(w, err);
    if (!r && w->reserved && ftruncate(w->fd, (off_t)image_bytes(w)) < 0)
        r = err_errno(err, "cannot cut the file to its length");
    if (!r && w->options.sync && w->seekable && fdatasync(w->fd) < 0)
        r = err_errno(err, "cannot sync");
    if (r)
        fail_locked(w, err);
    w->finished = true;
    pthread_mutex_unlock(&w->lock);
    return r;
}
