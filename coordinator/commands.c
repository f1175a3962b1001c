/*
 * What dmtcp_command and the console ask for. What only tracers know is gathered (gather.h): the request goes
 * to all of them, and when all have answered (or are gone) one answer is made of theirs.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/util.h"
#include "coordinator/gather.h"
#include "coordinator/port_file.h"
#include "coordinator/server.h"

#define QUIT_MS       10000 /* for the tracers to go after all is killed */
#define STATUS_MS     1000  /* then the status is what was known before */
#define LIST_MS       10000
#define KILL_MS       10000
#define DETACH_MS     30000
#define BACKTRACES_MS 60000 /* from one piece of text to the next */

static void finish_plain(struct server *s, struct gather *g)
{
    if (g->failure.code)
        answer_error(s, &g->ask, g->failure.code, "%s", g->failure.msg);
    else
        answer_ok(s, &g->ask);
}

static void fill_status(struct server *s, Wire__Status *status)
{
    struct generation *last = s->n_history ? &s->history[s->n_history - 1] : NULL;

    status->computation = s->computation;
    status->generation = s->generation;
    status->interval = (uint32_t)s->interval;
    status->tracers = (uint32_t)peers_count(s, ROLE_TRACER);
    for (const struct peer *p = s->peers; p; p = p->next)
        if (p->role == ROLE_TRACER && !p->dead)
            status->processes += p->processes;
    status->restarting = restarting(s);
    status->phase = s->ck.phase;
    status->running = status->tracers > 0 && s->ck.state == CK_IDLE && !status->restarting;
    status->hostname = s->hostname;
    status->port = (uint32_t)s->port;
    status->pid = getpid();
    status->ckptdir = s->config.options->ckptdir;
    status->manifest = last && last->manifest->generation == s->generation ? last->path : (char *)"";
    status->last_time = s->last_time;
    status->last_bytes = s->last_bytes;
    status->last_ns = s->last_ns;
    status->last_frozen_ns = s->last_frozen_ns;
    status->last_error = s->last_error;
    status->exit_on_last = s->config.exit_on_last;
}

static void finish_status(struct server *s, struct gather *g)
{
    Wire__Msg msg = WIRE__MSG__INIT;
    Wire__Status status = WIRE__STATUS__INIT;

    for (size_t i = 0; i < g->n; i++) {
        struct peer *p = peer_by_id(s, g->from[i]);
        const Wire__Processes *some = g->answers[i]->processes;
        if (p && g->answers[i]->body_case == WIRE__MSG__BODY_PROCESSES)
            p->processes = some->count ? some->count : (uint32_t)some->n_process;
    }
    fill_status(s, &status);
    msg.body_case = WIRE__MSG__BODY_STATUS;
    msg.status = &status;
    answer(s, &g->ask, &msg);
}

static void ask_processes(struct server *s, const struct ask *ask, int count_only, gather_fn finish)
{
    Wire__Msg msg = WIRE__MSG__INIT;
    Wire__ListProcesses list = WIRE__LIST_PROCESSES__INIT;

    list.count_only = count_only;
    msg.body_case = WIRE__MSG__BODY_LIST_PROCESSES;
    msg.list_processes = &list;
    gather(s, ask, &msg, NULL, count_only ? STATUS_MS : LIST_MS, finish);
}

static void run_status(struct server *s, const struct ask *ask)
{
    struct gather known = {.ask = *ask};

    if (s->ck.state == CK_IDLE) /* tracers have time for us */
        ask_processes(s, ask, 1, finish_status);
    else
        finish_status(s, &known);
}

static void finish_list(struct server *s, struct gather *g)
{
    Wire__Msg msg = WIRE__MSG__INIT;
    Wire__Processes all = WIRE__PROCESSES__INIT;
    _cleanup_free_ Wire__Process *copy = NULL;
    _cleanup_free_ Wire__Process **list = NULL;
    size_t n = 0;

    if (g->failure.code) {
        finish_plain(s, g);
        return;
    }
    for (size_t i = 0; i < g->n; i++)
        if (g->answers[i]->body_case == WIRE__MSG__BODY_PROCESSES)
            n += g->answers[i]->processes->n_process;
    copy = calloc(n + 1, sizeof(*copy));
    list = calloc(n + 1, sizeof(*list));
    for (size_t i = 0; copy && list && i < g->n; i++) {
        const Wire__Processes *some = g->answers[i]->processes;
        struct peer *p = peer_by_id(s, g->from[i]);
        if (g->answers[i]->body_case != WIRE__MSG__BODY_PROCESSES || !p || !p->hello)
            continue;
        for (size_t j = 0; j < some->n_process; j++, all.n_process++) {
            copy[all.n_process] = *some->process[j]; /* its strings stay the message's */
            copy[all.n_process].host = (char *)member_hostname(p);
            copy[all.n_process].tracer = p->hello->join->pid;
            list[all.n_process] = &copy[all.n_process];
        }
    }
    all.count = (uint32_t)all.n_process;
    all.process = list;
    msg.body_case = WIRE__MSG__BODY_PROCESSES;
    msg.processes = &all;
    answer(s, &g->ask, &msg);
}

static void run_backtraces(struct server *s, const struct ask *ask, int pid)
{
    Wire__Msg msg = WIRE__MSG__INIT;
    Wire__Backtraces bt = WIRE__BACKTRACES__INIT;

    bt.pid = pid;
    msg.body_case = WIRE__MSG__BODY_BACKTRACES;
    msg.backtraces = &bt;
    gather(s, ask, &msg, NULL, BACKTRACES_MS, finish_plain);
}

