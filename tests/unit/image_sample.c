/* Small images for the unit tests of image/. */
#include "tests/unit/image_sample.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "base/util.h"
#include "image/image.pb-c.h"
#include "image/kinds.h"
#include "image/pipe.pb-c.h"

int sample_file(void)
{
    int fd = memfd_create("image", MFD_CLOEXEC);

    assert_true(fd >= 0);
    return fd;
}

void sample_fill(void *buf, size_t len, int random, uint64_t seed)
{
    uint64_t x = seed * 0x9e3779b97f4a7c15u + 1;

    for (size_t i = 0; i < len; i += 8) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        memcpy((char *)buf + i, random ? &x : &seed, 8);
    }
}

int sample_image(void)
{
    struct image_options options = {.compress = IMAGE_LZ4};
    ImageHead head = IMAGE_HEAD__INIT;
    PipeBuffer buffer = PIPE_BUFFER__INIT, *buffers[] = {&buffer};
    Pipe pipe = PIPE__INIT;
    uint8_t page[2 * IMAGE_PAGE];
    struct image_writer *w;
    struct err err;
    int fd = sample_file();

    head.computation = (char *)"c-1";
    head.program = (char *)"sample";
    head.pid = 42;
    buffer.data.data = (uint8_t *)"hello";
    buffer.data.len = 5;
    pipe.id = 7;
    pipe.n_buffers = 1;
    pipe.buffers = buffers;
    assert_int_equal(image_create(&w, fd, &options, &err), 0);
    assert_int_equal(image_put_msg(w, KIND_HEAD, &head.base, &err), 0);
    assert_int_equal(image_put_msg(w, KIND_PIPE, &pipe.base, &err), 0);
    pipe.id = 8;
    assert_int_equal(image_put_msg(w, KIND_PIPE, &pipe.base, &err), 0);
    sample_fill(page, sizeof(page), 0, 5);
    assert_int_equal(image_put_chunk(w, 0, 0x7f0000000000, page, sizeof(page), &err), 0);
    sample_fill(page, sizeof(page), 1, 6);
    assert_int_equal(image_put_chunk(w, 9, 0x1000, page, IMAGE_PAGE, &err), 0);
    assert_int_equal(image_finish(w, &err), 0);
    image_writer_free(w);
    return fd;
}

uint8_t *sample_bytes(int fd, size_t *len)
{
    struct stat st;
    uint8_t *bytes;

    assert_int_equal(fstat(fd, &st), 0);
    *len = (size_t)st.st_size;
    bytes = malloc(*len + 1);
    assert_non_null(bytes);
    assert_int_equal(pread_full(fd, bytes, *len, 0), 0);
    return bytes;
}

int sample_check(const void *bytes, size_t len, struct err *err)
{
    struct image *img;
    int fd = sample_file(), r;

    assert_int_equal(pwrite_full(fd, bytes, len, 0), 0);
    r = image_open_fd(&img, fd, err);
    if (r) {
        assert_null(img);
        close(fd);
        return r;
    }
    r = image_verify(img, err);
    image_free(img);
    return r;
}
