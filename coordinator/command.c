/* dmtcp_command: asks the coordinator for one thing after the other, waits for what was promised, prints the
 * answer. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/util.h"
#include "coordinator/client.h"
#include "coordinator/progress.h"
#include "coordinator/show.h"

static const char usage[] =
    "Usage: dmtcp_command [options] command...\n"
    "Commands (the letters work without the dash too):\n"
    "  -s, --status              what the coordinator knows\n"
    "  -l, --list                the processes of the computation\n"
    "  -c, --checkpoint          start a checkpoint\n"
    "  -bc, --bcheckpoint        make a checkpoint, wait until it is complete and durable\n"
    "  -kc, --kcheckpoint        the same, then kill the processes\n"
    "  -i, --interval SECONDS    automatic checkpoints from now on (0: none)\n"
    "  -k, --kill                kill the processes of the computation\n"
    "  -q, --quit                the same, and end the coordinator\n"
    "      --attach PID          take a running process and its descendants into the computation\n"
    "      --detach PID          let the tree of this process go\n"
    "      --bt                  backtraces of all threads\n"
    "      --check               what this kernel and this user can do\n"
    "Options:\n"
    "      --json                answers as JSON\n"
    "      --quiet               no notes; twice: no warnings (DMTCP_QUIET)\n"
    "  -h, --coord-host HOST     the coordinator's host (DMTCP_COORD_HOST; default localhost)\n"
    "  -p, --coord-port PORT     its port (DMTCP_COORD_PORT; default 7779)\n"
    "      --ckptdir DIR, --tmpdir DIR, --ext-tcp WHAT, --with-plugin FILE  with --attach: as for dmtcp_launch\n"
    "      --help, --version\n";

enum {
    OPT_BCHECKPOINT = OPT_COMMON_END,
    OPT_KCHECKPOINT,
    OPT_ATTACH,
    OPT_DETACH,
    OPT_BT,
    OPT_CHECK,
    OPT_JSON,
    OPT_QUIET,
    OPT_COMPRESS,
    OPT_EXT_TCP,
    OPT_PLUGIN,
};

/* -i and -q mean something else here than in the other commands, so they come before the common ones. */
static const struct option long_options[] = {
    {"status", no_argument, NULL, 's'},
    {"list", no_argument, NULL, 'l'},
    {"checkpoint", no_argument, NULL, 'c'},
    {"bcheckpoint", no_argument, NULL, OPT_BCHECKPOINT},
    {"kcheckpoint", no_argument, NULL, OPT_KCHECKPOINT},
    {"kill", no_argument, NULL, 'k'},
    {"quit", no_argument, NULL, 'q'},
    {"attach", required_argument, NULL, OPT_ATTACH},
    {"detach", required_argument, NULL, OPT_DETACH},
    {"bt", no_argument, NULL, OPT_BT},
    {"check", no_argument, NULL, OPT_CHECK},
    {"json", no_argument, NULL, OPT_JSON},
    {"quiet", no_argument, NULL, OPT_QUIET},
    {"interval", required_argument, NULL, 'i'},
    {"coord-host", required_argument, NULL, 'h'},
    {"host", required_argument, NULL, 'h'},
    {"coord-port", required_argument, NULL, 'p'},
    {"port", required_argument, NULL, 'p'},
    {"ckptdir", required_argument, NULL, OPT_CKPTDIR},
    {"tmpdir", required_argument, NULL, OPT_TMPDIR},
    {"compress", required_argument, NULL, OPT_COMPRESS},
    {"ext-tcp", required_argument, NULL, OPT_EXT_TCP},
    {"with-plugin", required_argument, NULL, OPT_PLUGIN},
    {"help", no_argument, NULL, OPT_HELP},
    {"version", no_argument, NULL, OPT_VERSION},
    {NULL, 0, NULL, 0},
};

/* One thing to do; several may be given. */
struct job {
    int opt;
    long number;
};

