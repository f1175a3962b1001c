/*
 * Opening an image. A file may be cut short, damaged, foreign or hostile, so it is taken apart from
 * the outside in, and each step relies only on what the step before has shown: header, end
 * record, index, then that every blob has a place of its own in the file with next to nothing
 * between. That last property bounds everything else: no index entry can claim more than the
 * file holds, and no byte of it serves twice.
 */
#include "image/reader.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/util.h"
#include "image/kinds.h"

int image_pread(const struct image *img, void *buf, size_t len, uint64_t offset, struct err *err)
{
    int r = pread_full(img->fd, buf, len, (off_t)offset);

    if (r == -ENODATA)
        return err_set(err, EUCLEAN, "the file became shorter while it was read");
    if (r)
        return err_set(err, -r, "cannot read at offset %llu: %s", (unsigned long long)offset, strerror(-r));
    return 0;
}

static int check_header(const struct image *img, struct layout_header *h, struct err *err)
{
    size_t have = img->size < sizeof(*h) ? (size_t)img->size : sizeof(*h);
    static const uint64_t zero[ARRAY_SIZE(h->zero)];

    if (!img->size)
        return err_set(err, EINVAL, "the file is empty");
    if (image_pread(img, h, have, 0, err) < 0)
        return -err->code;
    if (memcmp(h->magic, LAYOUT_MAGIC, have < sizeof(h->magic) ? have : sizeof(h->magic)))
        return err_set(err, EINVAL, "not a checkpoint image");
    if (have < sizeof(*h))
        return err_set(err, EINVAL, "cut short: %zu bytes are less than a header", have);
    if (h->version > LAYOUT_VERSION)
        return err_set(err, EINVAL, "made by a newer version (%u), this is %u", h->version, LAYOUT_VERSION);
    if (h->xxh3 != layout_checksum(h, offsetof(struct layout_header, xxh3)))
        return err_set(err, EUCLEAN, "header: checksum does not match");
    if (h->version < 1 || memcmp(h->zero, zero, sizeof(zero)))
        return err_set(err, EINVAL, "header: values that no version writes");
    if (h->machine != IMAGE_MACHINE || h->page_shift != 12)
        return err_set(err, EINVAL, "made on another kind of machine (ELF machine %u, pages of 2^%u bytes)",
                       h->machine, h->page_shift);
    return 0;
}

static int check_end(struct image *img, const struct layout_header *h, struct err *err)
{
    struct layout_end *e = &img->end;
    uint64_t room;

    if (img->size < sizeof(*h) + sizeof(*e))
        return err_set(err, EINVAL, "cut short: the end record is missing");
    if (image_pread(img, e, sizeof(*e), img->size - sizeof(*e), err) < 0)
        return -err->code;
    if (memcmp(e->magic, LAYOUT_END_MAGIC, sizeof(e->magic)))
        return err_set(err, EINVAL, "cut short: the end record is missing");
    if (e->xxh3 != layout_checksum(e, offsetof(struct layout_end, xxh3)))
        return err_set(err, EUCLEAN, "end record: checksum does not match");
    if (e->header_xxh3 != h->xxh3)
        return err_set(err, EUCLEAN, "header and end record are not of the same image");
    if (e->size != img->size)
        return err_set(err, EUCLEAN, "the file has %llu bytes where the end record says %llu",
                       (unsigned long long)img->size, (unsigned long long)e->size);
    room = img->size - sizeof(*h) - sizeof(*e);
    if (e->records < 1 || e->records > LAYOUT_RECORDS_MAX || e->chunks > LAYOUT_CHUNKS_MAX ||
        e->records * sizeof(struct layout_record) + e->chunks * sizeof(struct image_chunk) > room)
        return err_set(err, EINVAL, "end record: %llu records and %llu chunks can't be in this file",
                       (unsigned long long)e->records, (unsigned long long)e->chunks);
    return 0;
}

static int load_index(struct image *img, struct err *err)
{
    const struct layout_end *e = &img->end;
    size_t rec = e->records * sizeof(struct layout_record), chk = e->chunks * sizeof(struct image_chunk);

    if (e->index_offset != img->size - sizeof(*e) - rec - chk || e->index_offset % LAYOUT_ALIGN)
        return err_set(err, EINVAL, "end record: the index is not where it must be");
    img->index = malloc(rec + chk);
    if (!img->index)
        return err_set(err, ENOMEM, "out of memory for an index of %zu bytes", rec + chk);
    if (image_pread(img, img->index, rec + chk, e->index_offset, err) < 0)
        return -err->code;
    if (layout_checksum(img->index, rec + chk) != e->index_xxh3)
        return err_set(err, EUCLEAN, "index: checksum does not match");
    img->entries = (const struct layout_record *)img->index;
    img->chunks = (const struct image_chunk *)(img->index + rec);
    img->n_records = e->records;
    img->n_chunks = e->chunks;
    return 0;
}

