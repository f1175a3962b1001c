/* dmtcp_restart: checks the images, has everything rebuilt by its child, the driver, and stands in for the program. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "base/log.h"
#include "base/util.h"
#include "coordinator/client.h"
#include "plugin/plugin.h"
#include "restorer/core.h"
#include "restorer/driver.h"
#include "restorer/socket.h"
#include "restorer/tty.h"

#ifdef MTCP_RESTART
#define PROGRAM    "mtcp_restart"
#define USAGE_LINE "Usage: mtcp_restart [options] image\nGo on from the image of one process, without a coordinator.\n\n"
#define ALONE      true
#else
#define PROGRAM    "dmtcp_restart"
#define USAGE_LINE "Usage: dmtcp_restart [options] image... | directory | manifest\nGo on from a checkpoint.\n\n"
#define ALONE      false
#endif

enum restart_option {
    OPT_RESTARTDIR = OPT_COMMON_END,
    OPT_NO_STRICT,
    OPT_VERIFY,
    OPT_NEW_PIDNS,
    OPT_PIDS_MATCH,
    OPT_IGNORE_CPU,
    OPT_SKIP_FILES,
    OPT_EXT_TCP,
    OPT_PLUGIN,
    OPT_MEANINGLESS,
};

static const struct option longopts[] = {
    COMMON_OPTIONS,
    {"restartdir", required_argument, NULL, OPT_RESTARTDIR},
    {"no-strict-checking", no_argument, NULL, OPT_NO_STRICT},
    {"verify", no_argument, NULL, OPT_VERIFY},
    {"in-new-pidns", no_argument, NULL, OPT_NEW_PIDNS},
    {"pids-must-match", no_argument, NULL, OPT_PIDS_MATCH},
    {"ignore-cpu-features", no_argument, NULL, OPT_IGNORE_CPU},
    {"skip-file-checks", no_argument, NULL, OPT_SKIP_FILES},
    {"ext-tcp", required_argument, NULL, OPT_EXT_TCP},
    {"with-plugin", required_argument, NULL, OPT_PLUGIN},
    {"mpi", no_argument, NULL, OPT_MEANINGLESS},
    {0},
};

static void usage(void)
{
    printf(USAGE_LINE
           "%s"
           "  --restartdir DIR        look for images there first\n"
           "  --no-strict-checking    allow images that belong to another user\n"
           "  --verify                check the images, restore nothing\n"
           "  --in-new-pidns          always restore into a new pid namespace\n"
           "  --pids-must-match       fail when a pid is taken instead\n"
           "  --ignore-cpu-features   restore although this CPU lacks something that was in use\n"
           "  --skip-file-checks      open files although they are not as they were\n"
           "  --ext-tcp keep|reset|refuse  TCP connections that lead out of the computation\n"
           "  --with-plugin FILE[:FILE...]  the libraries that took part in the checkpoint (DMTCP_PLUGIN)\n\n"
           "See " PROGRAM "(1).\n",
           options_common_help);
}

struct command {
    struct options o;
    struct restore_options restore;
    bool verify;
};

static int take(struct command *c, int opt, const char *arg, struct err *err)
{
    switch (opt) {
    case OPT_RESTARTDIR:
        c->restore.restartdir = arg;
        return 0;
    case OPT_NO_STRICT:
        c->restore.no_strict_checking = true;
        return 0;
    case OPT_VERIFY:
        c->verify = true;
        return 0;
    case OPT_NEW_PIDNS:
        c->restore.in_new_pidns = true;
        return 0;
    case OPT_PIDS_MATCH:
        c->restore.pids_must_match = true;
        return 0;
    case OPT_IGNORE_CPU:
        c->restore.ignore_cpu = true;
        return 0;
    case OPT_SKIP_FILES:
        c->restore.skip_file_checks = true;
        return 0;
    case OPT_EXT_TCP:
        return options_ext_tcp(arg, &c->restore.ext_tcp, err);
    case OPT_PLUGIN:
        return options_plugins(arg, &c->restore.plugin, &c->restore.n_plugin, err);
    case OPT_MEANINGLESS:
        return 0;
    default:
        return err_set(err, EINVAL, "try '" PROGRAM " --help'");
    }
}

static int parse(int argc, char **argv, struct command *c, struct err *err)
{
    int opt, r = options_init(&c->o, argv[0], err);

    while (r == 0 && (opt = getopt_long(argc, argv, COMMON_SHORT, longopts, NULL)) != -1) {
        r = options_take(&c->o, opt, optarg, err);
        if (r == 0)
            r = take(c, opt, optarg, err);
        else if (r > 0)
            r = 0;
    }
    if (r == 0 && c->restore.in_new_pidns && c->restore.pids_must_match)
        r = err_set(err, EINVAL, "--in-new-pidns and --pids-must-match exclude each other; say one of them");
    if (r == 0)
        r = options_plugins(NULL, &c->restore.plugin, &c->restore.n_plugin, err);
    return r < 0 ? r : options_finish(&c->o, err);
}

/* All that can be refused is refused here, before anything exists. */
static int open_and_check(struct restore *r, const struct command *c, char *const *names, size_t n, struct err *err)
{
    r->options = c->restore;
    r->options.tmpdir = c->o.tmpdir;
    for (int i = 0; i < 3; i++)
        r->options.stdio[i] = i;
    for (size_t i = 0; !c->verify && i < r->options.n_plugin; i++)
        if (plugin_load(r->options.plugin[i], true, err) < 0)
            return -err->code;
    if (images_open(r, names, n, err) < 0 || check_images(r, err) < 0)
        return -err->code;
    if (c->verify)
        return images_verify(r, err);
    if (check_machine(r, err) < 0 || check_rights(r, err) < 0 || prepare_objects(r, err) < 0 ||
        vdso_locate(r, err) < 0 || plan_fds(r, err) < 0 || plan_area(r, err) < 0)
        return -err->code;
    return plan_namespaces(r, err);
}