struct arguments {
    struct options o;
    struct job *job;
    size_t n, cap;
    int json;
    const char *compress;
    char ext_tcp[24]; /* "ext-tcp=…" */
    char **plugin;
    size_t n_plugin;
};

static int add_job(struct arguments *a, int opt, const char *number, struct err *err)
{
    struct job *jobs = grow(a->job, a->n, &a->cap, sizeof(*jobs));
    long v = 0;

    if (!jobs)
        return err_set(err, ENOMEM, "out of memory");
    a->job = jobs;
    if (number &&
        options_number(opt == 'i' ? "interval" : "pid", number, opt == 'i' ? 0 : 1, INT32_MAX, &v, err) < 0)
        return -err->code;
    jobs[a->n++] = (struct job){opt, v};
    return 0;
}

static int take_option(struct arguments *a, int opt, struct err *err)
{
    enum ext_tcp ext;
    int r;

    switch (opt) {
    case 's':
    case 'l':
    case 'c':
    case 'k':
    case 'q':
    case OPT_BCHECKPOINT:
    case OPT_KCHECKPOINT:
    case OPT_BT:
    case OPT_CHECK:
        return add_job(a, opt, NULL, err);
    case 'i':
    case OPT_ATTACH:
    case OPT_DETACH:
        return add_job(a, opt, optarg, err);
    case OPT_JSON:
        a->json = 1;
        return 0;
    case OPT_QUIET:
        a->o.quiet++;
        return 0;
    case OPT_EXT_TCP:
        if (options_ext_tcp(optarg, &ext, err) < 0)
            return -err->code;
        snprintf(a->ext_tcp, sizeof(a->ext_tcp), "ext-tcp=%s", optarg);
        return 0;
    case OPT_PLUGIN:
        return options_plugins(optarg, &a->plugin, &a->n_plugin, err);
    case OPT_COMPRESS:
        a->compress = optarg;
        return 0;
    default:
        r = options_take(&a->o, opt, optarg, err);
        return r != 0 ? r : err_set(err, EINVAL, "see --help");
    }
}

/* Commands of DMTCP that getopt can't read: several letters after one dash, and words without a dash. */
static int word_command(const char *word)
{
    static const struct {
        const char *word;
        int opt;
    } words[] = {
        {"s", 's'},
        {"l", 'l'},
        {"c", 'c'},
        {"k", 'k'},
        {"q", 'q'},
        {"i", 'i'},
        {"bc", OPT_BCHECKPOINT},
        {"kc", OPT_KCHECKPOINT},
        {"ck", OPT_KCHECKPOINT},
    };

    for (size_t i = 0; i < ARRAY_SIZE(words); i++)
        if (!strcmp(word, words[i].word))
            return words[i].opt;
    return 0;
}

/* -bc and -kc would be read as -b -c and -k -c: make them what they mean before getopt sees them. */
static void expand_dashes(int argc, char **argv)
{
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (!strcmp(argv[i], "-bc"))
            argv[i] = (char *)"--bcheckpoint";
        else if (!strcmp(argv[i], "-kc") || !strcmp(argv[i], "-ck"))
            argv[i] = (char *)"--kcheckpoint";
    }
}

/* A word without a dash: a command, or the seconds of the `i` before it. */
static int take_word(struct arguments *a, const char *word, int *interval, struct err *err)
{
    int opt;

    if (*interval) {
        *interval = 0;
        return add_job(a, 'i', word, err);
    }
    opt = word_command(word);
    if (!opt)
        return err_set(err, EINVAL, "unknown command: %s (see --help)", word);
    *interval = opt == 'i';
    return *interval ? 0 : add_job(a, opt, NULL, err);
}

