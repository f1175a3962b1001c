/*
 * Who belongs to the computation. There is one tracer for each host and user; the first launcher there is
 * told to start it, and every launcher's tree is handed to it by Adopt. A tracer that has no trees left asks
 * before it goes, so that no tree is handed to one that is on its way out.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "base/util.h"
#include "coordinator/server.h"

#define START_MS    20000 /* for a tracer to join after a launcher was told to start it */
#define STARTS_MAX  2
#define HANDED_OVER (-1) /* in peer.starting: a tracer has been sent the Adopt */

int server_new_computation(struct server *s)
{
    struct timespec now;
    char *id;

    clock_gettime(CLOCK_REALTIME, &now);
    /* Host, pid and time tell apart what one user can start; the format is that of the image names. */
    id = format("%.8s-%d-%llx%05lx", s->boot_id, (int)getpid(), (long long)now.tv_sec, now.tv_nsec / 1000);
    if (!id)
        return -ENOMEM;
    free(s->computation);
    s->computation = id;
    s->generation = 0;
    return 0;
}

const Wire__Host *peer_host(const struct peer *p)
{
    if (!p->hello)
        return NULL;
    return p->hello->body_case == WIRE__MSG__BODY_JOIN ? p->hello->join->host : p->hello->launch->host;
}

const char *member_hostname(const struct peer *p)
{
    const Wire__Host *host = peer_host(p);

    return host ? host->hostname : "?";
}

int same_host(const Wire__Host *a, const Wire__Host *b)
{
    return a && b && a->pidns == b->pidns && !strcmp(a->boot_id, b->boot_id);
}

static uint32_t peer_uid(const struct peer *p)
{
    return p->hello->body_case == WIRE__MSG__BODY_JOIN ? p->hello->join->uid : p->hello->launch->uid;
}

static struct peer *find_member(struct server *s, const struct peer *like, const Wire__Host *host,
                                uint32_t uid)
{
    for (struct peer *p = s->peers; p; p = p->next)
        if (p != like && !p->dead && (p->role & ROLE_MEMBER) && same_host(peer_host(p), host) &&
            peer_uid(p) == uid)
            return p;
    return NULL;
}

/* Can it be put into the list, and is it not there yet? */
static bool is_new_plugin(const char *list, const char *path)
{
    const char *at = list;

    if (path[0] != '/' || strchr(path, ':'))
        return false;
    for (size_t n = strlen(path); (at = strstr(at, path)); at++)
        if ((at == list || at[-1] == ':') && (!at[n] || at[n] == ':'))
            return false;
    return true;
}

/* What the computation's generations and its restart script need of a tree's options. */
static void take_options(struct server *s, const Wire__TreeOptions *o)
{
    if (o && o->keep)
        s->keep = (int)(o->keep > INT32_MAX ? INT32_MAX : o->keep);
    for (size_t i = 0; o && i < o->n_plugin; i++) {
        const char *before = s->plugins ? s->plugins : "";
        char *more = is_new_plugin(before, o->plugin[i]) ? format("%s%s%s", before, *before ? ":" : "", o->plugin[i]) : NULL;
        if (!more)
            continue;
        free(s->plugins);
        s->plugins = more;
    }
}

static int on_adopted(struct server *s, struct peer *from, Wire__Msg *msg, void *arg)
{
    struct ask ask = {(uint64_t)(uintptr_t)arg, 0, 0};
    struct peer *launcher = peer_by_id(s, ask.peer);

    if (!launcher || !launcher->hello)
        return 0;
    ask.seq = launcher->hello->seq;
    launcher->role = ROLE_KNOWN; /* may ask again, or for something else */
    if (!msg)
        answer_error(s, &ask, ESRCH, "the tracer ended while it took the process over");
    else if (msg->body_case == WIRE__MSG__BODY_ERROR)
        answer_error(s, &ask, msg->error->code, "%s", msg->error->text);
    else {
        take_options(s, launcher->hello->launch->options);
        answer_ok(s, &ask);
    }
    wire__msg__free_unpacked(launcher->hello, NULL);
    launcher->hello = NULL;
    return 0;
}

static void hand_over(struct server *s, struct peer *launcher, struct peer *tracer)
{
    const Wire__Launch *launch = launcher->hello->launch;
    Wire__Msg msg = WIRE__MSG__INIT;
    Wire__Adopt adopt = WIRE__ADOPT__INIT;

    adopt.pid = launch->pid;
    adopt.attach = launch->attach;
    adopt.options = launch->options;
    msg.body_case = WIRE__MSG__BODY_ADOPT;
    msg.adopt = &adopt;
    launcher->deadline = 0;
    launcher->starting = HANDED_OVER;
    peer_request(s, tracer, &msg, on_adopted, (void *)(uintptr_t)launcher->id);
}

