/*
 * Images: the file that holds one checkpointed process. It is a header, then blobs in any order
 * (records and page chunks), then an index of all blobs, then an end record; dmtcp-image(5) has
 * the bytes. A record is a kind (image/kinds.h) and a payload, by custom a protobuf message. A
 * chunk is up to 256 KiB of page contents, known by (space, address).
 *
 * The index comes last and says everything, so a writer never seeks and an image can go down a
 * pipe. What a reader hands out has been checked against its checksum; nothing in a file is
 * believed before, and a file that changes or shrinks while it is open gives an error, not SIGBUS
 * (contents are read with pread(2); only image_chunk_raw() and image_chunk_get() map the file).
 *
 * Error texts do not name the file; image_open() puts its path in front, other callers know theirs.
 */
#ifndef IMAGE_IMAGE_H
#define IMAGE_IMAGE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <protobuf-c/protobuf-c.h>

#include "base/err.h"

#define IMAGE_PAGE      4096u
#define IMAGE_CHUNK_MAX (256u << 10) /* bytes of page contents in a chunk */

/* The `space` of the private memory of the image's own process; others are ids of shared objects. */
#define IMAGE_SPACE_PRIVATE 0

/* ---- writing ---- */

struct image_writer;

struct image_options {
    int compress; /* IMAGE_RAW or IMAGE_LZ4 */
    int level;    /* LZ4: 0 and 1 fast, 2 to 12 slower and smaller; negative: faster still */
    int sync;     /* image_finish() returns only when the data is on the disk */
    int early;    /* send data to the disk while more is coming: it will be synced soon */
    int direct;   /* write page-aligned chunks past the page cache where the file system can */
};

enum image_codec { IMAGE_RAW = 0, IMAGE_LZ4 = 1 };

struct image_totals {
    uint64_t records, chunks;
    uint64_t contents; /* bytes of page contents put */
    uint64_t stored;   /* bytes that they take in the file */
};

/*
 * Begin an image on fd, which stays the caller's and must stay open: an empty regular file (then
 * threads write side by side at their own offsets) or anything that can be appended to, such as a
 * pipe. options NULL: raw, no sync. On success *w is the caller's, to be given to
 * image_writer_free() whether or not the rest goes well.
 */
int image_create(struct image_writer **w, int fd, const struct image_options *options, struct err *err);

/* Add a record. The first must be of KIND_HEAD. Payloads up to IMAGE_RECORD_MAX bytes; copied. Thread-safe.
 */
int image_put(struct image_writer *w, uint32_t kind, const void *payload, size_t len, struct err *err);
int image_put_msg(struct image_writer *w, uint32_t kind, const ProtobufCMessage *msg, struct err *err);

/*
 * Add page contents: len bytes, a multiple of IMAGE_PAGE up to IMAGE_CHUNK_MAX, that belong at
 * page-aligned addr of space. Pages that no chunk covers read as zero, so all-zero pages need
 * not be put. Thread-safe, and meant to be called from several threads: compression, checksum and (on a
 * regular file) the write happen in the calling thread, outside the lock. With `direct`, data
 * must be page-aligned to have the benefit.
 */
int image_put_chunk(struct image_writer *w, uint64_t space, uint64_t addr, const void *data, uint32_t len,
                    struct err *err);

/*
 * Write index and end record. Fails when two chunks overlap and when an earlier call failed (an
 * image that misses something must never look whole). All other calls must have returned.
 */
int image_finish(struct image_writer *w, struct err *err);

/* After success or failure; NULL does nothing. Does not close the fd. */
void image_writer_free(struct image_writer *w);

/* Length of the file so far, for progress; any thread, any time. */
uint64_t image_bytes(const struct image_writer *w);
void image_totals(struct image_writer *w, struct image_totals *totals);

/* After image_finish(): a checksum that stands for the whole image (it covers all others). */
uint64_t image_writer_seal(const struct image_writer *w);

/* ---- reading ---- */

