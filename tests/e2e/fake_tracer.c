/*
 * A tracer (or a restart that becomes one) that traces nothing: it speaks the protocol, writes little files
 * as images, and fails where it is told to. With it the coordinator is tested without processes to
 * checkpoint. It is told by its environment what to do, because it is also started by the client library as
 * dmtcp_tracer --config-fd N:
 *
 *   FAKE_PORT            the coordinator's port, when there is no --config-fd
 *   FAKE_HOST            host name and boot id to claim, instead of this host's
 *   FAKE_LOG             a file that gets one line for each thing that happens
 *   FAKE_DIR             where images go
 *   FAKE_IMAGES          how many (default 1); FAKE_NAME: part of their names
 *   FAKE_FAIL=PHASE      answer this phase with an error
 *   FAKE_VANISH=PHASE    exit in it (also: adopt)
 *   FAKE_WAIT=PHASE      stay in it until an abort comes
 *   FAKE_REFUSE=1        refuse to adopt
 *   FAKE_SILENT=1        say nothing after the handshake until SIGUSR1 comes, then join
 *   FAKE_CRASH=1         exit before joining; FAKE_TEXT: say this as the reason
 *   FAKE_RESTART=HOSTS   join as a restart of FAKE_COMPUTATION, generation FAKE_GENERATION, on so many hosts;
 * meet the others at a barrier, exchange names, exec itself with the connection, join as tracer
 *
 * SIGUSR1 makes it ask to leave.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/util.h"
#include "coordinator/client.h"

#define IMAGES_MAX 64

struct fake {
    struct coord *c;
    FILE *log;
    char *image[IMAGES_MAX];
    size_t n;
    unsigned processes;
};

static volatile sig_atomic_t asked_to_leave;

static void on_signal(int sig)
{
    asked_to_leave = 1;
}

static const char *env(const char *name)
{
    const char *value = getenv(name);

    return value ? value : "";
}

static void note(struct fake *f, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void note(struct fake *f, const char *fmt, ...)
{
    va_list ap;

    if (!f->log)
        return;
    va_start(ap, fmt);
    vfprintf(f->log, fmt, ap);
    va_end(ap);
    fputc('\n', f->log);
    fflush(f->log);
}

static const char *const phases[] = {"none",      "freeze", "collect", "match", "peek-send",
                                     "peek-recv", "write",  "resume",  "commit"};

static int is_phase(const char *variable, Wire__Phase__Id id)
{
    return id < ARRAY_SIZE(phases) && !strcmp(env(variable), phases[id]);
}

static void write_images(struct fake *f, unsigned generation)
{
    const char *name = *env("FAKE_NAME") ? env("FAKE_NAME") : "fake";
    size_t want = *env("FAKE_IMAGES") ? (size_t)atoi(env("FAKE_IMAGES")) : 1;

    f->n = want < IMAGES_MAX ? want : IMAGES_MAX;
    for (size_t i = 0; i < f->n; i++) {
        _cleanup_free_ char *tmp = NULL;
        _cleanup_close_ int fd = -1;
        f->image[i] = format("%s/ckpt_%s_%s-%d-%zu-%u.dmtcp", env("FAKE_DIR"), name, env("FAKE_HOST"),
                             getpid(), i, generation);
        tmp = format("%s.tmp", f->image[i]);
        fd = open(tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        if (fd >= 0 && write_full(fd, "image", 5) < 0)
            note(f, "cannot write %s", tmp);
    }
}

static void rename_images(struct fake *f)
{
    for (size_t i = 0; i < f->n; i++) {
        _cleanup_free_ char *tmp = format("%s.tmp", f->image[i]);
        if (rename(tmp, f->image[i]) < 0)
            note(f, "cannot rename %s", tmp);
    }
}

static void forget_images(struct fake *f, int remove)
{
    for (size_t i = 0; i < f->n; i++) {
        _cleanup_free_ char *tmp = format("%s.tmp", f->image[i]);
        if (remove) {
            unlink(tmp);
            unlink(f->image[i]);
        }
        free(f->image[i]);
    }
    f->n = 0;
}

static int send_progress(struct fake *f, const Wire__Msg *request, struct err *err)
{
    Wire__Msg m = WIRE__MSG__INIT;
    Wire__Progress progress = WIRE__PROGRESS__INIT;

    progress.phase = WIRE__PHASE__ID__WRITE;
    progress.processes = progress.processes_total = f->processes;
    progress.bytes = progress.bytes_total = 5;
    m.re = request->seq;
    m.body_case = WIRE__MSG__BODY_PROGRESS;
    m.progress = &progress;
    return coord_send(f->c, &m, err);
}

static int phase_done(struct fake *f, const Wire__Msg *request, Wire__Phase__Id id, struct err *err)
{
    Wire__Image image[IMAGES_MAX], *list[IMAGES_MAX];
    Wire__Msg m = WIRE__MSG__INIT;
    Wire__PhaseDone done = WIRE__PHASE_DONE__INIT;

    for (size_t i = 0; id == WIRE__PHASE__ID__WRITE && i < f->n; i++) {
        wire__image__init(&image[i]);
        image[i].path = f->image[i];
        image[i].size = 5;
        image[i].program = (char *)"fake";
        image[i].pid = (int)(100 + i);
        image[i].foreground = i == 0;
        list[i] = &image[i];
        done.n_image++;
    }
    done.image = list;
    done.phase = id;
    done.processes = f->processes;
    done.frozen_ns = 1000000;
    m.body_case = WIRE__MSG__BODY_PHASE_DONE;
    m.phase_done = &done;
    return coord_reply(f->c, request, &m, err);
}

/* 1: go on with the phase; 0: it has been answered otherwise. */
static int misbehave(struct fake *f, const Wire__Msg *request, Wire__Phase__Id id, struct err *err)
{
    struct err why = {EIO, "process 100: fd 3 (fake): told to fail"};

    if (is_phase("FAKE_VANISH", id))
        _exit(1);
    if (is_phase("FAKE_FAIL", id))
        return coord_reply_error(f->c, request, &why, err);
    if (!is_phase("FAKE_WAIT", id))
        return 1;
    while (!coord_abort_pending(f->c)) {
        struct pollfd p = {coord_fd(f->c), POLLIN, 0};
        poll(&p, 1, -1);
    }
    err_set(&why, ECANCELED, "given up");
    return coord_reply_error(f->c, request, &why, err);
}

