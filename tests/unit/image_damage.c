/*
 * Images that are cut short, damaged, foreign or hostile are refused, each with a line that says
 * what is wrong. Damage is exhaustive on a small image: every length, every bit.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/util.h"
#include "image/kinds.h"
#include "image/layout.h"
#include "tests/unit/image_sample.h"
#include "tests/unit/image_seal.h"

struct sample {
    uint8_t *bytes;
    size_t len;
    struct layout_end end;
};

static void setup_sample(struct sample *s)
{
    int fd = sample_image();
    struct err err;

    s->bytes = sample_bytes(fd, &s->len);
    close(fd);
    memcpy(&s->end, s->bytes + s->len - sizeof(s->end), sizeof(s->end));
    assert_int_equal(sample_check(s->bytes, s->len, &err), 0);
}

static struct layout_record *record(struct sample *s, size_t i)
{
    return (struct layout_record *)(s->bytes + s->end.index_offset) + i;
}

static struct image_chunk *chunk(struct sample *s, size_t i)
{
    return (struct image_chunk *)(s->bytes + s->end.index_offset +
                                  s->end.records * sizeof(struct layout_record)) +
           i;
}

static struct layout_end *end_record(struct sample *s)
{
    return (struct layout_end *)(s->bytes + s->len - sizeof(struct layout_end));
}

/* Seal what was changed and see it refused with a text that has `words`; then let go of the sample. */
static void refuse(struct sample *s, const char *words)
{
    struct err err;

    image_seal_again(s->bytes, s->len);
    assert_true(sample_check(s->bytes, s->len, &err) < 0);
    if (!strstr(err.msg, words))
        fail_msg("'%s' is not in '%s'", words, err.msg);
    free(s->bytes);
}

static void test_truncated(void **state)
{
    struct sample s;
    struct err err;

    setup_sample(&s);
    for (size_t len = 0; len < s.len; len++)
        assert_true(sample_check(s.bytes, len, &err) < 0);
    assert_int_equal(sample_check(s.bytes, 0, &err), -EINVAL);
    assert_string_equal(err.msg, "the file is empty");
    assert_int_equal(sample_check(s.bytes, 20, &err), -EINVAL);
    assert_string_equal(err.msg, "cut short: 20 bytes are less than a header");
    assert_int_equal(sample_check(s.bytes, s.len - 1, &err), -EINVAL);
    assert_string_equal(err.msg, "cut short: the end record is missing");
    s.bytes[s.len] = 0;
    assert_true(sample_check(s.bytes, s.len + 1, &err) < 0);
    free(s.bytes);
}

static void test_bit_flips(void **state)
{
    struct sample s;
    struct err err;

    setup_sample(&s);
    for (size_t bit = 0; bit < s.len * 8; bit++) {
        s.bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        if (sample_check(s.bytes, s.len, &err) == 0)
            fail_msg("bit %zu of byte %zu may be flipped", bit % 8, bit / 8);
        s.bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
    }
    free(s.bytes);
}

static void test_texts(void **state)
{
    struct sample s;
    struct err err;

    setup_sample(&s);
    s.bytes[chunk(&s, 0)->offset] ^= 1;
    assert_int_equal(sample_check(s.bytes, s.len, &err), -EUCLEAN);
    assert_string_equal(err.msg, "pages: chunk 0 at 0x7f0000000000: checksum does not match");
    s.bytes[chunk(&s, 0)->offset] ^= 1;
    s.bytes[chunk(&s, 1)->offset] ^= 1;
    assert_int_equal(sample_check(s.bytes, s.len, &err), -EUCLEAN);
    assert_string_equal(err.msg, "pages: chunk 1 at 0x1000 of object 9: checksum does not match");
    s.bytes[chunk(&s, 1)->offset] ^= 1;
    s.bytes[record(&s, 2)->offset] ^= 1;
    assert_int_equal(sample_check(s.bytes, s.len, &err), -EUCLEAN);
    assert_string_equal(err.msg, "pipe 1: checksum does not match");
    free(s.bytes);
}

