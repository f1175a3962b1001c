/*
 * The bytes of an image file (dmtcp-image(5)); only the writer and the reader include this.
 * All numbers are little-endian, as are the machines that images are made for, so the structures
 * are the file. Every byte of a file is covered by a checksum or must be zero.
 */
#ifndef IMAGE_LAYOUT_H
#define IMAGE_LAYOUT_H

#include <elf.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__x86_64__)
#include <xxh_x86dispatch.h> /* picks AVX2 or AVX-512 at run time: three times the speed of SSE2 */
#define IMAGE_MACHINE EM_X86_64
#else
#include <xxhash.h>
#define IMAGE_MACHINE EM_NONE
#error "say here which ELF machine this is"
#endif

#include "image/image.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "the structures below are read and written as they are");

#define LAYOUT_VERSION     1
#define LAYOUT_MAGIC       "\211dmtcp\r\n" /* not text, and damaged by whatever converts line ends */
#define LAYOUT_END_MAGIC   "dmtcpEND"
#define LAYOUT_ALIGN       8u /* of records, compressed chunks and the index */
#define LAYOUT_RECORDS_MAX (1u << 22)
#define LAYOUT_CHUNKS_MAX  (1u << 28)

/* Magic and version keep their place in all versions to come. */
struct layout_header {
    uint8_t magic[8];
    uint32_t version;
    uint16_t machine; /* e_machine of elf.h */
    uint16_t page_shift;
    uint64_t zero[5];
    uint64_t xxh3; /* of the bytes before */
};

struct layout_record {
    uint64_t offset;
    uint64_t xxh3;
    uint32_t kind;
    uint32_t len;
};

struct layout_end {
    uint8_t magic[8];
    uint64_t size; /* of the file, this structure included */
    uint64_t index_offset;
    uint64_t records;  /* entries of the index: first these, in the order they were put, */
    uint64_t chunks;   /* then these, by space and address */
    uint64_t contents; /* sum of the chunks' len */
    uint64_t header_xxh3;
    uint64_t index_xxh3;
    uint64_t xxh3; /* of the bytes before: the seal */
};

_Static_assert(sizeof(struct layout_header) == 64, "layout");
_Static_assert(sizeof(struct layout_record) == 24, "layout");
_Static_assert(sizeof(struct image_chunk) == 48, "layout");
_Static_assert(sizeof(struct layout_end) == 72, "layout");

static inline uint64_t layout_checksum(const void *data, size_t len)
{
#if defined(__x86_64__)
    return XXH3_64bits_dispatch(data, len);
#else
    return XXH3_64bits(data, len);
#endif
}

static inline uint64_t layout_align(uint64_t offset, uint64_t to)
{
    return (offset + to - 1) & ~(to - 1);
}

#endif
