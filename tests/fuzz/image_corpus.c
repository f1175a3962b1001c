/*
 * Makes the seed corpus of the image target: image_corpus DIRECTORY. Run it when the format or the
 * schema changes, and commit what it writes. Messages are filled by their descriptors, every
 * field with something, so new kinds are in without a change here.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "base/util.h"
#include "image/image.h"
#include "image/kinds.h"

#define DEPTH_MAX 3

struct wire {
    uint8_t data[64 << 10];
    size_t len;
};

static void put_varint(struct wire *w, uint64_t v)
{
    for (; v >= 128; v >>= 7)
        w->data[w->len++] = (uint8_t)(v | 128);
    w->data[w->len++] = (uint8_t)v;
}

static void put_bytes(struct wire *w, const void *data, size_t len)
{
    put_varint(w, len);
    memcpy(w->data + w->len, data, len);
    w->len += len;
}

static void put_message(struct wire *w, const ProtobufCMessageDescriptor *d, int depth);

static void put_field(struct wire *w, const ProtobufCFieldDescriptor *f, int depth)
{
    struct wire inner = {.len = 0};

    switch (f->type) {
    case PROTOBUF_C_TYPE_MESSAGE:
        put_message(&inner, f->descriptor, depth + 1);
        put_varint(w, f->id << 3 | PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED);
        put_bytes(w, inner.data, inner.len);
        return;
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_BYTES:
        put_varint(w, f->id << 3 | PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED);
        put_bytes(w, f->name, strlen(f->name));
        return;
    default:
        put_varint(w, f->id << 3 | PROTOBUF_C_WIRE_TYPE_VARINT);
        put_varint(w, f->id == 1 ? 1 : f->id * 0x1003ull);
        return;
    }
}

static void put_message(struct wire *w, const ProtobufCMessageDescriptor *d, int depth)
{
    for (unsigned i = 0; i < d->n_fields && depth < DEPTH_MAX; i++)
        put_field(w, &d->fields[i], depth);
}

static int put_records(struct image_writer *w, int all, struct err *err)
{
    int r = 0;

    for (uint32_t kind = 0; kind < KIND_MAX && !r; kind++) {
        const ProtobufCMessageDescriptor *d = kind_message(kind);
        struct wire wire = {.len = 0};

        if (d && (all || kind == KIND_HEAD)) {
            put_message(&wire, d, 0);
            r = image_put(w, kind, wire.data, wire.len, err);
        }
    }
    return r;
}

static int put_chunks(struct image_writer *w, struct err *err)
{
    uint8_t page[IMAGE_PAGE];
    uint32_t x = 1;

    for (size_t i = 0; i < sizeof(page); i++)
        page[i] = (uint8_t)((x = x * 1664525 + 1013904223) >> 24);
    if (image_put_chunk(w, 33, 0, page, sizeof(page), err) < 0) /* raw */
        return -err->code;
    memset(page + 256, 7, sizeof(page) - 256);
    if (image_put_chunk(w, 0, 0x400000, page, sizeof(page), err) < 0)
        return -err->code;
    return image_put_chunk(w, 0, 0x401000, page, sizeof(page), err);
}

static int make(const char *dir, const char *name, int all, int chunks, struct err *err)
{
    struct image_options options = {.compress = IMAGE_LZ4};
    _cleanup_free_ char *path = format("%s/%s", dir, name);
    _cleanup_close_ int fd = path ? open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644) : -1;
    struct image_writer *w = NULL;
    int r;

    if (fd < 0)
        return err_errno(err, "%s/%s", dir, name);
    r = image_create(&w, fd, &options, err);
    r = r ? r : put_records(w, all, err);
    r = r || !chunks ? r : put_chunks(w, err);
    r = r ? r : image_finish(w, err);
    image_writer_free(w);
    return r;
}

int main(int argc, char **argv)
{
    struct err err = {0};

    if (argc != 2) {
        fprintf(stderr, "usage: image_corpus DIRECTORY\n");
        return 2;
    }
    if (make(argv[1], "head", 0, 0, &err) < 0 || make(argv[1], "records", 1, 0, &err) < 0 ||
        make(argv[1], "chunks", 0, 1, &err) < 0 || make(argv[1], "all", 1, 1, &err) < 0) {
        fprintf(stderr, "image_corpus: %s\n", err.msg);
        return 1;
    }
    return 0;
}