static void test_foreign(void **state)
{
    static const char elf[] = "\177ELF\2\1\1",
                      text[] = "#!/bin/sh\necho not an image, but long enough to be one\n";
    struct sample s;
    struct err err;

    assert_int_equal(sample_check(elf, sizeof(elf), &err), -EINVAL);
    assert_string_equal(err.msg, "not a checkpoint image");
    assert_int_equal(sample_check(text, sizeof(text), &err), -EINVAL);
    assert_string_equal(err.msg, "not a checkpoint image");
    setup_sample(&s);
    ((struct layout_header *)s.bytes)->version = 7;
    image_seal_again(s.bytes, s.len);
    assert_int_equal(sample_check(s.bytes, s.len, &err), -EINVAL);
    assert_string_equal(err.msg, "made by a newer version (7), this is 1");
    ((struct layout_header *)s.bytes)->version = 1;
    ((struct layout_header *)s.bytes)->machine = EM_AARCH64;
    refuse(&s, "made on another kind of machine");
}

static void test_open_path(void **state)
{
    char dir[] = "/tmp/image-test-XXXXXX";
    struct image *img;
    struct err err;
    _cleanup_free_ char *fifo = NULL, *want = NULL;

    assert_int_equal(image_open(&img, "/nonexistent/image", &err), -ENOENT);
    assert_string_equal(err.msg, "/nonexistent/image: No such file or directory");
    assert_int_equal(image_open(&img, "/tmp", &err), -EISDIR);
    assert_non_null(mkdtemp(dir));
    fifo = format("%s/fifo", dir);
    assert_int_equal(mkfifo(fifo, 0600), 0);
    assert_int_equal(image_open(&img, fifo, &err), -EINVAL); /* and does not wait for a writer */
    want = format("%s: not a regular file", fifo);
    assert_string_equal(err.msg, want);
    unlink(fifo);
    rmdir(dir);
}

/* The disk may give us other bytes later than when the image was opened. */
static void test_changes_while_open(void **state)
{
    struct image *img;
    struct err err;
    int fd = sample_image();
    uint8_t buf[2 * IMAGE_PAGE];
    size_t n;

    assert_int_equal(image_open_fd(&img, fd, &err), 0);
    assert_int_equal(ftruncate(fd, 100), 0);
    assert_int_equal(image_read_chunk(img, image_chunks(img, 0, &n), buf, &err), -EUCLEAN);
    assert_string_equal(err.msg,
                        "pages: chunk 0 at 0x7f0000000000: the file became shorter while it was read");
    assert_true(image_verify(img, &err) < 0);
    assert_non_null(image_find(img, KIND_HEAD, 0));
    image_free(img);
}

#define HOSTILE(what, change, words)                                                                         \
    static void test_hostile_##what(void **x)                                                                \
    {                                                                                                        \
        struct sample s;                                                                                     \
                                                                                                             \
        setup_sample(&s);                                                                                    \
        change;                                                                                              \
        refuse(&s, words);                                                                                   \
    }

HOSTILE(index_huge, end_record(&s)->chunks = 1u << 28, "can't be in this file")
HOSTILE(index_overflow, end_record(&s)->chunks = UINT64_MAX / 48 + 1, "can't be in this file")
HOSTILE(records_overflow, end_record(&s)->records = UINT64_MAX / 24 + 1, "can't be in this file")
HOSTILE(no_records, end_record(&s)->records = 0, "can't be in this file")
HOSTILE(fewer_records, end_record(&s)->records--, "the index is not where it must be")
HOSTILE(index_moved, end_record(&s)->index_offset += 8, "the index is not where it must be")
HOSTILE(size, end_record(&s)->size++, "where the end record says")
HOSTILE(contents, end_record(&s)->contents += 4096, "where the end record says")
HOSTILE(header_zero, ((struct layout_header *)s.bytes)->zero[4] = 1, "values that no version writes")
HOSTILE(version_zero, ((struct layout_header *)s.bytes)->version = 0, "values that no version writes")
HOSTILE(head_kind, record(&s, 0)->kind = KIND_PIPE, "must be the head")
HOSTILE(second_head, record(&s, 1)->kind = KIND_HEAD, "must be the head")
HOSTILE(kind, record(&s, 1)->kind = 63, "kind 63 is unknown")
HOSTILE(kind_huge, record(&s, 1)->kind = UINT32_MAX, "kind 4294967295 is unknown")
HOSTILE(record_len, record(&s, 1)->len = UINT32_MAX, "has no place of its own")
HOSTILE(record_offset, record(&s, 1)->offset = UINT64_MAX - 3, "has no place of its own")
HOSTILE(record_twice, record(&s, 2)->offset = record(&s, 1)->offset, "has no place of its own")
HOSTILE(record_header, record(&s, 1)->offset = 0, "has no place of its own")
HOSTILE(chunk_twice, (chunk(&s, 0)->offset = chunk(&s, 1)->offset, chunk(&s, 0)->stored = 8),
        "has no place of its own")
