/* dmtcp_coordinator: options, going into the background, and the loop of server.c. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/log.h"
#include "base/util.h"
#include "coordinator/key.h"
#include "coordinator/port_file.h"
#include "coordinator/server.h"
#include "coordinator/spawn.h"

#define STALE_DEFAULT (8 * 3600)

static const char usage[] =
    "Usage: dmtcp_coordinator [options] [port]\n"
    "Keeps the processes of a computation in step. Reads commands on standard input (? lists them).\n"
    "  -p, --coord-port PORT     port (DMTCP_COORD_PORT; default 7779; 0: any free one)\n"
    "      --port-file FILE      write the port there\n"
    "      --bind ADDRESS        listen there (default 127.0.0.1: this host only)\n"
    "      --status-file FILE    keep a summary there\n"
    "      --ckptdir DIR         where the restart script goes (DMTCP_CHECKPOINT_DIR; default: here)\n"
    "      --tmpdir DIR          temporary files (DMTCP_TMPDIR, TMPDIR)\n"
    "      --keep N              checkpoints kept (default 1)\n"
    "  -i, --interval SECONDS    automatic checkpoints (DMTCP_CHECKPOINT_INTERVAL; 0: none)\n"
    "      --exit-on-last        end when the last process has gone\n"
    "      --kill-after-ckpt     kill the computation after its next checkpoint\n"
    "      --timeout SECONDS     end after this time, whatever is going on\n"
    "      --stale-timeout SECONDS  end after this time without processes (default 8 hours; 0: never)\n"
    "      --daemon              run in the background\n"
    "      --coord-logfile FILE  log there (DMTCP_COORD_LOG_FILENAME)\n"
    "      --write-kv-data       write what the name service knew when it ends\n"
    "  -q, --quiet               no notes; twice: no warnings (DMTCP_QUIET)\n"
    "  -h, --help, --version\n";

enum {
    OPT_BIND = OPT_COMMON_END,
    OPT_STATUS_FILE,
    OPT_KEEP,
    OPT_EXIT_ON_LAST,
    OPT_KILL_AFTER_CKPT,
    OPT_TIMEOUT,
    OPT_STALE_TIMEOUT,
    OPT_DAEMON,
    OPT_WRITE_KV_DATA,
    OPT_READY_FD,
    OPT_KEY_FILE,
};

static const struct option long_options[] = {
    COMMON_OPTIONS,
    {"bind", required_argument, NULL, OPT_BIND},
    {"status-file", required_argument, NULL, OPT_STATUS_FILE},
    {"keep", required_argument, NULL, OPT_KEEP},
    {"exit-on-last", no_argument, NULL, OPT_EXIT_ON_LAST},
    {"kill-after-ckpt", no_argument, NULL, OPT_KILL_AFTER_CKPT},
    {"kill-after-ckpt-once", no_argument, NULL, OPT_KILL_AFTER_CKPT},
    {"timeout", required_argument, NULL, OPT_TIMEOUT},
    {"stale-timeout", required_argument, NULL, OPT_STALE_TIMEOUT},
    {"daemon", no_argument, NULL, OPT_DAEMON},
    {"background", no_argument, NULL, OPT_DAEMON},
    {"write-kv-data", no_argument, NULL, OPT_WRITE_KV_DATA},
    {"ready-fd", required_argument, NULL, OPT_READY_FD}, /* of coord_connect(): where to report */
    {"key-file", required_argument, NULL, OPT_KEY_FILE},
    {NULL, 0, NULL, 0},
};

struct arguments {
    struct options o;
    struct server_config config;
    char *status_file;
    int daemon;
    int ready_fd; /* -1: none */
    int log_fd;   /* -1: standard error, or nothing */
};

static int take_number(int *to, const char *what, long max, struct err *err)
{
    long v = 0;

    if (options_number(what, optarg, 0, max, &v, err) < 0)
        return -err->code;
    *to = (int)v;
    return 0;
}

