/* dmtcp_inspect's ways to show a set of images: two processes that share a pipe, a circle of parents,
 * escapes. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/util.h"
#include "image/file.pb-c.h"
#include "image/inspect.h"
#include "image/pipe.pb-c.h"
#include "image/vma.h"
#include "tests/unit/image_sample.h"

#define EVIL "a\x1b[2J\n\"\\\xff\xe2\x80\xae"

static ProtobufCBinaryData bytes(const char *s)
{
    return (ProtobufCBinaryData){.data = (uint8_t *)s, .len = strlen(s)};
}

static void put(struct image_writer *w, uint32_t kind, const ProtobufCMessage *m)
{
    struct err err;

    if (image_put_msg(w, kind, m, &err) < 0)
        fail_msg("%s", err.msg);
}

/* Pid has the pipe's `end` as descriptor 3, and a page of memory; the first process records the objects. */
static void put_process(struct image_writer *w, int pid, int ppid, uint32_t end)
{
    ImageHead head = IMAGE_HEAD__INIT;
    Process process = PROCESS__INIT;
    Fd fd = FD__INIT, *fds[] = {&fd};
    FdTable table = FD_TABLE__INIT;
    Ofd ofd = OFD__INIT;
    Vma vma = VMA__INIT, *vmas[] = {&vma};
    Mm mm = MM__INIT;

    head.pid = (uint32_t)pid;
    head.program = (char *)(pid == 10 ? "first" : EVIL);
    head.computation = head.host_id = head.host_name = (char *)"x";
    put(w, KIND_HEAD, &head.base);
    process.pid = pid;
    process.ppid = ppid;
    put(w, KIND_PROCESS, &process.base);
    vma.start = 0x1000;
    vma.end = 0x5000;
    vma.prot = PROT_READ;
    vma.flags = MAP_PRIVATE | MAP_ANONYMOUS;
    vma.kind = VMA_ANON;
    mm.n_vmas = 1;
    mm.vmas = vmas;
    put(w, KIND_MM, &mm.base);
    fd.fd = 3;
    fd.ofd = end;
    table.n_fds = 1;
    table.fds = fds;
    put(w, KIND_FDTABLE, &table.base);
    ofd.id = end;
    ofd.kind = KIND_PIPE;
    ofd.object = 7;
    ofd.flags = end == 1 ? O_RDONLY : O_WRONLY | O_NONBLOCK;
    put(w, KIND_OFD, &ofd.base);
}

static void make_image(const char *path, int pid, int ppid, uint32_t end)
{
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL, 0600);
    Pipe pipe = PIPE__INIT;
    File file = FILE__INIT;
    uint8_t page[IMAGE_PAGE];
    struct image_writer *w;
    struct err err;

    assert_true(fd >= 0);
    assert_int_equal(image_create(&w, fd, NULL, &err), 0);
    put_process(w, pid, ppid, end);
    pipe.id = 7;
    file.id = 8;
    file.path = bytes(EVIL);
    if (end == 1)
        put(w, KIND_PIPE, &pipe.base);
    if (end == 1)
        put(w, KIND_FILE, &file.base);
    sample_fill(page, sizeof(page), 1, 1);
    assert_int_equal(image_put_chunk(w, 0, 0x2000, page, sizeof(page), &err), 0);
    assert_int_equal(image_finish(w, &err), 0);
    image_writer_free(w);
    close(fd);
}