static int on_phase(struct fake *f, const Wire__Msg *m, struct err *err)
{
    const Wire__Phase *phase = m->phase;
    Wire__Phase__Id last = phase->solo ? WIRE__PHASE__ID__WRITE : phase->id;

    note(f, "phase %s%s%s", phases[phase->id], phase->solo ? " solo" : "", phase->hold ? " hold" : "");
    for (Wire__Phase__Id id = phase->id; id <= last; id++) {
        int r = misbehave(f, m, id, err);
        if (r <= 0)
            return r;
        if (id == WIRE__PHASE__ID__WRITE) {
            write_images(f, phase->generation);
            if (phase->want_progress && send_progress(f, m, err) < 0)
                return -err->code;
        }
        if (id == WIRE__PHASE__ID__COMMIT)
            rename_images(f);
    }
    return phase_done(f, m, last, err);
}

static int on_list(struct fake *f, const Wire__Msg *request, struct err *err)
{
    Wire__Process process = WIRE__PROCESS__INIT, *list[] = {&process};
    Wire__Processes processes = WIRE__PROCESSES__INIT;
    Wire__Msg m = WIRE__MSG__INIT;

    process.pid = 100;
    process.ppid = 1;
    process.program = (char *)"fa\nke";
    process.state = (char *)"S";
    process.threads = 2;
    processes.count = f->processes;
    processes.n_process = request->list_processes->count_only || !f->processes ? 0 : 1;
    processes.process = list;
    m.body_case = WIRE__MSG__BODY_PROCESSES;
    m.processes = &processes;
    return coord_reply(f->c, request, &m, err);
}

static int on_backtraces(struct fake *f, const Wire__Msg *request, struct err *err)
{
    Wire__Msg m = WIRE__MSG__INIT;
    Wire__Text text = WIRE__TEXT__INIT;
    char words[] = "100 fake: main()\n";

    text.text = (ProtobufCBinaryData){strlen(words), (uint8_t *)words};
    m.re = request->seq;
    m.body_case = WIRE__MSG__BODY_TEXT;
    m.text = &text;
    if (coord_send(f->c, &m, err) < 0)
        return -err->code;
    return coord_reply_ok(f->c, request, err);
}

