/*
 * What a hostile writer would do: make all checksums of a changed image right again, so that unit
 * tests and fuzzing reach the checks behind the checksums. Takes any bytes whatever.
 */
#include "tests/unit/image_seal.h"

#include <string.h>

#include "image/layout.h"

/* The checksum of `size` bytes at `offset` if they are there. */
static void seal_piece(const uint8_t *bytes, size_t len, uint64_t offset, uint64_t size, uint64_t *xxh3)
{
    if (offset <= len && size <= len - offset)
        *xxh3 = layout_checksum(bytes + offset, size);
}

static void seal_entries(uint8_t *bytes, size_t len, size_t pos, const struct layout_end *e)
{
    size_t room = len - sizeof(*e);

    for (uint64_t i = 0; i < e->records && room - pos >= sizeof(struct layout_record); i++) {
        struct layout_record r;

        memcpy(&r, bytes + pos, sizeof(r));
        seal_piece(bytes, room, r.offset, r.len, &r.xxh3);
        memcpy(bytes + pos, &r, sizeof(r));
        pos += sizeof(r);
    }
    for (uint64_t i = 0; i < e->chunks && room - pos >= sizeof(struct image_chunk); i++) {
        struct image_chunk c;

        memcpy(&c, bytes + pos, sizeof(c));
        seal_piece(bytes, room, c.offset, c.stored, &c.xxh3);
        memcpy(bytes + pos, &c, sizeof(c));
        pos += sizeof(c);
    }
}

void image_seal_again(uint8_t *bytes, size_t len)
{
    struct layout_header h;
    struct layout_end e;
    size_t index;

    if (len < sizeof(h) + sizeof(e))
        return;
    memcpy(&h, bytes, sizeof(h));
    memcpy(&e, bytes + len - sizeof(e), sizeof(e));
    h.xxh3 = layout_checksum(&h, offsetof(struct layout_header, xxh3));
    memcpy(bytes, &h, sizeof(h));
    index = e.index_offset <= len - sizeof(e) ? e.index_offset : len - sizeof(e);
    seal_entries(bytes, len, index, &e);
    e.header_xxh3 = h.xxh3;
    e.index_xxh3 = layout_checksum(bytes + index, len - sizeof(e) - index);
    e.xxh3 = layout_checksum(&e, offsetof(struct layout_end, xxh3));
    memcpy(bytes + len - sizeof(e), &e, sizeof(e));
}
