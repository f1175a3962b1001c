/*
 * See gather.h. A tracer that does not answer (stopped by somebody, or stuck in the kernel) must not hold up
 * who asks, so every gathering has a deadline; what comes after it is dropped.
 */
#include "coordinator/gather.h"

#include <errno.h>

#include "base/util.h"

static void gather_free(struct server *s, struct gather *g)
{
    struct gather **link = &s->gathers;

    while (*link != g)
        link = &(*link)->next;
    *link = g->next;
    for (size_t i = 0; i < g->n; i++)
        wire__msg__free_unpacked(g->answers[i], NULL);
    free(g->answers);
    free(g->from);
    free(g);
}

static void finish_once(struct server *s, struct gather *g)
{
    gather_fn finish = g->finish;

    g->finish = NULL;
    g->deadline = 0;
    if (finish)
        finish(s, g);
}

static void one_less(struct server *s, struct gather *g)
{
    if (--g->waiting > 0)
        return;
    finish_once(s, g);
    gather_free(s, g);
}

static int keep(struct gather *g, const struct peer *from, Wire__Msg *msg)
{
    Wire__Msg **answers = grow(g->answers, g->n, &g->cap, sizeof(*answers));
    uint64_t *peers = grow(g->from, g->n, &g->cap_from, sizeof(*peers));

    if (answers)
        g->answers = answers;
    if (peers)
        g->from = peers;
    if (!answers || !peers)
        return 0;
    peers[g->n] = from->id;
    answers[g->n++] = msg;
    return 1;
}

static int on_answer(struct server *s, struct peer *from, Wire__Msg *msg, void *arg)
{
    struct gather *g = arg;
    int kept = 0;

    if (msg && (msg->body_case == WIRE__MSG__BODY_TEXT || msg->body_case == WIRE__MSG__BODY_PROGRESS)) {
        if (!g->finish)
            return 0;
        g->deadline = monotonic_ms() + g->timeout;
        answer(s, &g->ask, msg); /* passed on as it is */
        return 0;
    }
    if (!msg)
        err_set(&g->failure, ESRCH, "%s: the tracer ended", member_hostname(from));
    else if (msg->body_case == WIRE__MSG__BODY_ERROR)
        err_set(&g->failure, msg->error->code, "%s: %s", member_hostname(from), msg->error->text);
    else
        kept = keep(g, from, msg);
    one_less(s, g);
    return kept;
}

void gather(struct server *s, const struct ask *ask, Wire__Msg *msg, struct peer *only, int timeout,
            gather_fn finish)
{
    struct gather *g = calloc(1, sizeof(*g));

    if (!g) {
        answer_error(s, ask, ENOMEM, "out of memory");
        return;
    }
    g->ask = *ask;
    g->finish = finish;
    g->waiting = 1;
    g->timeout = timeout;
    g->deadline = monotonic_ms() + timeout;
    g->next = s->gathers;
    s->gathers = g;
    for (struct peer *p = s->peers; p; p = p->next)
        if (p->role == ROLE_TRACER && !p->dead && (!only || p == only)) {
            g->waiting++;
            peer_request(s, p, msg, on_answer, g);
        }
    one_less(s, g);
}

int64_t gather_deadline(const struct server *s)
{
    int64_t at = 0;

    for (const struct gather *g = s->gathers; g; g = g->next)
        if (g->deadline && (!at || g->deadline < at))
            at = g->deadline;
    return at;
}

static const struct peer *who_is_silent(const struct server *s, const struct gather *g)
{
    for (const struct peer *p = s->peers; p; p = p->next)
        for (size_t i = 0; i < p->n_pending; i++)
            if (p->pending[i].arg == g)
                return p;
    return NULL;
}

void gathers_expire(struct server *s, int64_t now)
{
    for (struct gather *g = s->gathers; g; g = g->next) {
        const struct peer *p = who_is_silent(s, g);
        if (!g->deadline || g->deadline > now)
            continue;
        if (p && p->hello)
            err_set(&g->failure, ETIMEDOUT, "%s: the tracer (pid %d) does not answer", member_hostname(p),
                    p->hello->join->pid);
        finish_once(s, g); /* it stays until the last answer is here: its address is in their books */
    }
}
