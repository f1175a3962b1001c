/*
 * The phases of a checkpoint. One is sent to all tracers at once, the next when all have answered. The first
 * failure (or a tracer that is gone) turns it into an Abort for all; it is over when all have said that
 * everybody runs again, so two checkpoints never overlap. Only then is the next one started, if somebody
 * asked meanwhile.
 *
 * With one tracer there is nobody to wait for: it runs all phases through WRITE by itself (solo), which
 * leaves two round trips, and lets its processes go before any of them. The commit needs no frozen processes:
 * the cut was made by then.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "base/util.h"
#include "coordinator/server.h"
#include "coordinator/show.h"

static void send_phase(struct server *s, Wire__Phase__Id id);
static void begin_abort(struct server *s);

int restarting(const struct server *s)
{
    return s->restart_hosts > 0;
}

static int add_ask(struct ask **asks, size_t *n, size_t *cap, const struct ask *ask)
{
    struct ask *more = grow(*asks, *n, cap, sizeof(*more));

    if (!more)
        return -ENOMEM;
    *asks = more;
    more[(*n)++] = *ask;
    return 0;
}

static void fail(struct server *s, const struct peer *from, int code, const char *text)
{
    struct checkpoint *c = &s->ck;

    if (c->failure.code)
        return; /* the first one is the reason */
    if (from && c->n_members > 1)
        err_set(&c->failure, code, "%s: %s", member_hostname(from), text);
    else
        err_set(&c->failure, code, "%s", text);
}

static void reset(struct server *s)
{
    struct checkpoint *c = &s->ck;

    free(c->member);
    c->member = NULL;
    c->n_members = 0;
    c->n_asks = 0;
    manifest_free(c->manifest);
    c->manifest = NULL;
    memset(&c->failure, 0, sizeof(c->failure));
    c->state = CK_IDLE;
    c->phase = WIRE__PHASE__ID__NONE;
}

void checkpoint_free(struct server *s)
{
    reset(s);
    free(s->ck.ask);
    free(s->ck.next_ask);
    memset(&s->ck, 0, sizeof(s->ck));
}

static void answer_all(struct server *s)
{
    struct checkpoint *c = &s->ck;

    for (size_t i = 0; i < c->n_asks; i++)
        if (c->failure.code)
            answer_error(s, &c->ask[i], c->failure.code, "%s", c->failure.msg);
        else
            answer_ok(s, &c->ask[i]);
    c->n_asks = 0;
}

/* Tell the tracers that it is over, and what they may remove now. */
static void send_end(struct server *s, int complete, const struct removal *removals, size_t n_removals)
{
    for (struct peer *p = s->peers; p; p = p->next) {
        Wire__Msg msg = WIRE__MSG__INIT;
        Wire__CheckpointEnd end = WIRE__CHECKPOINT_END__INIT;
        if (p->role != ROLE_TRACER || p->dead)
            continue;
        end.generation = s->ck.generation;
        end.complete = complete;
        for (size_t i = 0; i < n_removals; i++)
            if (removals[i].peer == p->id) {
                end.n_remove = removals[i].n;
                end.remove = removals[i].path;
            }
        msg.body_case = WIRE__MSG__BODY_CHECKPOINT_END;
        msg.checkpoint_end = &end;
        peer_send(s, p, &msg);
    }
}

/* Everybody runs (or is dead): the next thing may begin. */
static void over(struct server *s)
{
    reset(s);
    if (s->interval)
        s->interval_at = server_now_ms() + s->interval * 1000LL;
    status_file_write(s);
    launchers_resume(s);
    deferred_run(s);
    checkpoint_next(s);
}

static void finish_failed(struct server *s)
{
    struct checkpoint *c = &s->ck;

    snprintf(s->last_error, sizeof(s->last_error), "%s", c->failure.msg);
    log_warn("checkpoint %u failed: %s", c->generation, c->failure.msg);
    answer_all(s);
    send_end(s, 0, NULL, 0);
    over(s);
}

static int on_aborted(struct server *s, struct peer *from, Wire__Msg *msg, void *arg)
{
    (void)from, (void)msg,
        (void)arg; /* a tracer that can't abort, or is gone, has let everyone go or never will */
    if (--s->ck.waiting == 0)
        finish_failed(s);
    return 0;
}

