/* What goes into an image comes out of it: records, chunks of all sorts, several writers, pipes. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/util.h"
#include "image/image.pb-c.h"
#include "image/kinds.h"
#include "image/mm.pb-c.h"
#include "image/pipe.pb-c.h"
#include "tests/unit/image_sample.h"

static struct image *open_image(int fd)
{
    struct image *img;
    struct err err;

    if (image_open_fd(&img, fd, &err) < 0)
        fail_msg("%s", err.msg);
    if (image_verify(img, &err) < 0)
        fail_msg("%s", err.msg);
    return img;
}

static void test_records(void **state)
{
    struct image *img = open_image(sample_image());
    const struct image_record *r;
    struct err err;
    ImageHead *head;
    Pipe *pipe;
    size_t n;

    assert_non_null(image_records(img, &n));
    assert_int_equal(n, 3);
    r = image_find(img, KIND_HEAD, 0);
    assert_non_null(r);
    head = image_unpack(img, r, &image_head__descriptor, &err);
    assert_non_null(head);
    assert_string_equal(head->program, "sample");
    assert_int_equal(head->pid, 42);
    image_head__free_unpacked(head, NULL);
    r = image_find(img, KIND_PIPE, 1);
    assert_non_null(r);
    assert_int_equal(r->ordinal, 1);
    pipe = image_unpack(img, r, &pipe__descriptor, &err);
    assert_non_null(pipe);
    assert_int_equal(pipe->id, 8);
    assert_memory_equal(pipe->buffers[0]->data.data, "hello", 5);
    pipe__free_unpacked(pipe, NULL);
    assert_null(image_find(img, KIND_PIPE, 2));
    assert_null(image_find(img, KIND_THREAD, 0));
    image_free(img);
}

static void test_unpack_refuses(void **state)
{
    static const uint8_t rubbish[] = {0xff, 0xff, 0xff}, unknown[] = {0xf8, 0x07, 1};
    struct image *img = open_image(sample_image());
    struct image_record r = {KIND_PIPE, 3, rubbish, sizeof(rubbish)};
    _cleanup_free_ uint8_t *many = malloc(1 << 22);
    struct err err;
    Mm *mm;

    assert_null(image_unpack(img, &r, &pipe__descriptor, &err));
    assert_string_equal(err.msg, "pipe 3: not a valid Pipe message, or one that takes too much memory");
    r.data = unknown;
    assert_null(image_unpack(img, &r, &pipe__descriptor, &err));
    assert_string_equal(err.msg, "pipe 3: field 127 of Pipe is unknown: made by a newer version");
    /* Two bytes each in the record, more than 128 in memory. */
    for (size_t i = 0; i < 1 << 22; i += 2)
        memcpy(many + i, "\x6a\x00", 2);
    r.kind = KIND_MM;
    r.data = many;
    r.len = 1 << 22;
    assert_null(image_unpack(img, &r, &mm__descriptor, &err));
    assert_string_equal(err.msg, "mm 3: not a valid Mm message, or one that takes too much memory");
    r.len = 2000;
    mm = image_unpack(img, &r, &mm__descriptor, &err);
    assert_non_null(mm);
    assert_int_equal(mm->n_vmas, 1000);
    mm__free_unpacked(mm, NULL);
    image_free(img);
}

/* Chunk i of the tests below: which space, where, how long, what. */
static uint64_t chunk_space(unsigned i)
{
    return i % 3;
}

static uint64_t chunk_addr(unsigned i)
{
    return 0x10000000u + (uint64_t)i * IMAGE_CHUNK_MAX;
}

static uint32_t chunk_len(unsigned i)
{
    return i % 5 ? IMAGE_CHUNK_MAX : IMAGE_PAGE * (1 + i % 7);
}

#define CHUNKS 300

struct putters {
    struct image_writer *w;
    _Atomic unsigned next;
};

static void *put_some(void *arg)
{
    struct putters *p = arg;
    _cleanup_free_ uint8_t *buf = aligned_alloc(IMAGE_PAGE, IMAGE_CHUNK_MAX);
    struct err err;
    unsigned i;

    while ((i = p->next++) < CHUNKS) {
        unsigned k = CHUNKS - 1 - i; /* not in the order of the index */

        sample_fill(buf, chunk_len(k), k % 2, k);
        if (image_put_chunk(p->w, chunk_space(k), chunk_addr(k), buf, chunk_len(k), &err) < 0)
            return "failed";
        if (k % 50 == 0 && image_put(p->w, KIND_THREAD, buf, k, &err) < 0)
            return "failed";
    }
    return NULL;
}

