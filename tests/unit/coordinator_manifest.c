/* Manifests: any name survives, any damage is refused, nothing is replaced. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "base/manifest.h"
#include "base/util.h"

static const char odd[] = "/it's \"odd\"\n\\x41 \x01\x7f\xff end";

static int setup(void **state)
{
    static char dir[40];

    strcpy(dir, "/tmp/manifest-test-XXXXXX");
    *state = dir;
    return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
    DIR *d = opendir(*state);
    struct dirent *e;

    while (d && (e = readdir(d)))
        unlinkat(dirfd(d), e->d_name, 0);
    if (d)
        closedir(d);
    return rmdir(*state);
}

static struct manifest *sample(unsigned generation, int64_t time)
{
    struct manifest *m = manifest_new("comp-1", generation, time);

    assert_int_equal(manifest_add_host(m, "anna", "boot-1", 4026531836u, "/ckpt"), 0);
    assert_int_equal(manifest_add_host(m, odd, "boot-2", UINT64_MAX, odd), 1);
    assert_int_equal(manifest_add_image(m, 0, "/ckpt/a.dmtcp", 4096, "a.out", 10, 1), 0);
    assert_int_equal(manifest_add_image(m, 1, odd, INT64_MAX, odd, 11, 0), 1);
    return m;
}

static void test_round_trip(void **state)
{
    struct manifest *m = sample(7, 1700000000), *back = NULL;
    _cleanup_free_ char *text = manifest_format(m), *again = NULL;
    struct err err = {0};

    assert_int_equal(manifest_parse(text, strlen(text), &back, &err), 0);
    assert_string_equal(back->computation, "comp-1");
    assert_int_equal(back->generation, 7);
    assert_int_equal(back->time, 1700000000);
    assert_int_equal(back->n_hosts, 2);
    assert_int_equal(back->n_images, 2);
    assert_string_equal(back->host[1].hostname, odd);
    assert_true(back->host[1].pidns == UINT64_MAX);
    assert_string_equal(back->image[1].path, odd);
    assert_string_equal(back->image[1].program, odd);
    assert_int_equal(back->image[1].host, 1);
    assert_true(back->image[0].foreground && !back->image[1].foreground);
    again = manifest_format(back);
    assert_string_equal(text, again);
    manifest_free(m);
    manifest_free(back);
}

static void test_every_cut_is_noticed(void **state)
{
    struct manifest *m = sample(1, 1), *back = NULL;
    _cleanup_free_ char *text = manifest_format(m);
    struct err err = {0};

    for (size_t n = 0; n < strlen(text); n++) {
        assert_int_equal(manifest_parse(text, n, &back, &err), -EINVAL);
        assert_true(strlen(err.msg) > 0);
    }
    manifest_free(m);
}

static void test_bad_lines(void **state)
{
#define TOP  "dmtcp-manifest 1\ncomputation \"c\"\ngeneration 1\ntime 1\n"
#define HOST "host 0 \"h\" \"b\" 1 \"/c\"\n"
    static const char *const bad[] = {
        "",
        "\n",
        "something else\n",
        "dmtcp-manifest 2\n",
        "dmtcp-manifest 99999999999999999999\n",
        TOP,
        TOP "end 1\n",
        TOP "end 0\nmore\n",
        TOP "surprise\nend 0\n",
        TOP "host 1 \"h\" \"b\" 1 \"/c\"\nend 0\n",
        TOP HOST "image 1 1 1 - \"p\" \"/x\"\nend 1\n",
        TOP HOST "image 0 1 1 - \"p\" \"relative\"\nend 1\n",
        TOP HOST "image 0 1 1 z \"p\" \"/x\"\nend 1\n",
        TOP HOST "image 0 1 99999999999 - \"p\" \"/x\"\nend 1\n",
        TOP HOST "image 0 -1 1 - \"p\" \"/x\"\nend 1\n",
        TOP HOST "image 0 1 1 - \"p\\x00\" \"/x\"\nend 1\n",
        TOP HOST "image 0 1 1 - \"p\\xg0\" \"/x\"\nend 1\n",
        TOP HOST "image 0 1 1 - \"p\\\" \"/x\"\nend 1\n",
        TOP HOST "image 0 1 1 - \"p\n\" \"/x\"\nend 1\n",
        TOP HOST "image 0 1 1 - p \"/x\"\nend 1\n",
    };
    struct manifest *m = NULL;
    struct err err;

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert_int_equal(manifest_parse(bad[i], strlen(bad[i]), &m, &err), -EINVAL);
    assert_int_equal(manifest_parse(TOP "end 0\n", strlen(TOP "end 0\n"), &m, &err), 0);
    manifest_free(m);
}

static void test_files(void **state)
{
    struct manifest *m = sample(3, 100), *later = sample(4, 100), *back = NULL;
    _cleanup_free_ char *path = manifest_path(*state, "comp-1", 3),
                        *path4 = manifest_path(*state, "comp-1", 4);
    _cleanup_free_ char *newest = NULL, *none = NULL;
    struct err err = {0};

    assert_int_equal(manifest_newest(*state, &none, &err), -ENOENT);
    assert_int_equal(manifest_write(m, path, &err), 0);
    assert_int_equal(manifest_write(m, path, &err), -EEXIST);
    assert_int_equal(manifest_write(later, path4, &err), 0);
    assert_true(manifest_is(path));
    assert_false(manifest_is("/dev/null"));
    assert_false(manifest_is("/nowhere"));
    assert_int_equal(manifest_read(path, &back, &err), 0);
    manifest_free(back);
    assert_int_equal(manifest_newest(*state, &newest, &err), 0);
    assert_string_equal(newest, path4);
    assert_int_equal(truncate(path4, 50), 0); /* damaged: not a candidate */
    free(newest);
    newest = NULL;
    assert_int_equal(manifest_newest(*state, &newest, &err), 0);
    assert_string_equal(newest, path);
    assert_int_equal(manifest_read(path4, &back, &err), -EINVAL);
    assert_non_null(strstr(err.msg, path4));
    manifest_free(m);
    manifest_free(later);
}

static void test_failed_write_leaves_nothing(void **state)
{
    struct manifest *m = sample(3, 100);
    _cleanup_free_ char *path = format("%s/no/where", (char *)*state), *again = manifest_path(*state, "c", 1);
    struct err err = {0};
    DIR *d;
    int files = 0;

    assert_int_equal(manifest_write(m, path, &err), -ENOENT);
    assert_int_equal(manifest_write(m, again, &err), 0);
    assert_int_equal(manifest_write(m, again, &err), -EEXIST);
    d = opendir(*state);
    while (readdir(d))
        files++;
    closedir(d);
    assert_int_equal(files, 3); /* ".", "..", the manifest */
    manifest_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_every_cut_is_noticed),
        cmocka_unit_test(test_bad_lines),
        cmocka_unit_test_setup_teardown(test_files, setup, teardown),
        cmocka_unit_test_setup_teardown(test_failed_write_leaves_nothing, setup, teardown),
    };

    return cmocka_run_group_tests_name("coordinator_manifest", tests, NULL, NULL);
}
