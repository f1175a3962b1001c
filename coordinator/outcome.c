/*
 * How a checkpoint ends. It is over when all tracers have said that everybody runs again, so two checkpoints
 * never overlap; only then is the next one started, if somebody asked meanwhile. Either it is aborted
 * everywhere, or the manifest makes it complete (commit.c), and then the processes are killed if that was
 * asked for.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/util.h"
#include "coordinator/checkpoint.h"

void checkpoint_fail(struct server *s, const struct peer *from, int code, const char *text)
{
    struct checkpoint *c = &s->ck;

    if (c->failure.code)
        return; /* the first one is the reason */
    if (from && c->n_members > 1)
        err_set(&c->failure, code, "%s: %s", member_hostname(from), text);
    else
        err_set(&c->failure, code, "%s", text);
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
    checkpoint_reset(s);
    if (s->interval)
        s->interval_at = monotonic_ms() + s->interval * 1000LL;
    status_file_write(s);
    launchers_resume(s);
    deferred_run(s);
    checkpoint_next(s);
}

void checkpoint_failed(struct server *s)
{
    struct checkpoint *c = &s->ck;

    snprintf(s->last_error, sizeof(s->last_error), "%s", c->failure.msg);
    log_warn("checkpoint %u failed: %s", c->generation, c->failure.msg);
    answer_all(s);
    send_end(s, 0, NULL, 0);
    over(s);
}

/* One more is waited for meanwhile: answers may come at once when a peer is gone, before all have been asked. */
static void ask_members(struct server *s, Wire__Msg *msg, answer_fn fn)
{
    struct checkpoint *c = &s->ck;

    c->waiting++;
    for (size_t i = 0; i < c->n_members; i++) {
        struct peer *p = peer_by_id(s, c->member[i].peer);
        if (!p)
            continue;
        c->waiting++;
        peer_request(s, p, msg, fn, NULL);
    }
    c->waiting--;
}

static int on_aborted(struct server *s, struct peer *from, Wire__Msg *msg, void *arg)
{
    (void)from, (void)msg,
        (void)arg; /* a tracer that can't abort, or is gone, has let everyone go or never will */
    if (--s->ck.waiting == 0)
        checkpoint_failed(s);
    return 0;
}

void checkpoint_abort(struct server *s)
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
    ask_members(s, &msg, on_aborted);
    if (c->waiting == 0)
        checkpoint_failed(s);
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
        checkpoint_fail(s, from, msg->error->code, msg->error->text);
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
    ask_members(s, &msg, on_killed);
    if (c->waiting == 0)
        finish_killed(s);
}

/* All images have their final names: now the manifest. */
void checkpoint_commit(struct server *s)
{
    struct checkpoint *c = &s->ck;
    struct err err = {0};

    c->state = CK_COMMITTING;
    if (commit_start(s, c->manifest, &err) == 0)
        return;
    checkpoint_fail(s, NULL, err.code, err.msg);
    checkpoint_abort(s);
}

static void note_numbers(struct server *s)
{
    const struct checkpoint *c = &s->ck;

    s->last_time = c->time_us / 1000000;
    s->last_bytes = c->bytes;
    s->last_frozen_ns = c->frozen_ns;
    s->last_ns = (uint64_t)(monotonic_ns() - c->started_ns);
    s->last_error[0] = '\0';
    log_note("checkpoint %u complete: %llu bytes in %.3f s", c->generation, (unsigned long long)c->bytes,
             (double)s->last_ns / 1e9);
}

void checkpoint_committed(struct server *s)
{
    struct checkpoint *c = &s->ck;
    struct removal *removals = NULL;
    struct err err = {0};
    size_t n;

    if (c->state != CK_COMMITTING)
        return;
    if (commit_finish(s, c->manifest, &err) < 0) {
        checkpoint_fail(s, NULL, err.code, err.msg);
        checkpoint_abort(s);
        return;
    }
    c->manifest = NULL;
    note_numbers(s);
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
