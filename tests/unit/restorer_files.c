/*
 * What a restart does about files that are not as they were: the records are made by hand, then the world is
 * changed.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/log.h"
#include "base/util.h"
#include "image/image.pb-c.h"
#include "restorer/core.h"
#include "restorer/file.h"

extern const struct rebuild_ops file_ops;

#define TEXT "0123456789"
#define SIZE 10u

struct world {
    char dir[32];
    char path[64];
    File msg;
    ImageHead head;
    char host[256];
    struct rproc home;
    struct robject object;
    struct restore restore;
    int image_fd;
};

struct rproc *restore_proc(const struct restore *r, pid_t pid)
{
    (void)r;
    (void)pid;
    return NULL;
}

static void spit(const char *path, const char *text)
{
    _cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);

    assert_true(fd >= 0);
    assert_int_equal(write_full(fd, text, strlen(text)), 0);
}

static void assert_content(const char *path, const char *text)
{
    _cleanup_free_ char *data = NULL;

    assert_int_equal(read_file(AT_FDCWD, path, &data, NULL), 0);
    assert_string_equal(data, text);
}

/* An image that holds TEXT as the content of object 7. */
static void make_image(struct world *w)
{
    static uint8_t page[IMAGE_PAGE] __attribute__((aligned(4096))) = TEXT;
    struct image_writer *writer;
    struct err err;

    w->image_fd = memfd_create("image", 0);
    assert_int_equal(image_create(&writer, w->image_fd, NULL, &err), 0);
    assert_int_equal(image_put_msg(writer, KIND_HEAD, &w->head.base, &err), 0);
    assert_int_equal(image_put_chunk(writer, 7, 0, page, sizeof(page), &err), 0);
    assert_int_equal(image_finish(writer, &err), 0);
    image_writer_free(writer);
    assert_int_equal(image_open_fd(&w->home.image, w->image_fd, &err), 0);
}

/* The record of the file as it is now; open for writing. */
static void record(struct world *w)
{
    struct stat st;

    assert_int_equal(stat(w->path, &st), 0);
    file__init(&w->msg);
    w->msg.id = 7;
    w->msg.path = (ProtobufCBinaryData){strlen(w->path), (uint8_t *)w->path};
    w->msg.mode = st.st_mode;
    w->msg.dev = st.st_dev;
    w->msg.ino = st.st_ino;
    w->msg.size = (uint64_t)st.st_size;
    w->msg.mtime_ns = st.st_mtim.tv_sec * 1000000000ll + st.st_mtim.tv_nsec;
    w->msg.rdev = st.st_rdev;
    w->msg.uid = st.st_uid;
    w->msg.gid = st.st_gid;
    w->msg.written = true;
}

static int setup(void **state)
{
    struct world *w = calloc(1, sizeof(*w));

    assert_non_null(w);
    strcpy(w->dir, "/tmp/dmtcp-unit-XXXXXX");
    assert_non_null(mkdtemp(w->dir));
    snprintf(w->path, sizeof(w->path), "%s/file", w->dir);
    spit(w->path, TEXT);
    record(w);
    gethostname(w->host, sizeof(w->host) - 1);
    image_head__init(&w->head);
    w->head.host_name = w->host;
    w->home.head = &w->head;
    w->home.path = "image";
    make_image(w);
    w->object = (struct robject){.id = 7, .ops = &file_ops, .msg = &w->msg.base, .home = &w->home, .fd = -1};
    w->restore = (struct restore){.options.tmpdir = w->dir};
    log_to_fd(-1);
    *state = w;
    return 0;
}

static int teardown(void **state)
{
    struct world *w = *state;
    struct rfile *f = w->object.priv;

    image_free(w->home.image);
    if (w->object.fd >= 0)
        close(w->object.fd);
    if (f && f->map_read >= 0)
        close(f->map_read);
    restore_free_kept(&w->restore);
    unlink(w->path);
    rmdir(w->dir);
    free(w);
    return 0;
}

static int prepare(struct world *w, struct err *err)
{
    return file_ops.prepare(&w->restore, &w->object, err);
}