static int on_adopt(struct fake *f, const Wire__Msg *m, struct err *err)
{
    struct err why = {EPERM, "pid 100: told to refuse"};

    note(f, "adopt %s", m->adopt->options ? m->adopt->options->program : "");
    if (!strcmp(env("FAKE_VANISH"), "adopt"))
        _exit(1);
    if (*env("FAKE_REFUSE"))
        return coord_reply_error(f->c, m, &why, err);
    f->processes++;
    return coord_reply_ok(f->c, m, err);
}

static int on_end(struct fake *f, const Wire__CheckpointEnd *end)
{
    note(f, "end %u%s", end->generation, end->complete ? " complete" : "");
    for (size_t i = 0; i < end->n_remove; i++) {
        note(f, "remove %s", end->remove[i]);
        unlink(end->remove[i]);
    }
    forget_images(f, 0);
    if (!f->processes)
        asked_to_leave = 1; /* perhaps it was told to stay until now */
    return 0;
}

/* 1: it may go. */
static int serve(struct fake *f, const Wire__Msg *m, struct err *err)
{
    switch (m->body_case) {
    case WIRE__MSG__BODY_PHASE:
        return on_phase(f, m, err);
    case WIRE__MSG__BODY_ABORT:
        note(f, "abort %s", m->abort->reason);
        forget_images(f, 1);
        return coord_reply_ok(f->c, m, err);
    case WIRE__MSG__BODY_CHECKPOINT_END:
        return on_end(f, m->checkpoint_end);
    case WIRE__MSG__BODY_LIST_PROCESSES:
        return on_list(f, m, err);
    case WIRE__MSG__BODY_BACKTRACES:
        return on_backtraces(f, m, err);
    case WIRE__MSG__BODY_ADOPT:
        return on_adopt(f, m, err);
    case WIRE__MSG__BODY_DETACH:
        note(f, "detach %d", m->detach->pid);
        return coord_reply_ok(f->c, m, err);
    case WIRE__MSG__BODY_KILL:
        note(f, "kill");
        f->processes = 0;
        asked_to_leave = 1;
        return coord_reply_ok(f->c, m, err);
    default:
        return 0;
    }
}

static int run(struct fake *f, struct err *err)
{
    for (;;) {
        struct pollfd p = {coord_fd(f->c), POLLIN, 0};
        Wire__Msg *m = NULL;
        sigset_t none;
        int r;
        while ((r = coord_next(f->c, &m, err)) == 1) {
            r = serve(f, m, err);
            coord_msg_free(m);
            if (r < 0)
                return r;
        }
        if (r < 0)
            return r;
        if (asked_to_leave) {
            asked_to_leave = 0;
            r = coord_leave(f->c, err);
            note(f, "leave %d", r);
            if (r != 0)
                return r;
            continue; /* what came meanwhile does not show in poll */
        }
        sigemptyset(&none);
        ppoll(&p, 1, NULL, &none); /* the signal comes here only: it can't be missed */
    }
}

/* Join, as whom the environment says. */
static int join(struct fake *f, Wire__Join *join_msg, struct err *err)
{
    Wire__Msg m = WIRE__MSG__INIT;
    Wire__Host host = WIRE__HOST__INIT;

    if (!*env("FAKE_HOST"))
        return coord_join(f->c, join_msg, NULL, err);
    host.boot_id = host.hostname = (char *)env("FAKE_HOST");
    join_msg->host = &host;
    join_msg->uid = geteuid();
    join_msg->pid = getpid();
    m.body_case = WIRE__MSG__BODY_JOIN;
    m.join = join_msg;
    return coord_call(f->c, &m, NULL, COORD_FOREVER, NULL, NULL, err);
}

/* Tell the others our name, and ask for theirs and for one that nobody has. */
static int exchange_names(struct fake *f, struct err *err)
{
    Wire__Publish publish = WIRE__PUBLISH__INIT;
    Wire__Publish__Pair pair = WIRE__PUBLISH__PAIR__INIT, *list[] = {&pair};
    ProtobufCBinaryData keys[] = {{4, (uint8_t *)"anna"}, {5, (uint8_t *)"berta"}, {6, (uint8_t *)"nobody"}};
    Wire__Msg *values = NULL;
    int r;

    pair.key = pair.value = (ProtobufCBinaryData){strlen(env("FAKE_HOST")), (uint8_t *)env("FAKE_HOST")};
    publish.n_pair = 1;
    publish.pair = list;
    r = coord_publish(f->c, &publish, err);
    if (r == 0)
        r = coord_barrier(f->c, "published", 0, err);
    if (r == 0)
        r = coord_query(f->c, ARRAY_SIZE(keys), keys, &values, err);
    if (r < 0)
        return r;
    for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
        const Wire__Values__Value *v = values->values->value[i];
        note(f, "name %s %.*s", v->found ? "found" : "missing", (int)v->value.len,
             (const char *)v->value.data);
    }
    coord_msg_free(values);
    return coord_barrier(f->c, "restart", 0, err);
}

