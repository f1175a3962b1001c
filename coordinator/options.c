/*
 * The common options: one parser for six commands, so that --coord-port means the same in all of them. An
 * option wins over its environment variable; of several equal ones the last wins.
 */
#include "coordinator/options.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/log.h"
#include "base/util.h"

#ifndef DMTCP_VERSION
#define DMTCP_VERSION "0"
#endif

const char options_common_help[] =
    "Coordinator:\n"
    "  -h, --coord-host HOST     its host (DMTCP_COORD_HOST; default localhost)\n"
    "  -p, --coord-port PORT     its port (DMTCP_COORD_PORT; default 7779; 0: any free one)\n"
    "      --port-file FILE      write the port there\n"
    "  -j, --join-coordinator    it must be there already\n"
    "      --new-coordinator     it must not be there: start one\n"
    "      --any-coordinator     join it, or start one in the background (default)\n"
    "  -i, --interval SECONDS    automatic checkpoints (DMTCP_CHECKPOINT_INTERVAL; 0: none)\n"
    "      --coord-logfile FILE  its log (DMTCP_COORD_LOG_FILENAME)\n"
    "Common:\n"
    "      --ckptdir DIR         where images go (DMTCP_CHECKPOINT_DIR; default: here)\n"
    "      --tmpdir DIR          temporary files (DMTCP_TMPDIR, TMPDIR; default /tmp)\n"
    "  -q, --quiet               no notes; twice: no warnings (DMTCP_QUIET=0,1,2)\n"
    "      --help, --version\n";

int options_number(const char *what, const char *text, long min, long max, long *value, struct err *err)
{
    char *end;
    long v;

    errno = 0;
    v = strtol(text, &end, 10);
    if (errno || end == text || *end || strchr(" \t\n+", text[0]))
        return err_set(err, EINVAL, "%s: \"%s\" is not a whole number", what, text);
    if (v < min || v > max)
        return err_set(err, EINVAL, "%s: %ld is not between %ld and %ld", what, v, min, max);
    *value = v;
    return 0;
}

/* Replace a string option. */
static int set(char **option, const char *value, struct err *err)
{
    char *copy = strdup(value);

    if (!copy)
        return err_set(err, ENOMEM, "out of memory");
    free(*option);
    *option = copy;
    return 0;
}

static int set_int(int *option, const char *what, const char *value, long max, struct err *err)
{
    long v = 0;
    int r = options_number(what, value, 0, max, &v, err);

    if (r == 0)
        *option = (int)v;
    return r;
}

static const char *environment(const char *name)
{
    const char *value = getenv(name);

    return value && *value ? value : NULL;
}

static int strings_from_environment(struct options *o, struct err *err)
{
    const struct {
        char **option;
        const char *name[3];
        const char *fallback;
    } table[] = {
        {&o->host, {"DMTCP_COORD_HOST", "DMTCP_HOST", NULL}, "localhost"},
        {&o->ckptdir, {"DMTCP_CHECKPOINT_DIR", NULL, NULL}, "."},
        {&o->tmpdir, {"DMTCP_TMPDIR", "TMPDIR", NULL}, "/tmp"},
        {&o->logfile, {"DMTCP_COORD_LOG_FILENAME", NULL, NULL}, NULL},
        {&o->key_file, {"DMTCP_KEY_FILE", NULL, NULL}, NULL},
    };

    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        const char *value = NULL;
        for (int j = 0; j < 3 && table[i].name[j] && !value; j++)
            value = environment(table[i].name[j]);
        if (!value)
            value = table[i].fallback;
        if (value && set(table[i].option, value, err) < 0)
            return -err->code;
    }
    o->ckptdir_given = environment("DMTCP_CHECKPOINT_DIR") != NULL;
    return 0;
}

int options_init(struct options *o, const char *argv0, struct err *err)
{
    const char *slash = strrchr(argv0, '/'), *value;
    int r;

    memset(o, 0, sizeof(*o));
    o->program = slash ? slash + 1 : argv0;
    o->port = OPTIONS_DEFAULT_PORT;
    o->interval = -1;
    o->fail_rc = FAIL_RC_DEFAULT;
    r = strings_from_environment(o, err);
    if (r == 0 && (value = environment("DMTCP_FAIL_RC")))
        r = set_int(&o->fail_rc, "DMTCP_FAIL_RC", value, 253, err);
    if (r == 0 && ((value = environment("DMTCP_COORD_PORT")) || (value = environment("DMTCP_PORT")))) {
        r = set_int(&o->port, "DMTCP_COORD_PORT", value, 65535, err);
        o->port_given = 1;
    }
    if (r == 0 && (value = environment("DMTCP_CHECKPOINT_INTERVAL")))
        r = set_int(&o->interval, "DMTCP_CHECKPOINT_INTERVAL", value, INT_MAX, err);
    if (r == 0 && (value = environment("DMTCP_QUIET")))
        r = set_int(&o->quiet, "DMTCP_QUIET", value, 9, err);
    return r;
}