static void rebuild(struct world *w)
{
    struct err err = {0};

    if (file_ops.rebuild(&w->restore, &w->object, &err) < 0)
        fail_msg("%s", err.msg);
}

static void expect_plan(struct world *w, enum file_plan plan)
{
    struct err err = {0};

    if (prepare(w, &err) < 0)
        fail_msg("%s", err.msg);
    assert_int_equal(((struct rfile *)w->object.priv)->plan, plan);
    rebuild(w);
}

static void expect_refusal(struct world *w, const char *words)
{
    struct err err = {0};

    assert_true(prepare(w, &err) < 0);
    if (!strstr(err.msg, words) || (w->path[0] && !strstr(err.msg, w->path)))
        fail_msg("refused with: %s", err.msg);
}

static int open_it(struct world *w, uint32_t flags)
{
    Ofd msg = OFD__INIT;
    struct rofd d = {.msg = &msg, .object = &w->object};
    struct err err = {0};
    int fd = -1;

    msg.flags = flags;
    if (file_ops.open(&w->restore, &w->object, &d, &fd, &err) < 0)
        fail_msg("%s", err.msg);
    return fd;
}

static void assert_reads(int fd)
{
    char buf[SIZE + 1] = "";

    assert_int_equal(pread_full(fd, buf, SIZE, 0), 0);
    assert_string_equal(buf, TEXT);
}

/* Another inode under the same name. */
static void replace(struct world *w, const char *text)
{
    char other[80];

    snprintf(other, sizeof(other), "%s.new", w->path);
    spit(other, text);
    assert_int_equal(rename(other, w->path), 0);
}

static void unchanged(void **state)
{
    struct world *w = *state;
    _cleanup_close_ int fd = -1;

    expect_plan(w, FILE_AS_IT_IS);
    fd = open_it(w, O_RDWR | O_APPEND | O_NOFOLLOW);
    assert_int_equal(fcntl(fd, F_GETFL) & (O_ACCMODE | O_APPEND | O_NOFOLLOW),
                     O_RDWR | O_APPEND | O_NOFOLLOW);
    assert_reads(fd);
}

static void grown(void **state)
{
    struct world *w = *state;

    spit(w->path, TEXT "and more");
    expect_plan(w, FILE_CUT_BACK);
    assert_content(w->path, TEXT);
}

static void grown_but_only_read(void **state)
{
    struct world *w = *state;

    w->msg.written = false;
    spit(w->path, TEXT "and more");
    expect_plan(w, FILE_AS_IT_IS);
    assert_content(w->path, TEXT "and more");
}

static void shorter(void **state)
{
    struct world *w = *state;

    spit(w->path, "01");
    expect_refusal(w, "is shorter than at the checkpoint (2 bytes, was 10)");
}

static void shorter_but_allowed(void **state)
{
    struct world *w = *state;

    w->restore.options.skip_file_checks = true;
    spit(w->path, "01");
    expect_plan(w, FILE_AS_IT_IS);
}

static void gone(void **state)
{
    struct world *w = *state;

    unlink(w->path);
    expect_refusal(w, "is gone");
}

static void replaced(void **state)
{
    struct world *w = *state;

    replace(w, TEXT);
    expect_refusal(w, "is another file");
}

static void another_kind(void **state)
{
    struct world *w = *state;
    struct err err;

    unlink(w->path);
    assert_int_equal(mkdir(w->path, 0700), 0);
    assert_true(prepare(w, &err) < 0);
    assert_non_null(strstr(err.msg, "is a directory, and was a regular file"));
    rmdir(w->path);
}

static void symlink_in_its_place(void **state)
{
    struct world *w = *state;

    unlink(w->path);
    assert_int_equal(symlink("/etc/passwd", w->path), 0);
    expect_refusal(w, "is a symbolic link, and was a regular file");
}

static void mapped_and_changed(void **state)
{
    struct world *w = *state;

    w->msg.written = false;
    w->msg.mapped = true;
    w->msg.mtime_ns -= 5;
    expect_refusal(w, "has changed since the checkpoint, and is mapped");
}