static int restart(struct fake *f, char **argv, struct err *err)
{
    Wire__Join j = WIRE__JOIN__INIT;
    Wire__TracerConfig config = WIRE__TRACER_CONFIG__INIT;
    char number[16];
    void *data = NULL;
    size_t len = 0;
    int r, fd;

    j.role = WIRE__JOIN__ROLE__RESTARTER;
    j.computation = (char *)env("FAKE_COMPUTATION");
    j.generation = (uint32_t)atoi(env("FAKE_GENERATION"));
    j.hosts_expected = (uint32_t)atoi(env("FAKE_RESTART"));
    r = join(f, &j, err);
    note(f, "restart joined %d %s", r, r < 0 ? err->msg : "");
    if (r == 0)
        r = exchange_names(f, err);
    note(f, "restarted %d %s", r, r < 0 ? err->msg : "");
    if (r == 0)
        r = coord_export(f->c, &data, &len, err);
    if (r < 0)
        return r;
    config.connection = (ProtobufCBinaryData){len, data};
    fd = coord_write_config(&config, err);
    free(data);
    if (fd < 0)
        return fd;
    snprintf(number, sizeof(number), "%d", fd);
    unsetenv("FAKE_RESTART");
    execl("/proc/self/exe", argv[0], "--config-fd", number, NULL);
    return err_errno(err, "exec");
}

static int connect_to(struct fake *f, const Wire__TracerConfig *config, struct err *err)
{
    struct options o;
    int r;

    if (config && config->connection.len)
        return coord_import(&f->c, config->connection.data, config->connection.len, err);
    r = options_init(&o, "fake_tracer", err);
    if (r == 0) {
        o.port = config ? (int)config->port : atoi(env("FAKE_PORT"));
        o.mode = COORD_JOIN;
        if (config) {
            free(o.key_file);
            o.key_file = strdup(config->key_file);
        }
        r = coord_connect(&f->c, &o, err);
    }
    options_free(&o);
    return r;
}

static void be_silent(struct fake *f)
{
    sigset_t set;
    int sig;

    note(f, "silent");
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigwait(&set, &sig);
}

static int start(struct fake *f, int argc, char **argv, struct err *err)
{
    Wire__Join j = WIRE__JOIN__INIT;
    Wire__TracerConfig *config = NULL;
    int r = 0, status = -1;

    if (argc == 3 && !strcmp(argv[1], "--config-fd"))
        r = coord_read_config(atoi(argv[2]), &config, err);
    if (r == 0 && config)
        status = config->status_fd;
    if (r == 0 && *env("FAKE_CRASH")) {
        err_set(err, EIO, "%s", env("FAKE_TEXT"));
        if (*env("FAKE_TEXT"))
            coord_started(status, err);
        _exit(1);
    }
    if (r == 0)
        r = connect_to(f, config, err);
    if (r == 0 && *env("FAKE_SILENT"))
        be_silent(f);
    if (r == 0 && *env("FAKE_RESTART"))
        r = restart(f, argv, err);
    if (r == 0)
        r = join(f, &j, err);
    note(f, "joined %d %s", r, r < 0 ? err->msg : "");
    coord_started(status, r < 0 ? err : NULL);
    if (config)
        wire__tracer_config__free_unpacked(config, NULL);
    return r;
}

int main(int argc, char **argv)
{
    struct sigaction action = {.sa_handler = on_signal};
    struct fake f = {.processes = 1};
    struct err err = {0};
    sigset_t blocked;
    int r;

    if (argc == 2 && !strcmp(argv[1], "--check")) {
        puts("checked");
        return 0;
    }
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR1);
    sigprocmask(SIG_BLOCK, &blocked, NULL);
    sigaction(SIGUSR1, &action, NULL);
    if (*env("FAKE_LOG"))
        f.log = fopen(env("FAKE_LOG"), "a");
    r = start(&f, argc, argv, &err);
    if (r == 0)
        r = run(&f, &err);
    if (r < 0)
        note(&f, "ends: %s", err.msg);
    coord_close(f.c);
    forget_images(&f, 0);
    if (f.log)
        fclose(f.log);
    return r < 0;
}
