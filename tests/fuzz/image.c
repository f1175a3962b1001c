/*
 * Fuzz target: an image file. Opens it, unpacks every record, checks and reads every chunk: all that a
 * restart does with it before it believes anything. And shows it in all ways dmtcp_inspect has.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/util.h"
#include "image/image.h"
#include "image/inspect.h"
#include "tests/unit/image_seal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed);

/* set_add_image() unpacks all records; it wants a path, so that is how it gets the same file again. */
static void show(int fd)
{
    struct inspect_options options = {.limits = {.elements = 16, .bytes = 80}};
    struct set set = {0};
    char path[32], *text = NULL;
    size_t len;
    struct err err;
    FILE *out = open_memstream(&text, &len);

    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    if (out && set_add_image(&set, path, &err) == 0 && set_ready(&set, &err) == 0) {
        inspect_text(out, &set, &options);
        inspect_dot(out, &set);
        inspect_json(out, &set, &err);
    }
    if (out)
        fclose(out);
    free(text);
    set_free(&set);
}

static void read_chunks(struct image *img)
{
    static _Alignas(IMAGE_PAGE) uint8_t contents[IMAGE_CHUNK_MAX];
    const struct image_chunk *chunks;
    struct err err;
    size_t n;

    chunks = image_all_chunks(img, &n);
    for (size_t i = 0; i < n; i++) {
        image_read_chunk(img, &chunks[i], contents, &err);
        image_chunk_raw(img, &chunks[i], &err);
        image_chunk_get(img, &chunks[i], contents, &err);
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
    show(fd);
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