static void begin_abort(struct server *s)
{
    struct checkpoint *c = &s->ck;
    Wire__Msg msg = WIRE__MSG__INIT;
    Wire__Abort abort_msg = WIRE__ABORT__INIT;

    if (c->state == CK_ABORTING)
        return;
    c->state = CK_ABORTING;
    abort_msg.generation = c->generation;
    abort_msg.reason = c->failure.msg;
    msg.body_case = WIRE__MSG__BODY_ABORT;
    msg.abort = &abort_msg;
    for (size_t i = 0; i < c->n_members; i++) {
        struct peer *p = peer_by_id(s, c->member[i].peer);
        if (!p)
            continue;
        c->waiting++;
        peer_request(s, p, &msg, on_aborted, NULL);
    }
    if (c->waiting == 0)
        finish_failed(s);
}

static void finish_killed(struct server *s)
{
    log_note("the computation was killed after checkpoint %u", s->ck.generation);
    answer_all(s);
    over(s);
}

static int on_killed(struct server *s, struct peer *from, Wire__Msg *msg, void *arg)
{
    (void)arg;
    if (msg && msg->body_case == WIRE__MSG__BODY_ERROR)
        fail(s, from, msg->error->code, msg->error->text);
    if (--s->ck.waiting == 0)
        finish_killed(s);
    return 0;
}

static void kill_members(struct server *s)
{
    struct checkpoint *c = &s->ck;
    Wire__Msg msg = WIRE__MSG__INIT;
    Wire__Kill kill_msg = WIRE__KILL__INIT;

    c->state = CK_KILLING;
    msg.body_case = WIRE__MSG__BODY_KILL;
    msg.kill = &kill_msg;
    for (size_t i = 0; i < c->n_members; i++) {
        struct peer *p = peer_by_id(s, c->member[i].peer);
        if (!p)
            continue;
        c->waiting++;
        peer_request(s, p, &msg, on_killed, NULL);
    }
    if (c->waiting == 0)
        finish_killed(s);
}

/* All images have their final names: now the manifest. */
static void commit(struct server *s)
{
    struct checkpoint *c = &s->ck;
    struct removal *removals = NULL;
    struct err err = {0};
    size_t n;

    if (generation_commit(s, c->manifest, &err) < 0) {
        fail(s, NULL, err.code, err.msg);
        begin_abort(s);
        return;
    }
    c->manifest = NULL;
    s->last_time = c->time_us / 1000000;
    s->last_bytes = c->bytes;
    s->last_frozen_ns = c->frozen_ns;
    s->last_ns = (uint64_t)(server_now_ns() - c->started_ns);
    s->last_error[0] = '\0';
    log_note("checkpoint %u complete: %llu bytes in %.3f s", c->generation, (unsigned long long)c->bytes,
             (double)s->last_ns / 1e9);
    if (!c->hold)
        answer_all(s);
    n = generation_prune(s, &removals);
    send_end(s, 1, removals, n);
    removals_free(removals, n);
    if (c->hold)
        kill_members(s);
    else
        over(s);
}

static void next_phase(struct server *s)
{
    struct checkpoint *c = &s->ck;
    Wire__Phase__Id next = (Wire__Phase__Id)(c->phase + 1);

    if (c->phase == WIRE__PHASE__ID__WRITE && c->manifest->n_images == 0) {
        fail(s, NULL, ESRCH, "no process was left to checkpoint");
        begin_abort(s);
        return;
    }
    if (c->phase == WIRE__PHASE__ID__COMMIT) {
        commit(s);
        return;
    }
    if (next == WIRE__PHASE__ID__RESUME && (c->solo || c->hold))
        next = WIRE__PHASE__ID__COMMIT;
    send_phase(s, next);
}

static void forward_progress(struct server *s)
{
    struct checkpoint *c = &s->ck;
    Wire__Msg msg = WIRE__MSG__INIT;
    Wire__Progress sum = WIRE__PROGRESS__INIT;

    for (size_t i = 0; i < c->n_members; i++) {
        const Wire__Progress *one = &c->member[i].progress;
        sum.processes += one->processes;
        sum.processes_total += one->processes_total;
        sum.bytes += one->bytes;
        sum.bytes_total += one->bytes_total;
        sum.phase = one->phase > sum.phase ? one->phase : sum.phase;
    }
    msg.body_case = WIRE__MSG__BODY_PROGRESS;
    msg.progress = &sum;
    for (size_t i = 0; i < c->n_asks; i++)
        if (c->ask[i].progress)
            answer(s, &c->ask[i], &msg);
}

