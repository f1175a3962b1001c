/* Files that appear whole or not at all. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/util.h"
#include "image/file.h"

struct place {
    char path[32];
    int fd;
};

static int setup(void **state)
{
    static struct place place;

    strcpy(place.path, "/tmp/image-test-XXXXXX");
    *state = &place;
    if (!mkdtemp(place.path))
        return -1;
    place.fd = open(place.path, O_RDONLY | O_DIRECTORY);
    return place.fd < 0 ? -1 : 0;
}

static int teardown(void **state)
{
    struct place *p = *state;

    unlinkat(p->fd, "image", 0);
    close(p->fd);
    return rmdir(p->path); /* fails when a test left something behind */
}

static int entries(const struct place *p)
{
    DIR *d = opendir(p->path);
    int n = 0;

    while (readdir(d))
        n++;
    closedir(d);
    return n - 2;
}

static void put(const struct place *p, const char *text)
{
    struct image_file *f;
    struct err err;

    assert_int_equal(image_file_create(&f, p->fd, "image", &err), 0);
    assert_int_equal(write_full(image_file_fd(f), text, strlen(text)), 0);
    assert_int_equal(image_file_publish(f, 1, &err), 0);
    image_file_free(f);
    assert_int_equal(image_dir_sync(p->fd, &err), 0);
}

static void test_publish(void **state)
{
    struct place *p = *state;
    _cleanup_free_ char *text = NULL;
    struct stat st;

    put(p, "first");
    assert_int_equal(fstatat(p->fd, "image", &st, 0), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    put(p, "second"); /* replaces */
    assert_int_equal(read_file(p->fd, "image", &text, NULL), 0);
    assert_string_equal(text, "second");
    assert_int_equal(entries(p), 1);
}

static void test_nothing_left(void **state)
{
    struct place *p = *state;
    struct image_file *f;
    struct err err;

    put(p, "old");
    assert_int_equal(image_file_create(&f, p->fd, "image", &err), 0);
    assert_int_equal(write_full(image_file_fd(f), "new", 3), 0);
    image_file_free(f);
    assert_int_equal(entries(p), 1);
}

static void test_errors(void **state)
{
    struct place *p = *state;
    struct image_file *f;
    struct err err;

    assert_int_equal(image_file_create(&f, p->fd, "a/b", &err), -EINVAL);
    assert_int_equal(image_file_create(&f, p->fd, "", &err), -EINVAL);
    assert_int_equal(image_file_create(&f, 9999, "image", &err), -EBADF);
    image_file_free(NULL);
    assert_int_equal(mkdirat(p->fd, "image", 0700), 0);
    assert_int_equal(image_file_create(&f, p->fd, "image", &err), 0);
    assert_int_equal(image_file_publish(f, 0, &err), -EISDIR);
    image_file_free(f);
    assert_int_equal(unlinkat(p->fd, "image", AT_REMOVEDIR), 0);
    assert_int_equal(entries(p), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_publish, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nothing_left, setup, teardown),
        cmocka_unit_test_setup_teardown(test_errors, setup, teardown),
    };

    return cmocka_run_group_tests_name("image_file", tests, NULL, NULL);
}
