/*
 * The options and environment variables that all commands share (see dmtcp_command(1), "Common
 * options"), and the exit codes. A command puts COMMON_OPTIONS in its getopt_long(3) table and
 * COMMON_SHORT in its letters, and hands each result to options_take() first.
 */
#ifndef COORDINATOR_OPTIONS_H
#define COORDINATOR_OPTIONS_H

#include <getopt.h>
#include <stdio.h>

#include "base/err.h"

#define OPTIONS_DEFAULT_PORT 7779

enum coord_mode {
    COORD_ANY,  /* join one, or start one if none is there */
    COORD_JOIN, /* must exist */
    COORD_NEW,  /* must not exist: start one */
};

struct options {
    const char *program; /* argv[0]'s last part */
    char *host;          /* never NULL */
    int port;            /* 0: any free one */
    int port_given;      /* by option or environment */
    enum coord_mode mode;
    int interval;  /* seconds; 0: none, -1: not given */
    char *ckptdir; /* absolute, never NULL */
    int ckptdir_given;
    char *tmpdir;    /* absolute, never NULL */
    char *logfile;   /* of the coordinator; NULL: none */
    char *port_file; /* NULL: none */
    char *key_file;  /* DMTCP_KEY_FILE; NULL: the user's default */
    int quiet;
    int fail_rc;       /* exit code of our own failures; +1, +2: below */
    int help, version; /* asked for: main prints and exits 0 */
};

/* Exit codes, relative to fail_rc (DMTCP_FAIL_RC, default 99). */
#define FAIL_RC_DEFAULT  99
#define FAIL_GENERAL     0 /* usage, or anything not below */
#define FAIL_COORDINATOR 1 /* could not reach, start or authenticate to a coordinator */
#define FAIL_COMPUTATION 2 /* the coordinator or a tracer refused or failed what was asked */

enum common_option {
    OPT_NEW_COORDINATOR = 0x1000,
    OPT_ANY_COORDINATOR,
    OPT_CKPTDIR,
    OPT_TMPDIR,
    OPT_COORD_LOGFILE,
    OPT_PORT_FILE,
    OPT_HELP,
    OPT_VERSION,
    OPT_COMMON_END, /* commands number their own from here */
};

/* clang-format off */
#define COMMON_SHORT "h:p:ji:q"
#define COMMON_OPTIONS                                                                                \
    {"coord-host", required_argument, NULL, 'h'}, {"host", required_argument, NULL, 'h'},             \
    {"coord-port", required_argument, NULL, 'p'}, {"port", required_argument, NULL, 'p'},             \
    {"join-coordinator", no_argument, NULL, 'j'}, {"join", no_argument, NULL, 'j'},                   \
    {"new-coordinator", no_argument, NULL, OPT_NEW_COORDINATOR},                                      \
    {"any-coordinator", no_argument, NULL, OPT_ANY_COORDINATOR},                                      \
    {"interval", required_argument, NULL, 'i'}, {"ckptdir", required_argument, NULL, OPT_CKPTDIR},    \
    {"tmpdir", required_argument, NULL, OPT_TMPDIR},                                                  \
    {"coord-logfile", required_argument, NULL, OPT_COORD_LOGFILE},                                    \
    {"port-file", required_argument, NULL, OPT_PORT_FILE}, {"quiet", no_argument, NULL, 'q'},         \
    {"help", no_argument, NULL, OPT_HELP}, {"version", no_argument, NULL, OPT_VERSION}
/* clang-format on */

/* The lines of --help for them. */
extern const char options_common_help[];

/* Defaults and environment. Fails on values that make no sense (DMTCP_COORD_PORT=x). */
int options_init(struct options *o, const char *argv0, struct err *err);

/* One result of getopt_long with its optarg: 1 taken, 0 not a common one, negative: bad value. */
int options_take(struct options *o, int opt, const char *arg, struct err *err);

/* After the last one: makes directories absolute, sets up the log (log_init). */
int options_finish(struct options *o, struct err *err);
void options_free(struct options *o);

/* Replace *path (in fresh memory, or NULL) by its absolute form, before a chdir. */
int options_absolute(char **path, struct err *err);

/* A decimal number within bounds; 0 or -EINVAL with err "WHAT: ...". For the commands' own options. */
int options_number(const char *what, const char *text, long min, long max, long *value, struct err *err);

/* --ext-tcp: what becomes of TCP connections whose other end is outside. Not said: as the image says, else keep or refuse. */
enum ext_tcp { EXT_TCP_UNSAID, EXT_TCP_KEEP, EXT_TCP_RESET, EXT_TCP_REFUSE };
int options_ext_tcp(const char *text, enum ext_tcp *value, struct err *err);

/*
 * --with-plugin PATH[:PATH...]: the absolute path of each library, appended to *paths (in fresh memory). list NULL: DMTCP_PLUGIN, if
 * that is set and nothing is in *paths yet.
 */
int options_plugins(const char *list, char ***paths, size_t *n, struct err *err);

/* Program, version and licence, on standard output. */
void options_print_version(const struct options *o);

#endif