/* The hosts of a manifest come in the order of their first image; images of a host in one run. */
static int manifest_host_of(struct server *s, struct checkpoint_member *m, const struct peer *p,
                            const char *image)
{
    const Wire__Host *host = peer_host(p);
    const char *slash = strrchr(image, '/');
    _cleanup_free_ char *dir = strndup(image, slash > image ? (size_t)(slash - image) : 1);

    if (m->host < 0 && dir)
        m->host = manifest_add_host(s->ck.manifest, host->hostname, host->boot_id, host->pidns, dir);
    return m->host;
}

static int take_images(struct server *s, struct peer *p, struct checkpoint_member *m,
                       const Wire__PhaseDone *done)
{
    struct checkpoint *c = &s->ck;

    /* Roots of launched trees first: what the terminal sees is the first image that dmtcp_restart is given.
     */
    for (int foreground = 1; foreground >= 0; foreground--)
        for (size_t i = 0; i < done->n_image; i++) {
            const Wire__Image *image = done->image[i];
            if (image->path[0] != '/')
                return -EINVAL;
            if (image->foreground != foreground)
                continue;
            if (manifest_host_of(s, m, p, image->path) < 0 ||
                manifest_add_image(c->manifest, (unsigned)m->host, image->path, image->size, image->program,
                                   image->pid, foreground) < 0)
                return -ENOMEM;
            c->bytes += image->size;
        }
    return 0;
}

static void phase_done(struct server *s, struct peer *p, struct checkpoint_member *m,
                       const Wire__PhaseDone *done)
{
    struct checkpoint *c = &s->ck;
    int r = 0;

    if (c->solo && c->phase == WIRE__PHASE__ID__FREEZE)
        c->phase = WIRE__PHASE__ID__WRITE;
    if (done->phase != c->phase) {
        fail(s, p, EPROTO, "the tracer answered for another phase");
        return;
    }
    p->processes = done->processes;
    if (done->frozen_ns > c->frozen_ns)
        c->frozen_ns = done->frozen_ns;
    if (c->phase == WIRE__PHASE__ID__WRITE)
        r = take_images(s, p, m, done);
    if (r < 0)
        fail(s, p, -r, r == -EINVAL ? "the tracer named an image without an absolute path" : "out of memory");
}

static int on_phase(struct server *s, struct peer *from, Wire__Msg *msg, void *arg)
{
    struct checkpoint *c = &s->ck;
    struct checkpoint_member *m = &c->member[(uintptr_t)arg];

    if (msg && msg->body_case == WIRE__MSG__BODY_PROGRESS) {
        m->progress = *msg->progress;
        forward_progress(s);
        return 0;
    }
    if (msg && msg->body_case == WIRE__MSG__BODY_TEXT)
        return 0;
    c->waiting--;
    if (c->state == CK_ABORTING) {
        if (c->waiting == 0)
            finish_failed(s);
        return 0;
    }
    if (!msg)
        fail(s, from, ESRCH, "the tracer ended during the checkpoint");
    else if (msg->body_case == WIRE__MSG__BODY_ERROR)
        fail(s, from, msg->error->code, msg->error->text);
    else if (msg->body_case != WIRE__MSG__BODY_PHASE_DONE)
        fail(s, from, EPROTO, "the tracer gave an unexpected answer");
    else
        phase_done(s, from, m, msg->phase_done);
    if (c->failure.code)
        begin_abort(s);
    else if (c->waiting == 0)
        next_phase(s);
    return 0;
}

static int wants_progress(const struct checkpoint *c)
{
    for (size_t i = 0; i < c->n_asks; i++)
        if (c->ask[i].progress)
            return 1;
    return 0;
}

