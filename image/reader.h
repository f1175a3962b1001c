/* What the files of the reader share: reader.c opens and checks, records.c unpacks, pages.c reads contents.
 */
#ifndef IMAGE_READER_H
#define IMAGE_READER_H

#include <pthread.h>

#include "image/image.h"
#include "image/layout.h"

/* A used piece of the file, [start, end). */
struct extent {
    uint64_t start, end;
};

struct image {
    int fd;
    uint64_t size;
    struct layout_end end;
    uint8_t *index; /* the records' and the chunks' entries as in the file */
    const struct layout_record *entries;
    const struct image_chunk *chunks;
    size_t n_records, n_chunks;
    struct image_record *records;
    uint8_t *payloads;
    struct extent *extents; /* of all blobs, sorted, apart from each other and close together */
    size_t n_extents;
    pthread_mutex_t map_lock;
    void *map; /* of the whole file, made when it is first asked for */
    int direct_fd; /* the same file with O_DIRECT; -1: not tried yet, -2: cannot be had */
};

/* Read len bytes at offset, or say why not. */
int image_pread(const struct image *img, void *buf, size_t len, uint64_t offset, struct err *err);

/* Entries and payloads of the records; the index is loaded and checked. */
int image_load_records(struct image *img, struct err *err);

/* Check the entries of the chunks: limits, order, alignment. */
int image_check_chunks(const struct image *img, struct err *err);

#endif
