/*
 * A checkpoint begins: somebody asks for one, or the interval is over. Only one is going on at a time; who
 * asks meanwhile (or while a restart is going on) gets the next one. Its phases are in phases.c, its ends in
 * outcome.c.
 */
#include <errno.h>
#include <string.h>
#include <time.h>

#include "base/util.h"
#include "coordinator/checkpoint.h"

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

void checkpoint_reset(struct server *s)
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
    checkpoint_reset(s);
    free(s->ck.ask);
    free(s->ck.next_ask);
    memset(&s->ck, 0, sizeof(s->ck));
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
    c->started_ns = monotonic_ns();
    c->bytes = c->frozen_ns = 0;
    c->waiting = 0;
    c->state = CK_PHASE;
    s->interval_at = 0;
    c->manifest = manifest_new(s->computation, c->generation, c->time_us / 1000000);
    names_clear(s);
    if (generation_possible(s, &err) < 0)
        checkpoint_fail(s, NULL, err.code, err.msg);
    else if (!c->manifest || take_members(s) < 0)
        checkpoint_fail(s, NULL, ENOMEM, "out of memory");
    if (c->failure.code) {
        checkpoint_failed(s);
        return;
    }
    c->solo = c->n_members == 1;
    phase_send(s, WIRE__PHASE__ID__FREEZE);
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
    checkpoint_fail(s, NULL, ECANCELED, why);
    checkpoint_abort(s);
}