static void put_all(int fd, const struct image_options *options, int threads)
{
    struct putters p = {.next = 0};
    struct image_totals totals;
    pthread_t t[8];
    struct err err;
    void *failed;

    assert_int_equal(image_create(&p.w, fd, options, &err), 0);
    assert_int_equal(image_put(p.w, KIND_HEAD, NULL, 0, &err), 0);
    for (int i = 0; i < threads; i++)
        assert_int_equal(pthread_create(&t[i], NULL, put_some, &p), 0);
    for (int i = 0; i < threads; i++) {
        pthread_join(t[i], &failed);
        assert_null(failed);
    }
    if (image_finish(p.w, &err) < 0)
        fail_msg("%s", err.msg);
    image_totals(p.w, &totals);
    assert_int_equal(totals.chunks, CHUNKS);
    assert_int_equal(totals.records, 1 + CHUNKS / 50);
    assert_true(totals.stored <= totals.contents && image_bytes(p.w) > totals.stored);
    image_writer_free(p.w);
}

static void check_space(struct image *img, uint64_t space)
{
    _cleanup_free_ uint8_t *want = malloc(IMAGE_CHUNK_MAX), *got = aligned_alloc(IMAGE_PAGE, IMAGE_CHUNK_MAX);
    const struct image_chunk *c;
    const void *data;
    struct err err;
    size_t n;

    c = image_chunks(img, space, &n);
    assert_int_equal(n, CHUNKS / 3);
    for (size_t j = 0; j < n; j++) {
        unsigned i = (unsigned)(j * 3 + space);
        const void *raw;

        assert_int_equal(c[j].space, space);
        assert_int_equal(c[j].addr, chunk_addr(i));
        assert_int_equal(c[j].len, chunk_len(i));
        sample_fill(want, c[j].len, i % 2, i);
        assert_int_equal(image_read_chunk(img, &c[j], got, &err), 0);
        assert_memory_equal(got, want, c[j].len);
        if (j % 4 == 0) /* out of the page cache, if it goes */
            posix_fadvise(image_fd(img), (off_t)c[j].offset, c[j].stored, POSIX_FADV_DONTNEED);
        data = image_chunk_get(img, &c[j], got, &err);
        assert_non_null(data);
        assert_memory_equal(data, want, c[j].len);
        raw = image_chunk_raw(img, &c[j], &err);
        assert_int_equal(err.code, 0);
        assert_int_equal(raw != NULL, c[j].codec == IMAGE_RAW);
        if (!raw)
            continue;
        assert_int_equal((uintptr_t)raw % IMAGE_PAGE, 0);
        assert_memory_equal(raw, want, c[j].len);
        assert_int_equal(pread_full(image_fd(img), got, c[j].len, (off_t)c[j].offset), 0);
        assert_memory_equal(got, want, c[j].len);
    }
}

static void check_all(int fd, int compress)
{
    struct image *img = open_image(fd);
    const struct image_chunk *c;
    size_t n, packed = 0;

    for (uint64_t space = 0; space < 3; space++)
        check_space(img, space);
    image_chunks(img, 3, &n);
    assert_int_equal(n, 0);
    image_chunks(img, UINT64_MAX, &n);
    assert_int_equal(n, 0);
    c = image_all_chunks(img, &n);
    assert_int_equal(n, CHUNKS);
    for (size_t i = 0; i < n; i++)
        packed += c[i].codec == IMAGE_LZ4;
    assert_int_equal(packed, compress ? CHUNKS / 2 : 0);
    image_free(img);
}

static void test_options(void **state)
{
    static const struct image_options options[] = {
        {.compress = IMAGE_RAW},
        {.compress = IMAGE_LZ4},
        {.compress = IMAGE_LZ4, .level = 9},
        {.sync = 1},
        {.compress = IMAGE_LZ4, .level = -5},
    };

    for (size_t i = 0; i < ARRAY_SIZE(options); i++) {
        int fd = sample_file();

        put_all(fd, &options[i], 1);
        check_all(fd, options[i].compress);
    }
}

static void test_parallel(void **state)
{
    struct image_options options = {.compress = IMAGE_LZ4};

    for (int threads = 2; threads <= 8; threads *= 2) {
        int fd = sample_file();

        put_all(fd, &options, threads);
        check_all(fd, 1);
    }
}

/* On a real file system, with O_DIRECT where it has that, and with space allocated ahead. */
static void test_direct(void **state)
{
    struct image_options options = {.direct = 1, .sync = 1};
    int fd = open(".", O_TMPFILE | O_RDWR, 0600);

    if (fd < 0)
        skip();
    put_all(fd, &options, 2);
    check_all(fd, 0);
}

static void *drain(void *arg)
{
    int *fds = arg;
    char buf[65536];
    ssize_t n;

    while ((n = read(fds[0], buf, sizeof(buf))) > 0)
        if (write_full(fds[1], buf, (size_t)n) < 0)
            return "failed";
    return n < 0 ? "failed" : NULL;
}