static void saved_and_gone(void **state)
{
    struct world *w = *state;
    struct stat st;

    w->msg.content_saved = true;
    w->msg.mode = S_IFREG | 0640;
    unlink(w->path);
    expect_plan(w, FILE_RECREATE);
    assert_content(w->path, TEXT);
    assert_int_equal(stat(w->path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0640);
    assert_int_equal(st.st_mtim.tv_nsec, w->msg.mtime_ns % 1000000000);
}

static void saved_and_changed(void **state)
{
    struct world *w = *state;

    w->msg.content_saved = true;
    spit(w->path, "ABC");
    expect_plan(w, FILE_OVERWRITE);
    assert_content(w->path, TEXT);
}

static void saved_and_replaced(void **state)
{
    struct world *w = *state;

    w->msg.content_saved = true;
    replace(w, "somebody else's");
    expect_refusal(w, "--allow-file-overwrite");
    assert_content(w->path, "somebody else's");
}

static void saved_and_replaced_allowed(void **state)
{
    struct world *w = *state;

    w->msg.content_saved = w->msg.overwrite = true;
    replace(w, "somebody else's");
    expect_plan(w, FILE_OVERWRITE);
    assert_content(w->path, TEXT);
}

static void saved_and_only_read(void **state)
{
    struct world *w = *state;
    _cleanup_close_ int fd = -1;

    w->msg.content_saved = true;
    w->msg.written = false;
    spit(w->path, "new version");
    expect_plan(w, FILE_NAMELESS);
    assert_content(w->path, "new version");
    fd = open_it(w, O_RDONLY);
    assert_reads(fd);
}

static void deleted(void **state)
{
    struct world *w = *state;
    _cleanup_close_ int fd = -1, second = -1;
    _cleanup_free_ char *link = NULL;
    char path[40], want[80];
    struct stat a, b;

    w->msg.content_saved = w->msg.deleted = true;
    unlink(w->path);
    expect_plan(w, FILE_NAMELESS);
    assert_int_equal(access(w->path, F_OK), -1);
    fd = open_it(w, O_RDWR);
    second = open_it(w, O_WRONLY | O_APPEND);
    assert_reads(fd);
    assert_int_equal(fstat(fd, &a), 0);
    assert_int_equal(fstat(second, &b), 0);
    assert_int_equal(a.st_ino, b.st_ino);
    assert_int_equal(a.st_nlink, 0);
    assert_int_equal(a.st_size, SIZE);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    snprintf(want, sizeof(want), "%s (deleted)", w->path);
    link = readlink_dup(path);
    assert_string_equal(link, want);
}

/* The name belongs to somebody else now: that file is left alone. */
static void deleted_and_name_taken(void **state)
{
    struct world *w = *state;
    _cleanup_close_ int fd = -1;

    w->msg.content_saved = w->msg.deleted = true;
    replace(w, "somebody else's");
    expect_plan(w, FILE_NAMELESS);
    assert_content(w->path, "somebody else's");
    fd = open_it(w, O_RDWR);
    assert_reads(fd);
}

static void hostile_records(void **state)
{
    static const char *const paths[] = {"", "relative", "../up", "/with\0nul"};
    static const size_t lengths[] = {0, 8, 5, 9};
    struct world *w = *state;

    w->path[0] = '\0';
    for (size_t i = 0; i < ARRAY_SIZE(paths); i++) {
        struct err err = {0};

        w->msg.path = (ProtobufCBinaryData){lengths[i], (uint8_t *)paths[i]};
        assert_true(prepare(w, &err) < 0);
    }
    w->msg.path = (ProtobufCBinaryData){6, (uint8_t *)"../mem"};
    w->msg.proc_pid = 1;
    expect_refusal(w, "leaves /proc/PID");
    snprintf(w->path, sizeof(w->path), "%s/file", w->dir);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(unchanged),
        T(grown),
        T(shorter),
        T(shorter_but_allowed),
        T(gone),
        T(grown_but_only_read),
        T(replaced),
        T(another_kind),
        T(saved_and_gone),
        T(symlink_in_its_place),
        T(saved_and_changed),
        T(mapped_and_changed),
        T(saved_and_replaced),
        T(saved_and_replaced_allowed),
        T(saved_and_only_read),
        T(deleted),
        T(hostile_records),
        T(deleted_and_name_taken),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