static int take_string(struct options *o, int opt, const char *arg, struct err *err)
{
    char **option = opt == 'h'                 ? &o->host
                    : opt == OPT_CKPTDIR       ? &o->ckptdir
                    : opt == OPT_TMPDIR        ? &o->tmpdir
                    : opt == OPT_COORD_LOGFILE ? &o->logfile
                                               : &o->port_file;

    if (!arg || !*arg)
        return err_set(err, EINVAL, "an option has an empty argument");
    if (opt == OPT_CKPTDIR)
        o->ckptdir_given = 1;
    return set(option, arg, err) < 0 ? -err->code : 1;
}

int options_take(struct options *o, int opt, const char *arg, struct err *err)
{
    int r = 0;

    switch (opt) {
    case 'h':
    case OPT_CKPTDIR:
    case OPT_TMPDIR:
    case OPT_COORD_LOGFILE:
    case OPT_PORT_FILE:
        return take_string(o, opt, arg, err);
    case 'p':
        r = set_int(&o->port, "--coord-port", arg, 65535, err);
        o->port_given = 1;
        break;
    case 'i':
        r = set_int(&o->interval, "--interval", arg, INT_MAX, err);
        break;
    case 'j':
        o->mode = COORD_JOIN;
        break;
    case OPT_NEW_COORDINATOR:
        o->mode = COORD_NEW;
        break;
    case OPT_ANY_COORDINATOR:
        o->mode = COORD_ANY;
        break;
    case 'q':
        o->quiet++;
        break;
    case OPT_HELP:
        o->help = 1;
        break;
    case OPT_VERSION:
        o->version = 1;
        break;
    default:
        return 0;
    }
    return r < 0 ? r : 1;
}

/* Absolute without asking the file system more than where we are: the directory may be made later. */
int options_absolute(char **path, struct err *err)
{
    _cleanup_free_ char *cwd = NULL;
    char *full;

    if (!*path || **path == '/')
        return 0;
    cwd = getcwd(NULL, 0);
    if (!cwd)
        return err_errno(err, "the current directory");
    full = !strcmp(*path, ".") ? strdup(cwd) : format("%s/%s", strcmp(cwd, "/") ? cwd : "", *path);
    if (!full)
        return err_set(err, ENOMEM, "out of memory");
    free(*path);
    *path = full;
    return 0;
}

int options_finish(struct options *o, struct err *err)
{
    char **paths[] = {&o->ckptdir, &o->tmpdir, &o->logfile, &o->port_file, &o->key_file};

    log_init(o->program, o->quiet);
    for (size_t i = 0; i < ARRAY_SIZE(paths); i++)
        if (options_absolute(paths[i], err) < 0)
            return -err->code;
    return 0;
}

void options_free(struct options *o)
{
    free(o->host);
    free(o->ckptdir);
    free(o->tmpdir);
    free(o->logfile);
    free(o->port_file);
    free(o->key_file);
}

int options_ext_tcp(const char *text, enum ext_tcp *value, struct err *err)
{
    static const char *const names[] = {[EXT_TCP_KEEP] = "keep", [EXT_TCP_RESET] = "reset", [EXT_TCP_REFUSE] = "refuse"};

    for (size_t i = EXT_TCP_KEEP; i < ARRAY_SIZE(names); i++)
        if (!strcmp(text, names[i])) {
            *value = (enum ext_tcp)i;
            return 0;
        }
    return err_set(err, EINVAL, "--ext-tcp %s: use keep, reset or refuse", text);
}

static int add_plugin(const char *name, char ***paths, size_t *n, struct err *err)
{
    char **more = realloc(*paths, (*n + 1) * sizeof(*more));

    if (!more)
        return err_set(err, ENOMEM, "out of memory");
    *paths = more;
    more[*n] = realpath(name, NULL);
    if (!more[*n])
        return err_errno(err, "--with-plugin %s", name);
    if (strchr(more[*n], ':')) {
        err_set(err, EINVAL, "--with-plugin %s: its path, %s, has a colon in it, which separates plugins", name, more[*n]);
        free(more[*n]);
        return -err->code;
    }
    ++*n;
    return 0;
}

int options_plugins(const char *list, char ***paths, size_t *n, struct err *err)
{
    if (!list && *n)
        return 0;
    _cleanup_free_ char *copy = strdup(list ? list : getenv("DMTCP_PLUGIN") ? getenv("DMTCP_PLUGIN") : "");
    if (!copy)
        return err_set(err, ENOMEM, "out of memory");
    for (char *save = NULL, *name = strtok_r(copy, ":", &save); name; name = strtok_r(NULL, ":", &save))
        if (add_plugin(name, paths, n, err) < 0)
            return -err->code;
    return 0;
}

void options_print_version(const struct options *o)
{
    printf("%s (transparent checkpoint and restart) %s\nMIT licence; no warranty.\n", o->program,
           DMTCP_VERSION);
}
