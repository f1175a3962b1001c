/* The key file: made once however many start at once, refused when others could know it. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "base/util.h"
#include "coordinator/key.h"

struct place {
    char dir[40];
    char path[60];
};

static int setup(void **state)
{
    static struct place p;

    strcpy(p.dir, "/tmp/key-test-XXXXXX");
    *state = &p;
    if (!mkdtemp(p.dir))
        return -1;
    strcpy(p.path, p.dir);
    strcat(p.path, "/key");
    return 0;
}

static int teardown(void **state)
{
    struct place *p = *state;

    unlink(p->path);
    return rmdir(p->dir); /* fails when a temporary file was left behind */
}

static void test_made_once(void **state)
{
    struct place *p = *state;
    unsigned char key[WIRE_KEY_SIZE], again[WIRE_KEY_SIZE];
    struct err err = {0};
    struct stat st;

    assert_int_equal(key_load(p->path, key, &err), 0);
    assert_int_equal(key_load(p->path, again, &err), 0);
    assert_memory_equal(key, again, sizeof(key));
    assert_int_equal(stat(p->path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
}

/* Many processes, one file that is not there: every one gets the same key. */
static void test_race(void **state)
{
    struct place *p = *state;

    for (int round = 0; round < 20; round++) {
        unsigned char first[WIRE_KEY_SIZE], key[WIRE_KEY_SIZE];
        int ends[2];
        assert_int_equal(pipe(ends), 0);
        for (int i = 0; i < 16; i++)
            if (fork() == 0) {
                struct err err = {0};
                _exit(key_load(p->path, key, &err) < 0 || write_full(ends[1], key, sizeof(key)) < 0);
            }
        for (int i = 0; i < 16; i++) {
            int status = 1;
            wait(&status);
            assert_int_equal(status, 0);
        }
        assert_int_equal(read_full(ends[0], first, sizeof(first)), 0);
        for (int i = 1; i < 16; i++) {
            assert_int_equal(read_full(ends[0], key, sizeof(key)), 0);
            assert_memory_equal(key, first, sizeof(key));
        }
        close(ends[0]);
        close(ends[1]);
        unlink(p->path);
    }
}

static void put(const char *path, const char *text, mode_t mode)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

    assert_true(fd >= 0);
    assert_int_equal(write_full(fd, text, strlen(text)), 0);
    assert_int_equal(fchmod(fd, mode), 0);
    close(fd);
}

static void test_refused(void **state)
{
    static const char good[] = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n";
    struct place *p = *state;
    unsigned char key[WIRE_KEY_SIZE];
    struct err err = {0};

    put(p->path, good, 0600);
    assert_int_equal(key_load(p->path, key, &err), 0);
    assert_int_equal(key[31], 0x1f);
    for (mode_t mode = 01; mode <= 040; mode <<= 1) {
        put(p->path, good, 0600 | mode);
        assert_int_equal(key_load(p->path, key, &err), -EPERM);
    }
    put(p->path, "short", 0600);
    assert_int_equal(key_load(p->path, key, &err), -EBADMSG);
    put(p->path, "zz0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n", 0600);
    assert_int_equal(key_load(p->path, key, &err), -EBADMSG);
    assert_int_equal(key_load("/dev/null", key, &err), -EPERM);
    assert_int_equal(key_load(p->dir, key, &err), -EPERM);
}

static void test_where(void **state)
{
    struct place *p = *state;
    struct err err = {0};
    _cleanup_free_ char *given = key_path("/somewhere", p->dir, &err), *home = NULL, *tmp = NULL, *sub = NULL;
    _cleanup_free_ char *want_home = format("%s/.dmtcp/key", p->dir);
    _cleanup_free_ char *want_tmp = format("%s/dmtcp-%u/key", p->dir, (unsigned)geteuid());

    assert_string_equal(given, "/somewhere");
    setenv("HOME", p->dir, 1);
    home = key_path(NULL, "/nowhere", &err);
    assert_string_equal(home, want_home);
    setenv("HOME", "/proc/self", 1); /* can't be written */
    tmp = key_path(NULL, p->dir, &err);
    assert_string_equal(tmp, want_tmp);
    *strrchr(want_tmp, '/') = *strrchr(want_home, '/') = '\0';
    assert_int_equal(chmod(want_tmp, 0777), 0);
    assert_null(key_path(NULL, p->dir, &err));
    assert_non_null(strstr(err.msg, "only you"));
    assert_int_equal(rmdir(want_tmp), 0);
    assert_int_equal(symlink("/", want_tmp), 0);
    assert_null(key_path(NULL, p->dir, &err));
    unlink(want_tmp);
    rmdir(want_home);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_made_once, setup, teardown),
        cmocka_unit_test_setup_teardown(test_race, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_where, setup, teardown),
    };

    return cmocka_run_group_tests_name("coordinator_key", tests, NULL, NULL);
}
