/*
 * Fuzz target: an image file. Opens it, unpacks every record, checks and reads every chunk: all that a
 * restart does with it before it believes anything.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/util.h"
#include "image/image.h"
#include "image/kinds.h"
#include "tests/unit/image_seal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed);

static void read_records(const struct image *img)
{
    const struct image_record *records;
    struct err err;
    size_t n;

    records = image_records(img, &n);
    for (size_t i = 0; i < n; i++) {
        const ProtobufCMessageDescriptor *d = kind_message(records[i].kind);
        ProtobufCMessage *m = d ? image_unpack(img, &records[i], d, &err) : NULL;

        if (m)
            protobuf_c_message_free_unpacked(m, NULL);
    }
}

static void read_chunks(struct image *img)
{
    static uint8_t contents[IMAGE_CHUNK_MAX];
    const struct image_chunk *chunks;
    struct err err;
    size_t n;

    chunks = image_all_chunks(img, &n);
    for (size_t i = 0; i < n; i++) {
        image_read_chunk(img, &chunks[i], contents, &err);
        image_chunk_raw(img, &chunks[i], &err);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    struct image *img;
    struct err err;

    if (fd < 0 || write_full(fd, data, size) < 0 || image_open_fd(&img, fd, &err) < 0) {
        if (fd >= 0)
            close(fd);
        return 0;
    }
    read_records(img);
    read_chunks(img);
    image_verify(img, &err);
    image_free(img);
    return 0;
}

/* Random changes alone stop at the first checksum; mostly make them right again. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
    size = LLVMFuzzerMutate(data, size, max);
    if (seed % 8)
        image_seal_again(data, size);
    return size;
}