static void test_pipe(void **state)
{
    struct image_options options = {.compress = IMAGE_LZ4, .sync = 1};
    int ends[2], fds[2];
    pthread_t t;
    void *failed;

    assert_int_equal(pipe(ends), 0);
    fds[0] = ends[0];
    fds[1] = sample_file();
    assert_int_equal(pthread_create(&t, NULL, drain, fds), 0);
    put_all(ends[1], &options, 2);
    close(ends[1]);
    pthread_join(t, &failed);
    assert_null(failed);
    close(ends[0]);
    check_all(fds[1], 1);
}

static void *feed(void *arg)
{
    int *fds = arg;
    size_t len;
    _cleanup_free_ uint8_t *bytes = sample_bytes(fds[0], &len);
    int r = write_full(fds[1], bytes, len);

    close(fds[1]);
    return r ? "failed" : NULL;
}

static void test_read_pipe(void **state)
{
    int ends[2], fds[2];
    struct image *img;
    pthread_t t;
    size_t n;

    assert_int_equal(pipe(ends), 0);
    fds[0] = sample_image();
    fds[1] = ends[1];
    assert_int_equal(pthread_create(&t, NULL, feed, fds), 0);
    img = open_image(ends[0]);
    pthread_join(t, NULL);
    image_chunks(img, 9, &n);
    assert_int_equal(n, 1);
    image_free(img);
    close(fds[0]);
}

/* ---- what the writer refuses ---- */

static void test_writer_refuses(void **state)
{
    static uint8_t page[2 * IMAGE_PAGE];
    struct image_writer *w;
    struct err err;
    int fd = sample_file();

    assert_int_equal(image_create(&w, fd, NULL, &err), 0);
    assert_int_equal(image_put(w, KIND_PIPE, "", 0, &err), -EINVAL); /* before the head */
    assert_int_equal(image_put(w, KIND_HEAD, "", 0, &err), -EINVAL); /* fails for good */
    assert_int_equal(image_finish(w, &err), -EINVAL);
    image_writer_free(w);

    assert_int_equal(image_create(&w, sample_image(), NULL, &err), -EEXIST);
    assert_null(w);

    assert_int_equal(ftruncate(fd, 0), 0);
    assert_int_equal(image_create(&w, fd, NULL, &err), 0);
    assert_int_equal(image_put(w, KIND_HEAD, "", 0, &err), 0);
    assert_int_equal(image_put_chunk(w, 0, 0x2000, page, sizeof(page), &err), 0);
    assert_int_equal(image_put_chunk(w, 0, 0x1000, page, sizeof(page), &err), 0);
    assert_int_equal(image_finish(w, &err), -EEXIST);
    assert_string_equal(err.msg, "pages: two chunks overlap at 0x2000");
    image_writer_free(w);
    close(fd);
}

static void test_bad_chunks(void **state)
{
    static const struct {
        uint64_t addr;
        uint32_t len;
    } bad[] = {{0, 0},
               {0, 100},
               {1, IMAGE_PAGE},
               {0, IMAGE_CHUNK_MAX + IMAGE_PAGE},
               {-(uint64_t)IMAGE_PAGE, 2 * IMAGE_PAGE}};
    _cleanup_free_ uint8_t *buf = calloc(1, IMAGE_CHUNK_MAX + IMAGE_PAGE);

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        int fd = sample_file();
        struct image_writer *w;
        struct err err;

        assert_int_equal(image_create(&w, fd, NULL, &err), 0);
        assert_int_equal(image_put(w, KIND_HEAD, "", 0, &err), 0);
        assert_int_equal(image_put_chunk(w, 0, bad[i].addr, buf, bad[i].len, &err), -EINVAL);
        assert_int_equal(image_finish(w, &err), -EINVAL);
        image_writer_free(w);
        close(fd);
    }
}

/* /dev/full and a closed pipe stand for all disks that fail. */
static void test_write_errors(void **state)
{
    struct image_writer *w;
    struct err err;
    int fd = open("/dev/full", O_WRONLY);

    assert_true(fd >= 0);
    assert_int_equal(image_create(&w, fd, NULL, &err), -ENOSPC);
    assert_string_equal(err.msg, "cannot write at offset 0: No space left on device");
    close(fd);
    fd = open("/dev/null", O_RDONLY);
    assert_int_equal(image_create(&w, fd, NULL, &err), -EBADF);
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_records),    cmocka_unit_test(test_unpack_refuses),
        cmocka_unit_test(test_options),    cmocka_unit_test(test_parallel),
        cmocka_unit_test(test_direct),     cmocka_unit_test(test_pipe),
        cmocka_unit_test(test_read_pipe),  cmocka_unit_test(test_writer_refuses),
        cmocka_unit_test(test_bad_chunks), cmocka_unit_test(test_write_errors),
    };

    return cmocka_run_group_tests_name("image_container", tests, NULL, NULL);
}