#define IMAGE_RECORD_MAX  (64u << 20)  /* bytes of one record */
#define IMAGE_RECORDS_MAX (512u << 20) /* bytes of all records of an image */

struct image;

struct image_record {
    uint32_t kind;
    uint32_t ordinal; /* 0 for the first record of this kind in the image, and so on */
    const uint8_t *data;
    size_t len;
};

/* An entry of the index, as it is in the file. */
struct image_chunk {
    uint64_t space;
    uint64_t addr;
    uint64_t offset; /* of the stored bytes in the file; a multiple of IMAGE_PAGE for IMAGE_RAW */
    uint64_t xxh3;   /* of the stored bytes */
    uint32_t len;    /* bytes of page contents */
    uint32_t stored; /* bytes in the file */
    uint32_t codec;  /* enum image_codec */
    uint32_t zero;   /* always 0 */
};

/*
 * Open an image and check all of it but the chunks' contents: header, version, end record, index,
 * every record, and that the blobs lie inside the file and apart from each other. The fd of
 * image_open_fd() becomes the image's own when it succeeds; a pipe is first copied to an unnamed file.
 */
int image_open(struct image **img, const char *path, struct err *err);
int image_open_fd(struct image **img, int fd, struct err *err);
void image_free(struct image *img);

/* All records in the order they were put; they live as long as the image. */
const struct image_record *image_records(const struct image *img, size_t *n);

/* The nth record of a kind, counted from 0; NULL when there are not that many. */
const struct image_record *image_find(const struct image *img, uint32_t kind, size_t nth);

/*
 * Unpack a record. Refuses what does not parse, what would take absurd memory, and fields that
 * this version does not know (they say something about the process that would be lost).
 * Free with protobuf_c_message_free_unpacked(msg, NULL). Sets err and returns NULL on failure;
 * err begins with the kind and ordinal ("pipe 3: …").
 */
void *image_unpack(const struct image *img, const struct image_record *r, const ProtobufCMessageDescriptor *d,
                   struct err *err);

/* The chunks of a space, sorted by address and free of overlap; and all chunks, sorted by space, then
 * address. */
const struct image_chunk *image_chunks(const struct image *img, uint64_t space, size_t *n);
const struct image_chunk *image_all_chunks(const struct image *img, size_t *n);

/* Check a chunk and put its contents (c->len bytes) at dst. Thread-safe. On failure dst may hold rubbish. */
int image_read_chunk(const struct image *img, const struct image_chunk *c, void *dst, struct err *err);

/*
 * A pointer to the c->len bytes of a raw chunk in a mapping of the file, page-aligned, after checking them;
 * NULL with err->code 0 when the chunk is compressed, NULL with a code when it is damaged. The
 * mapping lives as long as the image, and the file must not shrink meanwhile. Thread-safe.
 */
const void *image_chunk_raw(struct image *img, const struct image_chunk *c, struct err *err);

/*
 * The same for any chunk, the fastest way: a pointer into the mapping when the file is in the page cache, else buf, which
 * is page-aligned, has IMAGE_CHUNK_MAX bytes, and has been read past the page cache where that works. NULL on failure.
 */
const void *image_chunk_get(struct image *img, const struct image_chunk *c, void *buf, struct err *err);

/*
 * Check all chunks, with one thread per CPU, and that the bytes between blobs are zero.
 * image_verify() also decompresses: after it nothing in the file can fail but the disk.
 * image_verify_stored() checks checksums only, which finds all damage, but not a hostile
 * image with good checksums and bad compressed data (image_read_chunk() finds that).
 */
int image_verify(const struct image *img, struct err *err);
int image_verify_stored(const struct image *img, struct err *err);

int image_fd(const struct image *img);        /* for pread(2) and mmap(2) of raw chunks; stays the image's */
uint64_t image_size(const struct image *img); /* bytes of the file */
uint64_t image_seal(const struct image *img); /* as image_writer_seal() */

#endif
