/* Messages of the coordinator: each becomes a call into checkpoint.c or trees.c, and an answer. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

#include "base/log.h"
#include "base/util.h"
#include "tracer/keepback.h"
#include "tracer/tracer.h"

#define SOLO_TRIES 40 /* with waits of 0, 1, 2… ms between them */
#define KEEPBACK_TRIES  10

/* Called by worker threads; the one that wins the exchange sends. */
static void on_progress(void *arg, uint64_t bytes)
{
    struct tracer *t = arg;
    uint64_t done = __atomic_add_fetch(&t->bytes_done, bytes, __ATOMIC_RELAXED);
    int64_t now = monotonic_ns(), last = __atomic_load_n(&t->progress_at, __ATOMIC_RELAXED);
    Wire__Msg m = WIRE__MSG__INIT;
    Wire__Progress p = WIRE__PROGRESS__INIT;
    struct err ignored;

    if (!t->progress_for || now - last < 100000000 ||
        !__atomic_compare_exchange_n(&t->progress_at, &last, now, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        return;
    p.phase = WIRE__PHASE__ID__WRITE;
    p.processes_total = (uint32_t)t->checkpoint.c.nprocs;
    p.bytes = done;
    p.bytes_total = t->bytes_total;
    m.body_case = WIRE__MSG__BODY_PROGRESS;
    m.progress = &p;
    coord_reply(t->coord, t->progress_for, &m, &ignored);
}

static int write_phase(struct tracer *t, const Wire__Msg *msg, struct err *err)
{
    struct ckpt_identity id = {.computation = t->computation, .generation = t->generation, .time = t->time,
                               .host_id = t->host_id};
    /* Alone, the program need not wait for its images; with others everyone is let go by a phase of its own. */
    bool go_on = msg->phase->solo && !msg->phase->hold;
    int r;

    t->bytes_done = t->bytes_total = 0;
    t->progress_for = msg->phase->want_progress ? msg : NULL;
    t->progress_at = monotonic_ns();
    r = checkpoint_write(&t->checkpoint, &id, go_on ? t->follow : NULL, on_progress, t, err);
    if (r == 0 && go_on)
        checkpoint_resume(&t->checkpoint);
    if (r == 0)
        r = checkpoint_write_rest(&t->checkpoint, on_progress, t, err);
    t->progress_for = NULL;
    return r;
}

static int aborted(struct tracer *t, struct err *err)
{
    return coord_abort_pending(t->coord) ? err_set(err, ECANCELED, "the checkpoint was given up") : 0;
}

static int freeze_phase(struct tracer *t, const Wire__Phase *ph, struct keepback *keepback, bool last, struct err *err)
{
    struct ckpt_options o = {0};

    checkpoint_free(&t->checkpoint);
    trees_options(t, &o);
    o.hold = ph->hold;
    o.keepback = keepback;
    o.last_try = last;
    t->generation = ph->generation;
    t->time = ph->time;
    if (ph->computation && ph->computation[0]) {
        free(t->computation);
        t->computation = strdup(ph->computation);
    }
    int r = checkpoint_freeze(&t->checkpoint, t->follow, &o, err);
    t->checkpoint.c.deadlines = &t->deadlines;
    return r < 0 ? r : trees_record(t, &t->checkpoint.c, err);
}

static int look_at_all(struct tracer *t, const Wire__Msg *msg, struct keepback *keepback, bool last, struct err *err)
{
    struct checkpoint *k = &t->checkpoint;
    int r = freeze_phase(t, msg->phase, keepback, last, err);

    if (r < 0)
        keepback_release(keepback);
    else
        keepback_forget(keepback);
    return r < 0 || checkpoint_collect(k, err) < 0 || aborted(t, err) < 0 || checkpoint_match(k, err) < 0 ||
                   checkpoint_peek_send(k, err) < 0 || checkpoint_peek_receive(k, err) < 0
               ? -err->code : 0;
}

/*
 * All phases up to WRITE without waiting for anybody. EAGAIN says that something is in a state that cannot be
 * saved and that the program leaves by itself if it runs (a connection that is about to be accepted): it is
 * let go for a moment.
 */
static int solo(struct tracer *t, const Wire__Msg *msg, struct err *err)
{
    struct checkpoint *k = &t->checkpoint;
    struct keepback keepback = {0};
    int r = look_at_all(t, msg, &keepback, false, err);

    for (int tries = 0; r == -EAGAIN && tries < SOLO_TRIES; tries++) {
        log_trace("once more: %s", err->msg);
        checkpoint_free(k);
        poll(NULL, 0, tries);
        keepback_wait(&keepback);
        r = look_at_all(t, msg, &keepback, tries >= KEEPBACK_TRIES, err);
    }
    if (r < 0)
        checkpoint_free(k);
    k->c.options.keepback = NULL;
    keepback_release(&keepback);
    if (r < 0 || write_phase(t, msg, err) < 0)
        return -err->code;
    return sync_images(k->images, err);
}

static int one_phase(struct tracer *t, const Wire__Msg *msg, struct err *err)
{
    struct checkpoint *k = &t->checkpoint;

    if (msg->phase->id != WIRE__PHASE__ID__FREEZE && msg->phase->id != WIRE__PHASE__ID__RESUME && !k->c.arena)
        return err_set(err, EPROTO, "the coordinator goes on with a checkpoint that has not begun");
    switch (msg->phase->id) {
    case WIRE__PHASE__ID__FREEZE:
        return msg->phase->solo ? solo(t, msg, err) : freeze_phase(t, msg->phase, NULL, true, err);
    case WIRE__PHASE__ID__COLLECT:
        return checkpoint_collect(k, err);
    case WIRE__PHASE__ID__MATCH:
        return checkpoint_match(k, err);
    case WIRE__PHASE__ID__PEEK_SEND:
        return checkpoint_peek_send(k, err);
    case WIRE__PHASE__ID__PEEK_RECV:
        return checkpoint_peek_receive(k, err);
    case WIRE__PHASE__ID__WRITE:
        return write_phase(t, msg, err) < 0 ? -err->code : sync_images(k->images, err);
    case WIRE__PHASE__ID__RESUME:
        checkpoint_resume(k);
        return 0;
    case WIRE__PHASE__ID__COMMIT:
        return k->images ? publish_images(k->images, err) : err_set(err, EINVAL, "no images to commit");
    default:
        return err_set(err, EPROTO, "the coordinator asks for an unknown phase");
    }
}

/* Not when the coordinator is lost: the checkpoint may be complete then. */
static void give_up(struct checkpoint *k)
{
    checkpoint_resume(k);
    withdraw_images(k->images);
    checkpoint_free(k);
}

static int serve_phase(struct tracer *t, const Wire__Msg *msg, struct err *err)
{
    struct checkpoint *k = &t->checkpoint;
    Wire__Msg answer = WIRE__MSG__INIT;
    Wire__PhaseDone done = WIRE__PHASE_DONE__INIT;
    struct err why = {0};

    log_trace("phase %d", msg->phase->id);
    if (one_phase(t, msg, &why) < 0) {
        give_up(k);
        log_warn("checkpoint %u: %s", t->generation, why.msg);
        return coord_reply_error(t->coord, msg, &why, err);
    }
    done.phase = msg->phase->solo ? WIRE__PHASE__ID__WRITE : msg->phase->id;
    done.processes = (uint32_t)k->c.nprocs;
    if (done.phase == WIRE__PHASE__ID__WRITE)
        describe_images(&k->c, k->images, &done);
    if (k->running && k->thawed_at)
        done.frozen_ns = (uint64_t)(k->thawed_at - k->frozen_at);
    answer.body_case = WIRE__MSG__BODY_PHASE_DONE;
    answer.phase_done = &done;
    return coord_reply(t->coord, msg, &answer, err);
}

static void remove_old(const Wire__CheckpointEnd *e)
{
    for (size_t i = 0; i < e->n_remove; i++)
        if (unlink(e->remove[i]) < 0 && errno != ENOENT)
            log_warn("%s: cannot be removed: %s", e->remove[i], strerror(errno));
}

static int answer(struct tracer *t, const Wire__Msg *msg, int r, const struct err *why, struct err *err)
{
    return r < 0 ? coord_reply_error(t->coord, msg, why, err) : coord_reply_ok(t->coord, msg, err);
}

static int serve_list(struct tracer *t, const Wire__Msg *msg, struct err *err)
{
    struct arena *a = arena_new();
    Wire__Msg m = WIRE__MSG__INIT;
    Wire__Processes p = WIRE__PROCESSES__INIT;
    struct err why = {0};
    int r;

    if (!a || trees_list(t, a, &p, &why) < 0) {
        r = coord_reply_error(t->coord, msg, &why, err);
    } else {
        m.body_case = WIRE__MSG__BODY_PROCESSES;
        m.processes = &p;
        r = coord_reply(t->coord, msg, &m, err);
    }
    if (a)
        arena_free(a);
    return r;
}

int tracer_serve(struct tracer *t, const Wire__Msg *msg, struct err *err)
{
    struct err why = {0};

    switch (msg->body_case) {
    case WIRE__MSG__BODY_ADOPT:
        return answer(t, msg, trees_adopt(t, msg->adopt, &why), &why, err);
    case WIRE__MSG__BODY_DETACH:
        return answer(t, msg, trees_detach(t, msg->detach->pid, &why), &why, err);
    case WIRE__MSG__BODY_PHASE:
        return serve_phase(t, msg, err);
    case WIRE__MSG__BODY_ABORT:
        give_up(&t->checkpoint);
        return coord_reply_ok(t->coord, msg, err);
    case WIRE__MSG__BODY_CHECKPOINT_END:
        if (msg->checkpoint_end->complete)
            remove_old(msg->checkpoint_end);
        /* Who is to be killed does not run once more before that. */
        if (!msg->checkpoint_end->complete || !t->checkpoint.c.options.hold)
            checkpoint_free(&t->checkpoint);
        return 0;
    case WIRE__MSG__BODY_LIST_PROCESSES:
        return serve_list(t, msg, err);
    case WIRE__MSG__BODY_BACKTRACES:
        return answer(t, msg, send_backtraces(t, msg, msg->backtraces->pid, &why), &why, err);
    case WIRE__MSG__BODY_KILL:
        return answer(t, msg, trees_kill(t, &why), &why, err);
    default:
        return 0; /* an answer that nobody waits for any more */
    }
}

/* Tells hosts of a computation apart in file names: a hash of the boot and of the pid namespace. */
static void name_host(struct tracer *t, const Wire__Host *h)
{
    char text[300];

    snprintf(text, sizeof(text), "%s %llu", h->boot_id, (unsigned long long)h->pidns);
    snprintf(t->host_id, sizeof(t->host_id), "%08llx",
             (unsigned long long)(XXH3_64bits(text, strlen(text)) & 0xffffffff));
}

static int join(struct tracer *t, struct err *err)
{
    Wire__Join j = WIRE__JOIN__INIT;
    Wire__Host h = WIRE__HOST__INIT;
    Wire__Msg *joined = NULL;

    if (coord_host(t->coord, &h, err) < 0)
        return -err->code;
    name_host(t, &h);
    j.role = WIRE__JOIN__ROLE__TRACER;
    if (coord_join(t->coord, &j, &joined, err) < 0)
        return -err->code;
    if (joined && joined->joined)
        t->computation = strdup(joined->joined->computation);
    coord_msg_free(joined);
    return 0;
}

static int connect_to(struct tracer *t, const Wire__TracerConfig *config, struct err *err)
{
    struct options o;
    int r;

    if (config->connection.len)
        return coord_import(&t->coord, config->connection.data, config->connection.len, err);
    r = options_init(&o, "dmtcp_tracer", err);
    if (r < 0)
        return r;
    free(o.host);
    o.host = strdup(config->host);
    o.port = (int)config->port;
    o.mode = COORD_JOIN;
    free(o.key_file);
    o.key_file = config->key_file && config->key_file[0] ? strdup(config->key_file) : NULL;
    r = coord_connect(&t->coord, &o, err);
    options_free(&o);
    return r;
}

int tracer_start(struct tracer *t, int config_fd, struct err *err)
{
    Wire__TracerConfig *config;
    int r;

    if (coord_read_config(config_fd, &config, err) < 0)
        return -err->code;
    t->status_fd = config->status_fd > 0 ? config->status_fd : -1;
    t->ckptdir = strdup(config->ckptdir ? config->ckptdir : "");
    if (config->log_file && config->log_file[0]) {
        int fd = open(config->log_file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
        log_to_fd(fd);
    } else {
        log_to_fd(-1);
    }
    r = connect_to(t, config, err);
    if (r == 0)
        r = follow_new(&t->follow, err);
    if (r == 0)
        r = join(t, err);
    if (r == 0)
        r = trees_take_over(t, config, err);
    wire__tracer_config__free_unpacked(config, NULL);
    if (r == 0 && t->status_fd >= 0) {
        coord_started(t->status_fd, NULL);
        t->status_fd = -1;
    }
    return r;
}

void tracer_end(struct tracer *t)
{
    checkpoint_free(&t->checkpoint);
    follow_free(t->follow);
    deadlines_free(&t->deadlines);
    coord_close(t->coord);
    for (size_t i = 0; i < t->ntrees; i++)
        wire__tree_options__free_unpacked(t->trees[i].options, NULL);
    free(t->trees);
    free(t->computation);
    free(t->ckptdir);
}