static void send_phase(struct server *s, Wire__Phase__Id id)
{
    struct checkpoint *c = &s->ck;
    Wire__Msg msg = WIRE__MSG__INIT;
    Wire__Phase phase = WIRE__PHASE__INIT;

    c->phase = phase.id = id;
    phase.generation = c->generation;
    phase.solo = c->solo && id == WIRE__PHASE__ID__FREEZE;
    phase.hold = c->hold;
    phase.computation = s->computation;
    phase.time = c->time_us;
    phase.want_progress = wants_progress(c);
    msg.body_case = WIRE__MSG__BODY_PHASE;
    msg.phase = &phase;
    log_trace("checkpoint %u: %s", c->generation, phase_name(id));
    c->waiting = c->n_members; /* before the first is sent: answers may come at once when a peer is gone */
    for (size_t i = 0; i < c->n_members; i++) {
        struct peer *p = peer_by_id(s, c->member[i].peer);
        if (p) {
            peer_request(s, p, &msg, on_phase, (void *)(uintptr_t)i);
            continue;
        }
        c->waiting--;
        fail(s, NULL, ESRCH, "a tracer ended during the checkpoint");
    }
    if (c->failure.code)
        begin_abort(s);
}

static int take_members(struct server *s)
{
    struct checkpoint *c = &s->ck;

    c->n_members = 0;
    c->member = calloc(peers_count(s, ROLE_TRACER) + 1, sizeof(*c->member));
    if (!c->member)
        return -ENOMEM;
    for (struct peer *p = s->peers; p; p = p->next)
        if (p->role == ROLE_TRACER && !p->dead)
            c->member[c->n_members++] = (struct checkpoint_member){p->id, WIRE__PROGRESS__INIT, -1};
    return 0;
}

static void start(struct server *s)
{
    struct checkpoint *c = &s->ck;
    struct ask *asks = c->ask;
    size_t cap = c->cap_asks;
    struct timespec now;
    struct err err = {0};

    c->ask = c->next_ask;
    c->n_asks = c->n_next_asks;
    c->cap_asks = c->cap_next_asks;
    c->next_ask = asks;
    c->n_next_asks = 0;
    c->cap_next_asks = cap;
    c->hold = c->next_hold || s->config.kill_after_ckpt;
    c->next = c->next_hold = 0;
    c->generation = s->generation + 1;
    clock_gettime(CLOCK_REALTIME, &now);
    c->time_us = now.tv_sec * 1000000ll + now.tv_nsec / 1000;
    c->started_ns = server_now_ns();
    c->bytes = c->frozen_ns = 0;
    c->waiting = 0;
    c->state = CK_PHASE;
    s->interval_at = 0;
    c->manifest = manifest_new(s->computation, c->generation, c->time_us / 1000000);
    names_clear(s);
    if (generation_possible(s, &err) < 0)
        fail(s, NULL, err.code, err.msg);
    else if (!c->manifest || take_members(s) < 0)
        fail(s, NULL, ENOMEM, "out of memory");
    if (c->failure.code) {
        finish_failed(s);
        return;
    }
    c->solo = c->n_members == 1;
    send_phase(s, WIRE__PHASE__ID__FREEZE);
}

void checkpoint_next(struct server *s)
{
    struct checkpoint *c = &s->ck;

    if (!c->next || c->state != CK_IDLE || restarting(s))
        return;
    if (peers_count(s, ROLE_TRACER)) {
        start(s);
        return;
    }
    for (size_t i = 0; i < c->n_next_asks; i++)
        answer_error(s, &c->next_ask[i], ESRCH, "the computation has ended: nothing to checkpoint");
    c->n_next_asks = 0;
    c->next = c->next_hold = 0;
}

void checkpoint_request(struct server *s, const struct ask *ask, int hold, int wait)
{
    struct checkpoint *c = &s->ck;

    if (s->quitting) {
        answer_error(s, ask, EBUSY, "the coordinator is ending");
        return;
    }
    if (!peers_count(s, ROLE_MEMBER)) {
        answer_error(s, ask, ESRCH, "no process belongs to the computation: nothing to checkpoint");
        return;
    }
    if (wait && ask->seq && add_ask(&c->next_ask, &c->n_next_asks, &c->cap_next_asks, ask) < 0) {
        answer_error(s, ask, ENOMEM, "out of memory");
        return;
    }
    if (!wait)
        answer_ok(s, ask);
    c->next = 1;
    c->next_hold |= hold;
    checkpoint_next(s);
}

void checkpoint_cancel(struct server *s, const char *why)
{
    struct checkpoint *c = &s->ck;

    c->next = c->next_hold = 0;
    for (size_t i = 0; i < c->n_next_asks; i++)
        answer_error(s, &c->next_ask[i], ECANCELED, "%s", why);
    c->n_next_asks = 0;
    if (c->state != CK_PHASE)
        return;
    fail(s, NULL, ECANCELED, why);
    begin_abort(s);
}
