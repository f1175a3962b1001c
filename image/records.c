/*
 * The records of an open image: read and checked all at once (they are small next to the pages),
 * and unpacked one by one with a budget, since a few bytes of protobuf can ask for much memory.
 */
#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "base/util.h"
#include "image/kinds.h"
#include "image/reader.h"
#include "image/reflect.h"

/* Bytes of memory that unpacking may take per byte of record, and besides. */
#define UNPACK_FACTOR 64u
#define UNPACK_EXTRA  (64u << 10)
#define UNPACK_MAX    (1u << 30)

/* Add up the lengths before anything is allocated. */
static int payload_bytes(const struct image *img, size_t *total, struct err *err)
{
    *total = 0;
    for (size_t i = 0; i < img->n_records; i++) {
        const struct layout_record *e = &img->entries[i];

        if ((e->kind == KIND_HEAD) != (i == 0))
            return err_set(err, EINVAL, "record %zu: the first record, and no other, must be the head", i);
        if (!kind_known(e->kind))
            return err_set(err, EINVAL, "record %zu: kind %u is unknown: made by a newer version", i,
                           e->kind);
        if (e->len > IMAGE_RECORD_MAX || e->offset % LAYOUT_ALIGN)
            return err_set(err, EINVAL, "record %zu (%s): bad length or offset", i, kind_name(e->kind));
        *total += layout_align(e->len, LAYOUT_ALIGN);
        if (*total > IMAGE_RECORDS_MAX)
            return err_set(err, EFBIG, "the records are larger than %u MiB", IMAGE_RECORDS_MAX >> 20);
    }
    return 0;
}

int image_load_records(struct image *img, struct err *err)
{
    uint32_t counts[KIND_MAX] = {0};
    size_t total, at = 0;

    if (payload_bytes(img, &total, err) < 0)
        return -err->code;
    img->payloads = malloc(total ? total : 1);
    img->records = calloc(img->n_records, sizeof(*img->records));
    if (!img->payloads || !img->records)
        return err_set(err, ENOMEM, "out of memory for %zu bytes of records", total);
    for (size_t i = 0; i < img->n_records; i++) {
        const struct layout_record *e = &img->entries[i];
        struct image_record *r = &img->records[i];

        *r = (struct image_record){e->kind, counts[e->kind]++, img->payloads + at, e->len};
        if (image_pread(img, img->payloads + at, e->len, e->offset, err) < 0)
            return err_wrap(err, "%s %u", kind_name(r->kind), r->ordinal);
        if (layout_checksum(r->data, r->len) != e->xxh3)
            return err_set(err, EUCLEAN, "%s %u: checksum does not match", kind_name(r->kind), r->ordinal);
        at += layout_align(e->len, LAYOUT_ALIGN);
    }
    return 0;
}

const struct image_record *image_records(const struct image *img, size_t *n)
{
    *n = img->n_records;
    return img->records;
}

const struct image_record *image_find(const struct image *img, uint32_t kind, size_t nth)
{
    for (size_t i = 0; i < img->n_records; i++)
        if (img->records[i].kind == kind && img->records[i].ordinal == nth)
            return &img->records[i];
    return NULL;
}

static void *budget_alloc(void *data, size_t size)
{
    size_t *left = data;
    void *p = size <= *left ? malloc(size) : NULL;

    if (p)
        *left -= size;
    return p;
}

static void budget_free(void *data, void *p)
{
    (void)data;
    free(p); /* what is given back does not count again: the budget is for the whole call */
}

/* The first message in the tree that carries a field which its descriptor does not have. */
static const ProtobufCMessage *find_unknown(const ProtobufCMessage *m)
{
    if (m->n_unknown_fields)
        return m;
    for (unsigned i = 0; i < m->descriptor->n_fields; i++) {
        const ProtobufCFieldDescriptor *f = &m->descriptor->fields[i];
        size_t n = f->type == PROTOBUF_C_TYPE_MESSAGE ? reflect_count(m, f) : 0;

        for (size_t j = 0; j < n; j++) {
            const ProtobufCMessage *found = find_unknown(reflect_get(m, f, j).message);

            if (found)
                return found;
        }
    }
    return NULL;
}

void *image_unpack(const struct image *img, const struct image_record *r, const ProtobufCMessageDescriptor *d,
                   struct err *err)
{
    size_t budget = r->len >= UNPACK_MAX / UNPACK_FACTOR ? UNPACK_MAX : r->len * UNPACK_FACTOR + UNPACK_EXTRA;
    ProtobufCAllocator allocator = {budget_alloc, budget_free, &budget};
    const ProtobufCMessage *unknown;
    ProtobufCMessage *m;

    (void)img;
    m = protobuf_c_message_unpack(d, &allocator, r->len, r->data);
    if (!m) {
        err_set(err, EINVAL, "%s %u: not a valid %s message, or one that takes too much memory",
                kind_name(r->kind), r->ordinal, d->name);
        return NULL;
    }
    unknown = find_unknown(m);
    if (!unknown)
        return m;
    err_set(err, EINVAL, "%s %u: field %u of %s is unknown: made by a newer version", kind_name(r->kind),
            r->ordinal, unknown->unknown_fields[0].tag, unknown->descriptor->name);
    protobuf_c_message_free_unpacked(m, NULL);
    return NULL;
}