static int compare_extents(const void *a, const void *b)
{
    const struct extent *x = a, *y = b;

    if (x->start != y->start)
        return x->start < y->start ? -1 : 1;
    return x->end < y->end ? -1 : x->end > y->end;
}

/* Every blob between header and index, none over another, gaps no longer than alignment makes them. */
static int check_extents(struct image *img, struct err *err)
{
    size_t n = img->n_records + img->n_chunks;
    struct extent *e = calloc(n, sizeof(*e));
    uint64_t pos = sizeof(struct layout_header);

    img->extents = e;
    img->n_extents = n;
    if (!e)
        return err_set(err, ENOMEM, "out of memory for an index of %zu blobs", n);
    for (size_t i = 0; i < img->n_records; i++)
        e[i] = (struct extent){img->entries[i].offset, img->entries[i].offset + img->entries[i].len};
    for (size_t i = 0; i < img->n_chunks; i++)
        e[img->n_records + i] =
            (struct extent){img->chunks[i].offset, img->chunks[i].offset + img->chunks[i].stored};
    qsort(e, n, sizeof(*e), compare_extents);
    for (size_t i = 0; i < n; i++) {
        if (e[i].start < pos || e[i].end < e[i].start || e[i].start - pos >= IMAGE_PAGE)
            return err_set(err, EINVAL, "index: a blob at offset %llu has no place of its own",
                           (unsigned long long)e[i].start);
        pos = e[i].end;
    }
    if (pos > img->end.index_offset || img->end.index_offset - pos >= IMAGE_PAGE)
        return err_set(err, EINVAL, "index: the blobs do not end where the index begins");
    return 0;
}

static int check_all(struct image *img, struct err *err)
{
    struct layout_header h;

    if (check_header(img, &h, err) < 0 || check_end(img, &h, err) < 0 || load_index(img, err) < 0)
        return -err->code;
    if (check_extents(img, err) < 0 || image_check_chunks(img, err) < 0)
        return -err->code;
    return image_load_records(img, err);
}

/* Copy what comes out of a pipe to an unnamed file in its place. */
static int spool(int fd, struct err *err)
{
    const char *dir = getenv("TMPDIR");
    _cleanup_close_ int tmp = open(dir && *dir ? dir : "/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    _cleanup_free_ char *buf = malloc(IMAGE_CHUNK_MAX);
    ssize_t n;

    if (!buf || tmp < 0)
        return err_errno(err, "cannot make a temporary file");
    for (;;) {
        n = read(fd, buf, IMAGE_CHUNK_MAX);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_errno(err, "cannot read");
        if (n == 0)
            return take_fd(&tmp);
        if (write_full(tmp, buf, (size_t)n) < 0)
            return err_errno(err, "cannot write a temporary file");
    }
}

static int open_any(struct image **out, int fd, int may_spool, struct err *err)
{
    struct image *img;
    struct stat st;
    int copy = -1;

    *out = NULL;
    if (fstat(fd, &st) < 0)
        return err_errno(err, "cannot look at the file");
    if (!S_ISREG(st.st_mode)) {
        if (!may_spool)
            return err_set(err, S_ISDIR(st.st_mode) ? EISDIR : EINVAL, "not a regular file");
        copy = spool(fd, err);
        if (copy < 0)
            return -err->code;
        if (fstat(copy, &st) < 0)
            st.st_size = 0;
    }
    img = calloc(1, sizeof(*img));
    if (!img)
        err_set(err, ENOMEM, "out of memory");
    if (img) {
        pthread_mutex_init(&img->map_lock, NULL);
        img->fd = copy >= 0 ? copy : fd;
        img->direct_fd = -1;
        img->size = (uint64_t)st.st_size;
    }
    if (!img || check_all(img, err) < 0) {
        if (copy >= 0)
            close(copy);
        if (img)
            img->fd = -1; /* the caller keeps it */
        image_free(img);
        return -err->code;
    }
    if (copy >= 0)
        close(fd);
    *out = img;
    return 0;
}

int image_open_fd(struct image **img, int fd, struct err *err)
{
    return open_any(img, fd, 1, err);
}

int image_open(struct image **img, const char *path, struct err *err)
{
    /* O_NONBLOCK: a FIFO of that name must not hold us up. */
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);

    *img = NULL;
    if (fd < 0)
        return err_errno(err, "%s", path);
    if (open_any(img, fd, 0, err) < 0)
        return err_wrap(err, "%s", path);
    take_fd(&fd);
    return 0;
}

void image_free(struct image *img)
{
    if (!img)
        return;
    if (img->map)
        munmap(img->map, img->size);
    if (img->direct_fd >= 0)
        close(img->direct_fd);
    if (img->fd >= 0)
        close(img->fd);
    pthread_mutex_destroy(&img->map_lock);
    free(img->extents);
    free(img->payloads);
    free(img->records);
    free(img->index);
    free(img);
}

int image_fd(const struct image *img)
{
    return img->fd;
}

uint64_t image_size(const struct image *img)
{
    return img->size;
}

uint64_t image_seal(const struct image *img)
{
    return img->end.xxh3;
}