static int waits_for(const struct peer *p, const Wire__Host *host, uint32_t uid)
{
    return !p->dead && p->role == ROLE_LAUNCHER && p->hello && p->starting != HANDED_OVER &&
           same_host(peer_host(p), host) && peer_uid(p) == uid;
}

/* Nobody on this host is starting a tracer: tell one that waits to do it. */
static void next_starter(struct server *s, const Wire__Host *host, uint32_t uid)
{
    Wire__Msg msg = WIRE__MSG__INIT;
    Wire__StartTracer start = WIRE__START_TRACER__INIT;
    struct peer *next = NULL;
    struct ask ask;

    for (struct peer *p = s->peers; p; p = p->next) {
        if (!waits_for(p, host, uid))
            continue;
        if (p->starting && p->deadline)
            return;
        if (!next || p->starting < next->starting || (p->starting == next->starting && p->id < next->id))
            next = p;
    }
    if (!next)
        return;
    ask = (struct ask){next->id, next->hello->seq, 0};
    next->starting++;
    next->deadline = monotonic_ms() + START_MS;
    msg.body_case = WIRE__MSG__BODY_START_TRACER;
    msg.start_tracer = &start;
    answer(s, &ask, &msg);
}

static void give_up(struct server *s, struct peer *launcher)
{
    const struct ask ask = {launcher->id, launcher->hello->seq, 0};

    answer_error(s, &ask, ETIMEDOUT, "the tracer did not start in %d seconds", START_MS / 1000);
    launcher->role = ROLE_KNOWN;
    launcher->starting = 0;
}

void launch_turn_over(struct server *s, struct peer *launcher)
{
    if (launcher->role != ROLE_LAUNCHER || !launcher->hello)
        return;
    if (launcher->starting >= STARTS_MAX)
        give_up(s, launcher);
    next_starter(s, peer_host(launcher), peer_uid(launcher));
}

int on_launch(struct server *s, struct peer *p, Wire__Msg *msg)
{
    const struct ask ask = {p->id, msg->seq, 0};
    struct peer *tracer;

    if (s->quitting || !msg->launch->host || msg->launch->pid <= 0 ||
        (p->role == ROLE_LAUNCHER && p->hello)) {
        answer_error(s, &ask, s->quitting ? EBUSY : EINVAL,
                     s->quitting ? "the coordinator is ending" : "not a proper request to launch");
        return 0;
    }
    p->role = ROLE_KNOWN;
    s->had_worker = 1;
    if (defer(s, &ask,
              msg)) { /* a tree that comes in the middle would be missing in the images of its peers */
        return 1;
    }
    if (p->hello)
        wire__msg__free_unpacked(p->hello, NULL);
    p->hello = msg;
    p->role = ROLE_LAUNCHER;
    p->starting = 0;
    tracer = find_member(s, p, msg->launch->host, msg->launch->uid);
    if (!tracer)
        next_starter(s, msg->launch->host, msg->launch->uid);
    else if (tracer->role == ROLE_TRACER)
        hand_over(s, p, tracer);
    return 1; /* with a restarter there it waits until that has become a tracer */
}

static void adopt_waiting(struct server *s, struct peer *tracer)
{
    if (s->ck.state != CK_IDLE)
        return; /* launchers_resume() then */
    for (struct peer *p = s->peers; p; p = p->next)
        if (waits_for(p, peer_host(tracer), peer_uid(tracer)))
            hand_over(s, p, tracer);
}

void launchers_resume(struct server *s)
{
    for (struct peer *p = s->peers; p; p = p->next)
        if (p->role == ROLE_TRACER && !p->dead)
            adopt_waiting(s, p);
}