static int start_driver(struct restore *r, const struct driver_config *config, int *report, pid_t *driver, struct err *err)
{
    int pair[2];

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return err_errno(err, "socketpair");
    fflush(NULL);
    *driver = fork();
    if (*driver < 0)
        return err_errno(err, "fork");
    if (*driver == 0) {
        close(pair[0]);
        r->report = pair[1];
        driver_run(r, config);
    }
    close(pair[1]);
    *report = pair[0];
    return 0;
}

/* A manifest named alone lets the coordinator remove that generation when the next one is complete. */
static const char *manifest_of(char *const *names, int n)
{
    static char path[PATH_MAX];
    struct stat st;

    if (n != 1 || stat(names[0], &st) < 0 || !S_ISREG(st.st_mode) || !strstr(names[0], "manifest") ||
        !realpath(names[0], path))
        return NULL;
    return path;
}

int main(int argc, char **argv)
{
    /* They live as long as the program and are not taken apart at its end. */
    static struct command c;
    static struct restore r = {.report = -1};
    struct driver_config config = {.options = &c.o};
    struct err err = {0};
    int rc = FAIL_GENERAL, report = -1, res;
    pid_t driver = -1;

    log_init(PROGRAM, 0);
    res = parse(argc, argv, &c, &err);
    if (res == 0 && c.o.help)
        return usage(), 0;
    if (res == 0 && c.o.version)
        return options_print_version(&c.o), 0;
    if (res == 0 && optind >= argc)
        res = err_set(&err, EINVAL, "no image given; try '" PROGRAM " --help'");
    if (res == 0) {
        rc = FAIL_COMPUTATION;
        res = open_and_check(&r, &c, argv + optind, (size_t)(argc - optind), &err);
    }
    if (res == 0 && c.verify) {
        printf("%zu images are whole\n", r.nprocs);
        return 0;
    }
    if (res == 0) {
        rc = FAIL_COORDINATOR;
        config.manifest = manifest_of(argv + optind, argc - optind);
        res = ALONE ? 0 : coord_connect(&config.coord, &c.o, &err);
    }
    if (res == 0) {
        rc = FAIL_COMPUTATION;
        terminal_plan(&r);
        res = start_driver(&r, &config, &report, &driver, &err);
        tcp_adopt_forget(&r);
    }
    if (res < 0) {
        log_error("%s", err.msg);
        return c.o.fail_rc + rc;
    }
    coord_close(config.coord);
    images_close(&r);
    return standin_run(report, driver, c.o.fail_rc + FAIL_COMPUTATION);
}
