/*
 * dmtcp_launch: puts itself into the computation and then becomes the program. So the program has this command's
 * pid, parent, terminal and exit status, and nothing of ours in it.
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/log.h"
#include "base/util.h"
#include "coordinator/client.h"

enum launch_option {
    OPT_GZIP = OPT_COMMON_END,
    OPT_NO_GZIP,
    OPT_COMPRESS,
    OPT_CKPT_OPEN_FILES,
    OPT_ALLOW_OVERWRITE,
    OPT_PLUGIN,
    OPT_KEEP,
    OPT_EXT_TCP,
    OPT_NO_TRACE,
    OPT_MEANINGLESS,
    OPT_MEANINGLESS_ARG,
};

static const struct option longopts[] = {
    COMMON_OPTIONS,
    {"gzip", no_argument, NULL, OPT_GZIP},
    {"no-gzip", no_argument, NULL, OPT_NO_GZIP},
    {"compress", required_argument, NULL, OPT_COMPRESS},
    {"ckpt-open-files", no_argument, NULL, OPT_CKPT_OPEN_FILES},
    {"checkpoint-open-files", no_argument, NULL, OPT_CKPT_OPEN_FILES},
    {"allow-file-overwrite", no_argument, NULL, OPT_ALLOW_OVERWRITE},
    {"with-plugin", required_argument, NULL, OPT_PLUGIN},
    {"keep", required_argument, NULL, OPT_KEEP},
    {"ext-tcp", required_argument, NULL, OPT_EXT_TCP},
    {"no-trace", no_argument, NULL, OPT_NO_TRACE},
    /* What the engine makes meaningless: see dmtcp_launch(1). */
    {"enable-unique-checkpoint-filenames", no_argument, NULL, OPT_MEANINGLESS},
    {"ckpt-signal", required_argument, NULL, OPT_MEANINGLESS_ARG},
    {"modify-env", no_argument, NULL, OPT_MEANINGLESS},
    {"pathvirt", no_argument, NULL, OPT_MEANINGLESS},
    {"infiniband", no_argument, NULL, OPT_MEANINGLESS},
    {"ib", no_argument, NULL, OPT_MEANINGLESS},
    {"disable-alloc-plugin", no_argument, NULL, OPT_MEANINGLESS},
    {"disable-dl-plugin", no_argument, NULL, OPT_MEANINGLESS},
    {"disable-all-plugins", no_argument, NULL, OPT_MEANINGLESS},
    {"batch-queue", no_argument, NULL, OPT_MEANINGLESS},
    {"rm", no_argument, NULL, OPT_MEANINGLESS},
    {"ptrace", no_argument, NULL, OPT_MEANINGLESS},
    {0},
};

static void usage(void)
{
    printf("Usage: dmtcp_launch [options] command [args...]\n"
           "Run a command so that it and all it starts can be checkpointed.\n\n"
           "%s"
           "  --compress lz4[:LEVEL]|none   compress images (default lz4; --gzip, --no-gzip)\n"
           "  --ckpt-open-files             save the contents of open files too\n"
           "  --allow-file-overwrite        a restart may overwrite files by saved contents\n"
           "  --keep N                      checkpoints that are kept (default 1)\n"
           "  --ext-tcp keep|reset|refuse   TCP connections that lead out of the computation\n"
           "  --with-plugin FILE[:FILE...]  libraries that take part in checkpoints (DMTCP_PLUGIN)\n"
           "  --no-trace                    accepted; nothing is traced between checkpoints anyway\n\n"
           "See dmtcp_launch(1).\n",
           options_common_help);
}

static int set_compress(Wire__TreeOptions *t, const char *how, struct err *err)
{
    long level;

    if (!strncmp(how, "lz4:", 4) && options_number("--compress lz4:LEVEL", how + 4, -99, 12, &level, err) < 0)
        return -err->code;
    if (strcmp(how, "none") && strcmp(how, "lz4") && strncmp(how, "lz4:", 4))
        return err_set(err, EINVAL, "--compress %s: use lz4, lz4:LEVEL or none", how);
    t->compress = (char *)how;
    return 0;
}

static int add_extra(Wire__TreeOptions *t, const char *name, const char *value, struct err *err)
{
    char **more = realloc(t->extra, (t->n_extra + 1) * sizeof(*more));

    if (!more)
        return err_set(err, ENOMEM, "out of memory");
    t->extra = more;
    more[t->n_extra] = format("%s=%s", name, value);
    return more[t->n_extra++] ? 0 : err_set(err, ENOMEM, "out of memory");
}