/* It becomes part of file names and of the restart script. */
static int good_computation(const char *id)
{
    size_t n = strlen(id);

    return n <= 128 && id[0] != '.' &&
           strspn(id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == n;
}

/* May it join? Sets the answer when not. */
static int may_join(struct server *s, struct peer *p, const Wire__Join *join, const struct ask *ask)
{
    struct peer *other;

    if (!join->host || !good_computation(join->computation) || join->generation >= INT32_MAX ||
        join->role > WIRE__JOIN__ROLE__RESTARTER ||
        (p->role == ROLE_RESTARTER && join->role != WIRE__JOIN__ROLE__TRACER)) {
        answer_error(s, ask, EINVAL, "not a proper request to join");
        return 0;
    }
    if (s->quitting) {
        answer_error(s, ask, EBUSY, "the coordinator is ending");
        return 0;
    }
    other = find_member(s, p, join->host, join->uid);
    if (other) {
        answer_error(s, ask, EEXIST,
                     "processes of this user on %s belong to this coordinator already (its %s has pid %d)",
                     member_hostname(other), other->role == ROLE_TRACER ? "tracer" : "restart",
                     other->hello->join->pid);
        return 0;
    }
    if (join->role == WIRE__JOIN__ROLE__RESTARTER && peers_count(s, ROLE_MEMBER) &&
        (!s->restart_hosts || strcmp(join->computation, s->computation) != 0 ||
         join->generation != s->generation)) {
        answer_error(s, ask, EBUSY, "the coordinator has a computation already (%s)", s->computation);
        return 0;
    }
    return 1;
}

static int hosts_expected(const Wire__Join *join)
{
    return join->hosts_expected ? (int)(join->hosts_expected & 0xffff) : 1;
}

/* The first restarter of a restart: the computation goes on from its generation. */
static int restart_begins(struct server *s, const Wire__Join *join)
{
    char *computation = join->computation[0] ? strdup(join->computation) : NULL;

    names_clear(s);
    barriers_fail(s, "a restart began");
    generations_free(s);
    if (computation) {
        free(s->computation);
        s->computation = computation;
    } else if (server_new_computation(s) < 0) {
        return -ENOMEM;
    }
    s->generation = join->generation;
    generation_continue(s, join->manifest);
    log_note("restarting computation %s from generation %u", s->computation, s->generation);
    return 0;
}

/* The first tracer: what this coordinator may have had before has ended, so this is another computation. */
static int launch_begins(struct server *s)
{
    if (s->generation == 0)
        return 0;
    generations_free(s); /* what it left on disk is not ours to remove any more */
    return server_new_computation(s);
}

static void joined(struct server *s, struct peer *p)
{
    const struct ask ask = {p->id, p->hello->seq, 0};
    Wire__Msg msg = WIRE__MSG__INIT;
    Wire__Joined j = WIRE__JOINED__INIT;

    j.computation = s->computation;
    j.generation = s->generation;
    j.interval = (uint32_t)s->interval;
    msg.body_case = WIRE__MSG__BODY_JOINED;
    msg.joined = &j;
    answer(s, &ask, &msg);
    log_note("%s on %s joined (pid %d, user %u)", p->role == ROLE_TRACER ? "tracer" : "restart",
             member_hostname(p), p->hello->join->pid, p->hello->join->uid);
}

static void members_changed(struct server *s)
{
    if (!peers_count(s, ROLE_RESTARTER))
        s->restart_hosts = 0;
    checkpoint_next(s);
}

int on_join(struct server *s, struct peer *p, Wire__Msg *msg)
{
    const struct ask ask = {p->id, msg->seq, 0};
    const Wire__Join *join = msg->join;
    int members = (int)peers_count(s, ROLE_MEMBER);

    if (!may_join(s, p, join, &ask))
        return 0;
    if (!members) {
        checkpoint_committed(s); /* of those who were here before: it is over before anything else begins */
        free(s->plugins);
        s->plugins = NULL;
        s->keep = s->config.keep;
    }
    if (join->role == WIRE__JOIN__ROLE__RESTARTER)
        take_options(s, join->options);
    if (!members &&
        (join->role == WIRE__JOIN__ROLE__RESTARTER ? restart_begins(s, join) : launch_begins(s)) < 0) {
        answer_error(s, &ask, ENOMEM, "out of memory");
        return 0;
    }
    if (p->hello)
        wire__msg__free_unpacked(p->hello, NULL);
    p->hello = msg;
    p->role = join->role == WIRE__JOIN__ROLE__TRACER ? ROLE_TRACER : ROLE_RESTARTER;
    s->had_worker = 1;
    if (p->role == ROLE_RESTARTER && s->restart_hosts < hosts_expected(join))
        s->restart_hosts = hosts_expected(join);
    joined(s, p);
    if (p->role == ROLE_TRACER) {
        adopt_waiting(s, p);
        members_changed(s);
    }
    return 1;
}

int on_leave(struct server *s, struct peer *p, Wire__Msg *msg)
{
    const struct ask ask = {p->id, msg->seq, 0};

    if (p->n_pending > 0 || s->ck.state != CK_IDLE) {
        answer_error(s, &ask, EBUSY, "stay: there is more to do");
        return 0;
    }
    answer_ok(s, &ask);
    log_note("tracer on %s left", member_hostname(p));
    p->role = ROLE_COMMAND; /* counts no longer; its end of file is nothing special */
    members_changed(s);
    return 0;
}

void member_gone(struct server *s, struct peer *p)
{
    if (p->role == ROLE_LAUNCHER && p->hello && p->starting > 0)
        next_starter(s, peer_host(p), peer_uid(p));
    if (!(p->role & ROLE_MEMBER))
        return;
    log_warn("%s on %s (pid %d) ended without a word", p->role == ROLE_TRACER ? "the tracer" : "the restart",
             member_hostname(p), p->hello->join->pid);
    barriers_fail(s, p->role == ROLE_RESTARTER ? "the restart on another host failed" : "a tracer ended");
    next_starter(s, peer_host(p), peer_uid(p)); /* launchers that came meanwhile */
    members_changed(s);
}