static int take_own(struct arguments *a, int opt, struct err *err)
{
    switch (opt) {
    case OPT_BIND:
        a->config.bind = optarg;
        return 0;
    case OPT_STATUS_FILE:
        free(a->status_file);
        a->status_file = strdup(optarg);
        return a->status_file ? options_absolute(&a->status_file, err)
                              : err_set(err, ENOMEM, "out of memory");
    case OPT_KEEP:
        return take_number(&a->config.keep, "--keep", INT32_MAX, err);
    case OPT_EXIT_ON_LAST:
        a->config.exit_on_last = 1;
        return 0;
    case OPT_KILL_AFTER_CKPT:
        a->config.kill_after_ckpt = 1;
        return 0;
    case OPT_TIMEOUT:
        return take_number(&a->config.timeout, "--timeout", INT32_MAX, err);
    case OPT_STALE_TIMEOUT:
        return take_number(&a->config.stale_timeout, "--stale-timeout", INT32_MAX, err);
    case OPT_DAEMON:
        a->daemon = 1;
        return 0;
    case OPT_WRITE_KV_DATA:
        a->config.write_kv_data = 1;
        return 0;
    case OPT_READY_FD:
        return take_number(&a->ready_fd, "--ready-fd", 1000000, err);
    case OPT_KEY_FILE:
        free(a->o.key_file);
        a->o.key_file = strdup(optarg);
        return a->o.key_file ? 0 : err_set(err, ENOMEM, "out of memory");
    default:
        return err_set(err, EINVAL, "see --help");
    }
}

static int take_arguments(struct arguments *a, int argc, char **argv, struct err *err)
{
    int opt, r;

    a->config = (struct server_config){
        .options = &a->o, .bind = "127.0.0.1", .stale_timeout = STALE_DEFAULT, .keep = 1, .use_stdin = 1};
    a->ready_fd = a->log_fd = -1;
    r = options_init(&a->o, argv[0], err);
    while (r >= 0 && (opt = getopt_long(argc, argv, "hp:i:q", long_options, NULL)) != -1) {
        if (opt == 'h')
            opt = OPT_HELP; /* there is no other coordinator's host to name */
        r = options_take(&a->o, opt, optarg, err);
        if (r == 0)
            r = take_own(a, opt, err);
    }
    if (r >= 0 && optind < argc)
        r = options_take(&a->o, 'p', argv[optind++], err);
    if (r >= 0 && optind < argc)
        r = err_set(err, EINVAL, "unexpected argument: %s", argv[optind]);
    a->config.status_file = a->status_file;
    return r < 0 ? r : options_finish(&a->o, err);
}

static int open_log(struct arguments *a, struct err *err)
{
    int fd;

    if (!a->o.logfile) {
        if (a->daemon)
            log_to_fd(-1);
        return 0;
    }
    fd = open(a->o.logfile, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY, 0644);
    if (fd < 0)
        return err_errno(err, "--coord-logfile %s", a->o.logfile);
    a->log_fd = fd;
    log_to_fd(fd);
    return 0;
}

/* The parent's part of --daemon: waits for what the child says about itself. Returns the exit status. */
static int wait_for_child(const struct arguments *a, int fd)
{
    char text[1000];
    ssize_t n = spawn_read(fd, text, sizeof(text));

    if (n >= 0 && !strncmp(text, "port ", 5))
        return 0;
    fprintf(stderr, "%s: %s\n", a->o.program,
            n > 0 ? text : "the coordinator in the background ended at once");
    return a->o.fail_rc + FAIL_COORDINATOR;
}

/* Of the caller's things a daemon keeps only where it is to report. */
static int detach(struct arguments *a, struct err *err)
{
    _cleanup_close_ int null = open("/dev/null", O_RDWR | O_CLOEXEC);

    a->config.use_stdin = 0;
    if (null < 0)
        return err_errno(err, "/dev/null");
    for (int i = 0; i < 3; i++)
        if (null != i)
            dup2(null, i);
    if (null < 3) /* it was closed when we came: stays open */
        null = -1;
    return chdir("/") < 0 ? err_errno(err, "/") : 0;
}