/* The text that `how` makes of two processes with these parents; the caller frees it. */
static char *shown(char how, int ppid_of_10, int ppid_of_20)
{
    struct inspect_options options = {.limits = {.elements = 16, .bytes = 80}};
    char dir[] = "/tmp/image-test-XXXXXX", *text = NULL;
    struct set set = {0};
    struct err err;
    size_t len;
    FILE *out = open_memstream(&text, &len);

    assert_non_null(mkdtemp(dir));
    for (uint32_t i = 0; i < 2; i++) {
        _cleanup_free_ char *path = format("%s/%u", dir, i);

        make_image(path, i ? 20 : 10, i ? ppid_of_20 : ppid_of_10, i + 1);
        if (set_add_image(&set, path, &err) < 0)
            fail_msg("%s", err.msg);
        unlink(path);
    }
    rmdir(dir);
    assert_int_equal(set_ready(&set, &err), 0);
    if (how == 'd')
        inspect_dot(out, &set);
    else if (how == 'j')
        assert_int_equal(inspect_json(out, &set, &err), 0);
    else
        inspect_text(out, &set, &options);
    fclose(out);
    set_free(&set);
    return text;
}

static void has(const char *text, const char *words)
{
    if (!strstr(text, words))
        fail_msg("'%s' is not in: %s", words, text);
}

static void test_text(void **state)
{
    _cleanup_free_ char *text = shown('t', 0, 10);

    has(text, "\n  10 first, ");
    has(text, "\n    20 a\\x1b[2J\\x0a\"\\x5c\\xff\\xe2\\x80\\xae, "); /* below it, and harmless */
    has(text, "    000000001000-000000005000 r--p   16.0 KiB    4.0 KiB  anon\n");
    has(text, "    3 r pipe 7 \n");
    has(text, "    3 w,nonblock pipe 7 \n");
    assert_null(strchr(text, '\x1b'));
}

static void test_circle(void **state)
{
    _cleanup_free_ char *text = shown('t', 20, 10);

    has(text, "\n  10 first, ");
    has(text, "\n    20 a");
}

static void test_dot(void **state)
{
    _cleanup_free_ char *text = shown('d', 0, 10);

    has(text, "  p0 -> p1 [style=bold, arrowhead=none];\n");
    has(text, "label=\"pipe 7\"");
    has(text, "[dir=back, label=\"3\"];\n");
    has(text, "[dir=forward, label=\"3\"];\n");
    assert_null(strstr(text, "file 8")); /* one process only */
}

static void test_json(void **state)
{
    _cleanup_free_ char *text = shown('j', 0, 10);
    json_t *root = json_loads(text, 0, NULL), *records, *file;

    assert_non_null(root);
    assert_int_equal(json_array_size(json_object_get(root, "images")), 2);
    records = json_object_get(json_array_get(json_object_get(root, "images"), 0), "records");
    assert_int_equal(json_array_size(records), 7);
    file = json_object_get(json_array_get(records, 6), "message");
    assert_int_equal(json_integer_value(json_object_get(file, "id")), 8);
    assert_string_equal(json_string_value(json_object_get(json_object_get(file, "path"), "hex")),
                        "611b5b324a0a225cffe280ae");
    json_decref(root);
}

static void test_escapes(void **state)
{
    static const struct {
        const char *in, *out;
    } cases[] = {
        {"plain", "plain"},
        {"caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80", "caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80"},
        {"\x7f\xc2\x9b", "\\x7f\\xc2\\x9b"}, /* C1 control */
        {"\xc0\xaf", "\\xc0\\xaf"},          /* overlong */
        {"\xe0\x80\xaf", "\\xe0\\x80\\xaf"},
        {"\xed\xa0\x80", "\\xed\\xa0\\x80"}, /* surrogate */
        {"\xe2\x82", "\\xe2\\x82"},
        {"\xf5\x80\x80\x80", "\\xf5\\x80\\x80\\x80"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        _cleanup_free_ char *text = NULL;
        size_t len;
        FILE *out = open_memstream(&text, &len);

        print_text(out, cases[i].in, strlen(cases[i].in));
        fclose(out);
        assert_string_equal(text, cases[i].out);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text), cmocka_unit_test(test_circle),  cmocka_unit_test(test_dot),
        cmocka_unit_test(test_json), cmocka_unit_test(test_escapes),
    };

    return cmocka_run_group_tests_name("image_inspect", tests, NULL, NULL);
}