HOSTILE(chunk_outside, chunk(&s, 1)->offset += IMAGE_PAGE, "has no place of its own")
HOSTILE(chunk_far, chunk(&s, 1)->offset = 1ull << 62, "has no place of its own")
HOSTILE(chunk_shorter, chunk(&s, 1)->stored = 8, "bad place in the file")
HOSTILE(chunk_len, chunk(&s, 0)->len = 0, "bad length")
HOSTILE(chunk_len_odd, chunk(&s, 0)->len++, "bad length")
HOSTILE(chunk_len_huge, chunk(&s, 0)->len = UINT32_MAX - 4095, "bad length")
HOSTILE(chunk_addr, chunk(&s, 0)->addr = -(uint64_t)IMAGE_PAGE, "bad address")
HOSTILE(chunk_addr_odd, chunk(&s, 0)->addr++, "bad address")
HOSTILE(chunk_codec, chunk(&s, 0)->codec = 2, "compressed in an unknown way")
HOSTILE(chunk_lz4_as_raw, chunk(&s, 0)->codec = IMAGE_RAW, "bad place in the file")
HOSTILE(chunk_raw_as_lz4, chunk(&s, 1)->codec = IMAGE_LZ4, "bad place in the file")
HOSTILE(chunk_zero, chunk(&s, 0)->zero = 1, "bad entry")
HOSTILE(chunk_order, chunk(&s, 0)->space = 10, "out of order")
HOSTILE(chunk_over, (chunk(&s, 1)->space = 0, chunk(&s, 1)->addr = chunk(&s, 0)->addr + IMAGE_PAGE),
        "out of order")
HOSTILE(lz4_short,
        (chunk(&s, 0)->len = IMAGE_CHUNK_MAX, end_record(&s)->contents += IMAGE_CHUNK_MAX - 2 * IMAGE_PAGE),
        "compressed data is damaged")

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_bit_flips),
        cmocka_unit_test(test_texts),
        cmocka_unit_test(test_foreign),
        cmocka_unit_test(test_open_path),
        cmocka_unit_test(test_changes_while_open),
        cmocka_unit_test(test_hostile_index_huge),
        cmocka_unit_test(test_hostile_index_overflow),
        cmocka_unit_test(test_hostile_records_overflow),
        cmocka_unit_test(test_hostile_no_records),
        cmocka_unit_test(test_hostile_fewer_records),
        cmocka_unit_test(test_hostile_index_moved),
        cmocka_unit_test(test_hostile_size),
        cmocka_unit_test(test_hostile_contents),
        cmocka_unit_test(test_hostile_header_zero),
        cmocka_unit_test(test_hostile_version_zero),
        cmocka_unit_test(test_hostile_head_kind),
        cmocka_unit_test(test_hostile_second_head),
        cmocka_unit_test(test_hostile_kind),
        cmocka_unit_test(test_hostile_kind_huge),
        cmocka_unit_test(test_hostile_record_len),
        cmocka_unit_test(test_hostile_record_offset),
        cmocka_unit_test(test_hostile_record_twice),
        cmocka_unit_test(test_hostile_record_header),
        cmocka_unit_test(test_hostile_chunk_twice),
        cmocka_unit_test(test_hostile_chunk_outside),
        cmocka_unit_test(test_hostile_chunk_far),
        cmocka_unit_test(test_hostile_chunk_shorter),
        cmocka_unit_test(test_hostile_chunk_len),
        cmocka_unit_test(test_hostile_chunk_len_odd),
        cmocka_unit_test(test_hostile_chunk_len_huge),
        cmocka_unit_test(test_hostile_chunk_addr),
        cmocka_unit_test(test_hostile_chunk_addr_odd),
        cmocka_unit_test(test_hostile_chunk_codec),
        cmocka_unit_test(test_hostile_chunk_lz4_as_raw),
        cmocka_unit_test(test_hostile_chunk_raw_as_lz4),
        cmocka_unit_test(test_hostile_chunk_zero),
        cmocka_unit_test(test_hostile_chunk_order),
        cmocka_unit_test(test_hostile_chunk_over),
        cmocka_unit_test(test_hostile_lz4_short),
    };

    return cmocka_run_group_tests_name("image_damage", tests, NULL, NULL);
}
