/*
 * The phases of a checkpoint. One is sent to all tracers at once, the next when all have answered. The first
 * failure (or a tracer that is gone) turns it into an Abort for all (outcome.c).
 *
 * With one tracer there is nobody to wait for: it runs all phases through WRITE by itself (solo), which
 * leaves two round trips, and lets its processes go before any of them. The commit needs no frozen processes:
 * the cut was made by then.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/util.h"
#include "coordinator/checkpoint.h"
#include "coordinator/show.h"

static void next_phase(struct server *s)
{
    struct checkpoint *c = &s->ck;
    Wire__Phase__Id next = (Wire__Phase__Id)(c->phase + 1);

    if (c->phase == WIRE__PHASE__ID__WRITE && c->manifest->n_images == 0) {
        checkpoint_fail(s, NULL, ESRCH, "no process was left to checkpoint");
        checkpoint_abort(s);
        return;
    }
    if (c->phase == WIRE__PHASE__ID__COMMIT) {
        checkpoint_commit(s);
        return;
    }
    if (next == WIRE__PHASE__ID__RESUME && (c->solo || c->hold))
        next = WIRE__PHASE__ID__COMMIT;
    phase_send(s, next);
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
        checkpoint_fail(s, p, EPROTO, "the tracer answered for another phase");
        return;
    }
    p->processes = done->processes;
    if (done->frozen_ns > c->frozen_ns)
        c->frozen_ns = done->frozen_ns;
    if (c->phase == WIRE__PHASE__ID__WRITE)
        r = take_images(s, p, m, done);
    if (r < 0)
        checkpoint_fail(
            s, p, -r, r == -EINVAL ? "the tracer named an image without an absolute path" : "out of memory");
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
            checkpoint_failed(s);
        return 0;
    }
    if (!msg)
        checkpoint_fail(s, from, ESRCH, "the tracer ended during the checkpoint");
    else if (msg->body_case == WIRE__MSG__BODY_ERROR)
        checkpoint_fail(s, from, msg->error->code, msg->error->text);
    else if (msg->body_case != WIRE__MSG__BODY_PHASE_DONE)
        checkpoint_fail(s, from, EPROTO, "the tracer gave an unexpected answer");
    else
        phase_done(s, from, m, msg->phase_done);
    if (c->failure.code)
        checkpoint_abort(s);
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

void phase_send(struct server *s, Wire__Phase__Id id)
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
        checkpoint_fail(s, NULL, ESRCH, "a tracer ended during the checkpoint");
    }
    if (c->failure.code)
        checkpoint_abort(s);
}