/* 1 in the parent, with its exit status in *status. */
static int into_background(struct arguments *a, int *status, struct err *err)
{
    int ends[2];
    pid_t pid;

    if (a->ready_fd >= 0) { /* started by coord_connect(): is there already */
        fcntl(a->ready_fd, F_SETFD, FD_CLOEXEC);
        return detach(a, err);
    }
    close_range(3, ~0u, 0);
    if (pipe2(ends, O_CLOEXEC) < 0)
        return err_errno(err, "pipe");
    pid = fork();
    if (pid < 0)
        return err_errno(err, "fork");
    if (pid > 0) {
        close(ends[1]);
        *status = wait_for_child(a, ends[0]);
        return 1;
    }
    close(ends[0]);
    setsid();
    a->ready_fd = ends[1];
    return detach(a, err);
}

static int setup(struct arguments *a, struct server *s, struct err *err)
{
    unsigned char key[WIRE_KEY_SIZE];
    _cleanup_free_ char *key_file = key_path(a->o.key_file, a->o.tmpdir, err);

    if (!key_file || key_load(key_file, key, err) < 0 || open_log(a, err) < 0)
        return -err->code;
    raise_open_files_limit(); /* many tracers on many hosts */
    if (server_init(s, &a->config, key, err) < 0 || server_listen(s, a->o.port, err) < 0)
        return -err->code;
    if (a->o.port_file && port_file_write(a->o.port_file, s->port, err) < 0)
        return err_wrap(err, "--port-file");
    status_file_write(s);
    return 0;
}

/* Tell whoever waits for us to be ready. */
static void report(struct arguments *a, const struct server *s, const struct err *err)
{
    char text[1100];

    if (a->ready_fd < 0)
        return;
    if (err)
        snprintf(text, sizeof(text), "%s", err->msg);
    else
        snprintf(text, sizeof(text), "port %d\n", s->port);
    (void)!write(a->ready_fd, text, strlen(text));
    close(take_fd(&a->ready_fd));
}

static int serve(struct arguments *a, struct server *s, struct err *err)
{
    int r = setup(a, s, err);

    report(a, s, r < 0 ? err : NULL);
    if (r < 0)
        return r;
    log_note("listening on %s port %d, computation %s", a->config.bind, s->port, s->computation);
    if (a->config.use_stdin && isatty(0) && !a->o.quiet)
        printf("dmtcp_coordinator on port %d. Type '?' for help.\n", s->port);
    fflush(stdout);
    console_start(s);
    r = server_run(s, err);
    if (r == 0 && a->config.write_kv_data)
        r = names_dump(s, err);
    return r;
}

int main(int argc, char **argv)
{
    struct arguments a = {0};
    struct server s = {.epoll_fd = -1, .listen_fd = -1, .signal_fd = -1, .spare_fd = -1, .commit_fd = -1};
    struct err err = {0};
    int status = 0, r = take_arguments(&a, argc, argv, &err);

    if (r >= 0 && (a.o.help || a.o.version)) {
        if (a.o.help)
            fputs(usage, stdout);
        else
            options_print_version(&a.o);
        options_free(&a.o);
        return 0;
    }
    if (r >= 0 && a.daemon)
        r = into_background(&a, &status, &err);
    if (r == 0)
        r = serve(&a, &s, &err);
    if (r < 0) {
        fprintf(stderr, "%s: %s\n", a.o.program ? a.o.program : "dmtcp_coordinator", err.msg);
        if (a.log_fd >= 0)
            log_error("%s", err.msg);
        status = (a.o.fail_rc ? a.o.fail_rc : FAIL_RC_DEFAULT) +
                 (err.code == EINVAL ? FAIL_GENERAL : FAIL_COORDINATOR);
    }
    server_free(&s);
    options_free(&a.o);
    free(a.status_file);
    return status;
}