static void run_detach(struct server *s, const struct ask *ask, const Wire__Command *command)
{
    Wire__Msg msg = WIRE__MSG__INIT;
    Wire__Detach detach = WIRE__DETACH__INIT;
    struct peer *tracer = NULL;

    for (struct peer *p = s->peers; p; p = p->next)
        if (p->role == ROLE_TRACER && !p->dead && same_host(peer_host(p), command->host))
            tracer = p;
    if (!tracer) {
        answer_error(s, ask, ESRCH, "pid %d: no process on this host belongs to the computation",
                     command->pid);
        return;
    }
    detach.pid = command->pid;
    msg.body_case = WIRE__MSG__BODY_DETACH;
    msg.detach = &detach;
    gather(s, ask, &msg, tracer, DETACH_MS, finish_plain);
}

static void run_kill(struct server *s, const struct ask *ask, gather_fn finish)
{
    Wire__Msg msg = WIRE__MSG__INIT;
    Wire__Kill kill_msg = WIRE__KILL__INIT;

    checkpoint_cancel(s, "the computation was killed");
    barriers_fail(s, "the computation was killed");
    for (struct peer *p = s->peers; p; p = p->next)
        if (p->role == ROLE_RESTARTER)
            p->broken = 1; /* it undoes what it has made so far when we are gone */
    msg.body_case = WIRE__MSG__BODY_KILL;
    msg.kill = &kill_msg;
    gather(s, ask, &msg, NULL, KILL_MS, finish);
}

/* Everything is dead; the tracers go now, and check_last() ends the loop when they have. */
static void finish_quit(struct server *s, struct gather *g)
{
    (void)g;
    server_stop_listening(s);
}

void quit(struct server *s, const struct ask *ask, int kill)
{
    if (s->quitting && ask->seq == 0) { /* the second ^C: at once */
        s->done = 1;
        return;
    }
    s->quit_ask = *ask;
    if (!kill) {
        s->done = 1;
        return;
    }
    s->quit_at = monotonic_ms() + QUIT_MS;
    s->quitting = 1;
    run_kill(s, ask, finish_quit);
}

static void run_interval(struct server *s, const struct ask *ask, const Wire__Command *command)
{
    s->interval = (int)(command->interval > INT32_MAX ? INT32_MAX : command->interval);
    s->interval_at = 0; /* check_last() sets it anew */
    answer_ok(s, ask);
    status_file_write(s);
}

static void run_force(struct server *s, const struct ask *ask)
{
    size_t here = peers_count(s, ROLE_RESTARTER);

    if (!here) {
        answer_error(s, ask, EINVAL, "no restart is going on");
        return;
    }
    s->restart_hosts = (int)here;
    barriers_check(s);
    answer_ok(s, ask);
}

void command_run(struct server *s, const struct ask *ask, const Wire__Command *command)
{
    switch (command->op) {
    case WIRE__COMMAND__OP__STATUS:
        run_status(s, ask);
        break;
    case WIRE__COMMAND__OP__LIST:
        ask_processes(s, ask, 0, finish_list);
        break;
    case WIRE__COMMAND__OP__CHECKPOINT:
    case WIRE__COMMAND__OP__KCHECKPOINT:
        checkpoint_request(s, ask, command->op == WIRE__COMMAND__OP__KCHECKPOINT, command->wait);
        break;
    case WIRE__COMMAND__OP__INTERVAL:
        run_interval(s, ask, command);
        break;
    case WIRE__COMMAND__OP__KILL:
        run_kill(s, ask, finish_plain);
        break;
    case WIRE__COMMAND__OP__QUIT:
        quit(s, ask, 1);
        break;
    case WIRE__COMMAND__OP__DETACH:
        run_detach(s, ask, command);
        break;
    case WIRE__COMMAND__OP__BACKTRACES:
        run_backtraces(s, ask, command->pid);
        break;
    case WIRE__COMMAND__OP__FORCE_RESTART:
        run_force(s, ask);
        break;
    default:
        answer_error(s, ask, ENOSYS, "the coordinator does not know this command (%d)", (int)command->op);
        break;
    }
}

/* These need the tracers' attention, which they do not have while a checkpoint is going on. */
static int waits_for_checkpoint(const Wire__Command *command)
{
    return command->op == WIRE__COMMAND__OP__LIST || command->op == WIRE__COMMAND__OP__DETACH ||
           command->op == WIRE__COMMAND__OP__BACKTRACES;
}

int on_command(struct server *s, struct peer *p, Wire__Msg *msg)
{
    const struct ask ask = {p->id, msg->seq, msg->command->want_progress};

    p->role = p->role == ROLE_KNOWN ? ROLE_COMMAND : p->role;
    if (waits_for_checkpoint(msg->command) && defer(s, &ask, msg))
        return 1;
    command_run(s, &ask, msg->command);
    return 0;
}

void status_file_write(struct server *s)
{
    Wire__Status status = WIRE__STATUS__INIT;
    _cleanup_free_ char *text = NULL;
    struct err err = {0};

    if (!s->config.status_file)
        return;
    fill_status(s, &status);
    text = format("Coordinator:\n  Host: %s\n  Port: %d\n  PID: %d\n  Computation: %s\n  Generation: %u\n"
                  "  Checkpoint interval: %d\n  Checkpoint directory: %s\n  Exit on last: %d\n",
                  s->hostname, s->port, (int)getpid(), s->computation, s->generation, s->interval,
                  status.ckptdir, s->config.exit_on_last);
    if (!text || whole_file_write(s->config.status_file, text, 0644, &err) < 0)
        log_warn("--status-file: %s", text ? err.msg : "out of memory");
}