static int take_arguments(struct arguments *a, int argc, char **argv, struct err *err)
{
    int opt, interval = 0, r = options_init(&a->o, argv[0], err);

    a->o.mode = COORD_JOIN;
    expand_dashes(argc, argv);
    /* "-" keeps the order in which commands were given, with a dash or without. */
    while (r >= 0 && (opt = getopt_long(argc, argv, "-h:p:slcki:q", long_options, NULL)) != -1)
        r = opt == 1 ? take_word(a, optarg, &interval, err) : take_option(a, opt, err);
    while (r >= 0 && optind < argc)
        r = take_word(a, argv[optind++], &interval, err);
    if (r >= 0 && interval)
        r = err_set(err, EINVAL, "interval: how many seconds?");
    if (r >= 0 && !a->n && !a->o.help && !a->o.version)
        r = err_set(err, EINVAL, "no command given (see --help)");
    return r < 0 ? r : options_finish(&a->o, err);
}

static void print_json(json_t *value)
{
    json_dumpf(value, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(value);
}

/* What came as Text: collected, so that JSON can quote it. */
struct more {
    struct progress *progress;
    FILE *text;
};

static void on_more(void *arg, const Wire__Msg *msg)
{
    struct more *more = arg;

    if (msg->body_case == WIRE__MSG__BODY_PROGRESS && more->progress)
        progress_show(more->progress, msg->progress);
    else if (msg->body_case == WIRE__MSG__BODY_TEXT && msg->text->text.len)
        fwrite(msg->text->text.data, 1, msg->text->text.len, more->text);
}

static void print_answer(const struct arguments *a, const Wire__Msg *m, const char *text, size_t len)
{
    if (m->body_case == WIRE__MSG__BODY_STATUS && a->json)
        print_json(json_status(m->status));
    else if (m->body_case == WIRE__MSG__BODY_STATUS)
        show_status(stdout, m->status);
    else if (m->body_case == WIRE__MSG__BODY_PROCESSES && a->json)
        print_json(json_processes(m->processes));
    else if (m->body_case == WIRE__MSG__BODY_PROCESSES)
        show_processes(stdout, m->processes);
    else if (a->json && len)
        print_json(json_pack("{s:o}", "text", json_text(text, len)));
    else if (len)
        fwrite(text, 1, len, stdout);
    else if (a->json)
        print_json(json_pack("{s:b}", "ok", 1));
}

static Wire__Command__Op op_of(int opt)
{
    switch (opt) {
    case 's':
        return WIRE__COMMAND__OP__STATUS;
    case 'l':
        return WIRE__COMMAND__OP__LIST;
    case 'c':
    case OPT_BCHECKPOINT:
        return WIRE__COMMAND__OP__CHECKPOINT;
    case OPT_KCHECKPOINT:
        return WIRE__COMMAND__OP__KCHECKPOINT;
    case 'i':
        return WIRE__COMMAND__OP__INTERVAL;
    case 'k':
        return WIRE__COMMAND__OP__KILL;
    case 'q':
        return WIRE__COMMAND__OP__QUIT;
    case OPT_DETACH:
        return WIRE__COMMAND__OP__DETACH;
    default:
        return WIRE__COMMAND__OP__BACKTRACES;
    }
}

static int ask(struct arguments *a, struct coord *c, const struct job *job, struct err *err)
{
    struct progress progress = {.active = !a->o.quiet && !a->json && isatty(STDERR_FILENO)};
    _cleanup_free_ char *text = NULL;
    size_t len = 0;
    struct more more = {progress.active ? &progress : NULL, open_memstream(&text, &len)};
    Wire__Msg m = WIRE__MSG__INIT, *answer = NULL;
    Wire__Command command = WIRE__COMMAND__INIT;
    Wire__Host host = WIRE__HOST__INIT;
    int r = more.text ? coord_host(c, &host, err) : err_set(err, ENOMEM, "out of memory");

    command.op = op_of(job->opt);
    command.interval = (uint32_t)job->number;
    command.pid = (int32_t)job->number;
    command.host = &host;
    command.wait = job->opt != 'c';
    command.want_progress = command.wait && progress.active;
    m.body_case = WIRE__MSG__BODY_COMMAND;
    m.command = &command;
    if (r == 0)
        r = coord_call(c, &m, &answer, COORD_FOREVER, on_more, &more, err);
    progress_end(&progress);
    if (more.text)
        fclose(more.text);
    if (r == 0)
        print_answer(a, answer, text, len);
    coord_msg_free(answer);
    return r;
}

static int attach(struct arguments *a, struct coord *c, pid_t pid, struct err *err)
{
    Wire__TreeOptions options = WIRE__TREE_OPTIONS__INIT;
    Wire__TracerConfig config = WIRE__TRACER_CONFIG__INIT;
    _cleanup_free_ char *comm = NULL;
    char *extra[] = {a->ext_tcp};
    int r;

    if (options_plugins(NULL, &a->plugin, &a->n_plugin, err) < 0)
        return -err->code;
    if (read_proc(&comm, NULL, err, "%d/comm", (int)pid) < 0)
        return err->code == ENOENT ? err_set(err, ESRCH, "no process with pid %d", (int)pid) : -err->code;
    comm[strcspn(comm, "\n")] = '\0';
    options.program = comm;
    options.ckptdir = a->o.ckptdir;
    options.tmpdir = a->o.tmpdir;
    options.compress = (char *)(a->compress ? a->compress : "");
    options.plugin = a->plugin;
    options.n_plugin = a->n_plugin;
    if (a->ext_tcp[0]) {
        options.extra = extra;
        options.n_extra = 1;
    }
    config.ckptdir = a->o.ckptdir;
    config.tmpdir = a->o.tmpdir;
    config.quiet = (uint32_t)a->o.quiet;
    r = coord_launch(c, pid, 1, &options, &config, err);
    if (r == 0 && a->json)
        print_json(json_pack("{s:b}", "ok", 1));
    return r;
}

/* Becomes the tracer, which knows. */
static int check(const struct arguments *a, struct err *err)
{
    _cleanup_free_ char *path = coord_find_program("dmtcp_tracer", "tracer", err);

    if (!path)
        return -err->code;
    fflush(stdout);
    execl(path, "dmtcp_tracer", "--check", a->json ? "--json" : NULL, NULL);
    return err_errno(err, "%s", path);
}

static int run_jobs(struct arguments *a, struct err *err, int *fail)
{
    struct coord *c = NULL;
    int r = 0;

    for (size_t i = 0; r == 0 && i < a->n; i++) {
        if (a->job[i].opt == OPT_CHECK)
            return check(a, err);
        *fail = FAIL_COORDINATOR;
        if (a->job[i].opt == OPT_ATTACH && !c)
            a->o.mode = COORD_ANY;
        if (!c)
            r = coord_connect(&c, &a->o, err);
        if (r < 0)
            break;
        *fail = FAIL_COMPUTATION;
        if (a->job[i].opt == OPT_ATTACH)
            r = attach(a, c, (pid_t)a->job[i].number, err);
        else
            r = ask(a, c, &a->job[i], err);
    }
    coord_close(c);
    return r;
}

int main(int argc, char **argv)
{
    struct arguments a = {0};
    struct err err = {0};
    int fail = FAIL_GENERAL, status = 0, r = take_arguments(&a, argc, argv, &err);

    if (r >= 0 && a.o.help)
        fputs(usage, stdout);
    else if (r >= 0 && a.o.version)
        options_print_version(&a.o);
    else if (r >= 0)
        r = run_jobs(&a, &err, &fail);
    if (r >= 0 && fflush(stdout) == EOF)
        r = err_errno(&err, "standard output");
    if (r < 0) {
        fprintf(stderr, "%s: %s\n", a.o.program ? a.o.program : "dmtcp_command", err.msg);
        status = (a.o.fail_rc ? a.o.fail_rc : FAIL_RC_DEFAULT) + fail;
    }
    free(a.job);
    for (size_t i = 0; i < a.n_plugin; i++)
        free(a.plugin[i]);
    free(a.plugin);
    options_free(&a.o);
    return status;
}
