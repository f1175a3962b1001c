/* The common options: environment, command line, what is refused. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/util.h"
#include "coordinator/options.h"

static const struct option table[] = {COMMON_OPTIONS, {NULL, 0, NULL, 0}};

static int setup(void **state)
{
    static const char *const names[] = {
        "DMTCP_COORD_HOST",          "DMTCP_HOST",           "DMTCP_COORD_PORT", "DMTCP_PORT",
        "DMTCP_CHECKPOINT_INTERVAL", "DMTCP_CHECKPOINT_DIR", "DMTCP_TMPDIR",     "TMPDIR",
        "DMTCP_COORD_LOG_FILENAME",  "DMTCP_FAIL_RC",        "DMTCP_QUIET",      "DMTCP_KEY_FILE"};

    for (size_t i = 0; i < ARRAY_SIZE(names); i++)
        unsetenv(names[i]);
    return 0;
}

static int parse(struct options *o, struct err *err, int argc, char **argv)
{
    int opt, r = options_init(o, argv[0], err);

    optind = 0;
    opterr = 0;
    while (r >= 0 && (opt = getopt_long(argc, argv, COMMON_SHORT, table, NULL)) != -1)
        if ((r = options_take(o, opt, optarg, err)) == 0)
            return -ENOENT;
    return r < 0 ? r : options_finish(o, err);
}

#define PARSE(o, err, ...)                                                                                   \
    parse(o, err, (int)ARRAY_SIZE(((char *[]){(char *)"/bin/prog", ##__VA_ARGS__})),                         \
          (char *[]){(char *)"/bin/prog", ##__VA_ARGS__, NULL})

static void test_defaults(void **state)
{
    struct options o;
    struct err err = {0};
    _cleanup_free_ char *cwd = getcwd(NULL, 0);

    assert_int_equal(PARSE(&o, &err), 0);
    assert_string_equal(o.program, "prog");
    assert_string_equal(o.host, "localhost");
    assert_int_equal(o.port, 7779);
    assert_int_equal(o.mode, COORD_ANY);
    assert_int_equal(o.interval, -1);
    assert_int_equal(o.fail_rc, 99);
    assert_string_equal(o.ckptdir, cwd);
    assert_string_equal(o.tmpdir, "/tmp");
    assert_null(o.logfile);
    assert_false(o.port_given || o.ckptdir_given);
    options_free(&o);
}

static void test_environment_and_line(void **state)
{
    struct options o;
    struct err err = {0};
    _cleanup_free_ char *cwd = getcwd(NULL, 0), *want = format("%s/sub", cwd);

    setenv("DMTCP_HOST", "old", 1);
    setenv("DMTCP_COORD_HOST", "new", 1);
    setenv("DMTCP_PORT", "1", 1);
    setenv("DMTCP_CHECKPOINT_INTERVAL", "60", 1);
    setenv("DMTCP_CHECKPOINT_DIR", "/c", 1);
    setenv("TMPDIR", "/t1", 1);
    setenv("DMTCP_TMPDIR", "/t2", 1);
    setenv("DMTCP_FAIL_RC", "5", 1);
    setenv("DMTCP_QUIET", "1", 1);
    assert_int_equal(PARSE(&o, &err), 0);
    assert_string_equal(o.host, "new");
    assert_int_equal(o.port, 1);
    assert_int_equal(o.interval, 60);
    assert_string_equal(o.ckptdir, "/c");
    assert_string_equal(o.tmpdir, "/t2");
    assert_int_equal(o.fail_rc, 5);
    assert_int_equal(o.quiet, 1);
    assert_true(o.port_given && o.ckptdir_given);
    options_free(&o);
    assert_int_equal(PARSE(&o, &err, (char *)"-h", (char *)"h", (char *)"--coord-port=0", (char *)"-j",
                           (char *)"-q", (char *)"--ckptdir", (char *)"sub", (char *)"-i", (char *)"0"),
                     0);
    assert_string_equal(o.host, "h");
    assert_int_equal(o.port, 0);
    assert_int_equal(o.mode, COORD_JOIN);
    assert_int_equal(o.quiet, 2);
    assert_int_equal(o.interval, 0);
    assert_string_equal(o.ckptdir, want);
    options_free(&o);
}

static void test_refused(void **state)
{
    static const char *const bad[][2] = {
        {"--coord-port", "x"},  {"--coord-port", "65536"},
        {"--coord-port", "-1"}, {"--coord-port", ""},
        {"--interval", "1.5"},  {"--interval", "99999999999999999999"},
        {"--interval", " 5"},   {"--host", ""},
        {"--ckptdir", ""},
    };
    struct options o;
    struct err err;

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        assert_int_equal(PARSE(&o, &err, (char *)bad[i][0], (char *)bad[i][1]), -EINVAL);
        assert_true(strlen(err.msg) > 0);
        options_free(&o);
    }
    setenv("DMTCP_COORD_PORT", "many", 1);
    assert_int_equal(PARSE(&o, &err), -EINVAL);
    assert_non_null(strstr(err.msg, "DMTCP_COORD_PORT"));
    options_free(&o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_defaults, setup),
        cmocka_unit_test_setup(test_environment_and_line, setup),
        cmocka_unit_test_setup(test_refused, setup),
    };

    return cmocka_run_group_tests_name("coordinator_options", tests, NULL, NULL);
}