static int take(Wire__TreeOptions *t, int opt, const char *arg, struct err *err)
{
    enum ext_tcp ext;
    long n;

    switch (opt) {
    case OPT_GZIP:
        return set_compress(t, "lz4", err);
    case OPT_NO_GZIP:
        return set_compress(t, "none", err);
    case OPT_COMPRESS:
        return set_compress(t, arg, err);
    case OPT_CKPT_OPEN_FILES:
        t->ckpt_open_files = 1;
        return 0;
    case OPT_ALLOW_OVERWRITE:
        t->allow_file_overwrite = 1;
        return 0;
    case OPT_KEEP:
        if (options_number("--keep", arg, 1, 1000000, &n, err) < 0)
            return -err->code;
        t->keep = (uint32_t)n;
        return 0;
    case OPT_EXT_TCP:
        if (options_ext_tcp(arg, &ext, err) < 0)
            return -err->code;
        return add_extra(t, "ext-tcp", arg, err);
    case OPT_PLUGIN:
        return options_plugins(arg, &t->plugin, &t->n_plugin, err);
    case OPT_NO_TRACE:
        t->no_trace = 1;
        return 0;
    case OPT_MEANINGLESS:
    case OPT_MEANINGLESS_ARG:
        return 0;
    default:
        return err_set(err, EINVAL, "try 'dmtcp_launch --help'");
    }
}

static int parse(int argc, char **argv, struct options *o, Wire__TreeOptions *t, struct err *err)
{
    const char *gzip = getenv("DMTCP_GZIP");
    int opt, r;

    if (gzip && set_compress(t, !strcmp(gzip, "0") ? "none" : "lz4", err) < 0)
        return -err->code;
    while ((opt = getopt_long(argc, argv, "+" COMMON_SHORT, longopts, NULL)) != -1) {
        r = options_take(o, opt, optarg, err);
        if (r == 0)
            r = take(t, opt, optarg, err);
        if (r < 0)
            return r;
    }
    r = options_plugins(NULL, &t->plugin, &t->n_plugin, err);
    return r < 0 ? r : options_finish(o, err);
}

/* execvp's own answers, but before the tree is announced: a mistyped name costs nothing. */
static int can_run(const char *file, struct err *err)
{
    const char *path = getenv("PATH");
    struct stat st;

    if (strchr(file, '/'))
        return access(file, X_OK) < 0 ? err_errno(err, "%s", file) : 0;
    _cleanup_free_ char *copy = strdup(path ? path : "/bin:/usr/bin");
    for (char *save = NULL, *dir = copy ? strtok_r(copy, ":", &save) : NULL; dir; dir = strtok_r(NULL, ":", &save)) {
        _cleanup_free_ char *full = format("%s/%s", dir, file);
        if (full && access(full, X_OK) == 0 && stat(full, &st) == 0 && S_ISREG(st.st_mode))
            return 0;
    }
    return err_set(err, ENOENT, "%s: command not found", file);
}

static int join(const struct options *o, Wire__TreeOptions *t, const char *program, struct err *err)
{
    Wire__TracerConfig config = WIRE__TRACER_CONFIG__INIT;
    const char *log = getenv("DMTCP_TRACER_LOG");
    struct coord *c;
    int r;

    t->program = (char *)program;
    t->ckptdir = o->ckptdir;
    t->tmpdir = o->tmpdir;
    config.ckptdir = o->ckptdir;
    config.tmpdir = o->tmpdir;
    config.log_file = (char *)(log ? log : "");
    r = coord_connect(&c, o, err);
    if (r < 0)
        return r;
    r = coord_launch(c, getpid(), 0, t, &config, err);
    coord_close(c);
    return r;
}

static void free_strings(char **list, size_t n)
{
    for (size_t i = 0; i < n; i++)
        free(list[i]);
    free(list);
}

/* Does not return when all goes well: the program is in our place then. */
static int launch(int argc, char **argv, struct options *o, Wire__TreeOptions *tree, int *rc, struct err *err)
{
    if (options_init(o, argv[0], err) < 0 || parse(argc, argv, o, tree, err) < 0)
        return -err->code;
    if (o->help)
        usage();
    else if (o->version)
        options_print_version(o);
    if (o->help || o->version)
        return 0;
    if (optind >= argc)
        return err_set(err, EINVAL, "no command given; try 'dmtcp_launch --help'");
    if (can_run(argv[optind], err) < 0)
        return -err->code;
    *rc = FAIL_COORDINATOR;
    if (join(o, tree, argv[optind], err) < 0)
        return -err->code;
    *rc = FAIL_GENERAL;
    execvp(argv[optind], argv + optind);
    return err_errno(err, "%s", argv[optind]);
}

int main(int argc, char **argv)
{
    struct options o;
    Wire__TreeOptions tree = WIRE__TREE_OPTIONS__INIT;
    struct err err = {0};
    int rc = FAIL_GENERAL, status = 0;

    log_init("dmtcp_launch", 0);
    if (launch(argc, argv, &o, &tree, &rc, &err) < 0) {
        log_error("%s", err.msg);
        status = o.fail_rc + rc;
    }
    free_strings(tree.plugin, tree.n_plugin);
    free_strings(tree.extra, tree.n_extra);
    options_free(&o);
    return status;
}
