/*
 * Making unix sockets. Those that came in pairs are made in pairs, by the process that made them; connections
 * that went through a listening socket in unixjoin.c; the rest one by one. Then come names, listening, and the
 * connections that nobody has accepted yet, in the order in which accept(2) is to give them.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "restorer/peercred.h"
#include "restorer/unix.h"

/* ---- pairs ---- */

/* A pair of sockets, or one whose other end was closed since; the second is then a stand-in. */
static bool is_pair(const struct runix *u)
{
    const Unix *m = u->m;
    bool named = m->name.len || m->peer_name.len;

    if (m->state != UNIX_CONNECTED)
        return false;
    if (m->socket->type == SOCK_DGRAM) /* connect(2) leaves no SO_PEERCRED there */
        return m->peer_cred && (m->peer_state == PEER_CLOSED || (u->peer && u->peer != u && u->peer->peer == u &&
                                                                 u->peer->m->peer_cred));
    return !named && (m->peer_state == PEER_CLOSED || m->peer_state == PEER_OBJECT);
}

static bool same_maker(const struct runix *a, const struct runix *b)
{
    const SockCred *x = a->m->peer_cred, *y = b->m->peer_cred;

    if (a->m->socket->type != b->m->socket->type || !x || !y)
        return a->m->socket->type == b->m->socket->type && !x && !y;
    return x->pid == y->pid && x->uid == y->uid && x->gid == y->gid;
}

static int by_maker(const void *a, const void *b)
{
    const struct runix *x = *(struct runix *const *)a, *y = *(struct runix *const *)b;
    int32_t p = x->m->peer_cred ? x->m->peer_cred->pid : 0, q = y->m->peer_cred ? y->m->peer_cred->pid : 0;

    if (x->m->socket->type != y->m->socket->type)
        return x->m->socket->type < y->m->socket->type ? -1 : 1;
    if (p != q)
        return p < q ? -1 : 1;
    return x->o->id < y->o->id ? -1 : x->o->id > y->o->id;
}

static void take_pair(struct runix *u, const int fds[2])
{
    u->fd = u->o->fd = fds[0];
    u->joined = true;
    if (u->m->peer_state == PEER_CLOSED) {
        u->temp = fds[1];
        return;
    }
    u->peer->fd = u->peer->o->fd = fds[1];
    u->peer->joined = true;
}

static int make_pairs(struct restore *r, struct runix **u, size_t n, struct err *err)
{
    _cleanup_free_ int *fds = malloc(2 * n * sizeof(*fds));
    struct cred_call c = {.what = CALL_PAIR, .who = u[0]->m->peer_cred, .type = (int)u[0]->m->socket->type,
                          .fds = fds, .n = n};

    if (!fds)
        return err_set(err, ENOMEM, "out of memory");
    if (cred_run(r, &c, err) < 0)
        return -err->code;
    for (size_t i = 0; i < n; i++) {
        take_pair(u[i], fds + 2 * i);
        if (socket_early(u[i]->fd, u[i]->m->socket, err) < 0 ||
            (u[i]->temp < 0 && socket_early(u[i]->peer->fd, u[i]->peer->m->socket, err) < 0))
            return -err->code;
    }
    return 0;
}

static int all_pairs(struct restore *r, struct rsockets *s, struct err *err)
{
    _cleanup_free_ struct runix **list = calloc(s->n_unixes + 1, sizeof(*list));
    size_t n = 0;

    if (!list)
        return err_set(err, ENOMEM, "out of memory");
    for (size_t i = 0; i < s->n_unixes; i++) {
        struct runix *u = s->unixes[i];
        if (is_pair(u) && (u->m->peer_state == PEER_CLOSED || u->o->id < u->peer->o->id))
            list[n++] = u;
    }
    qsort(list, n, sizeof(*list), by_maker);
    for (size_t i = 0, end; i < n; i = end) {
        for (end = i + 1; end < n && same_maker(list[i], list[end]);)
            end++;
        if (make_pairs(r, list + i, end - i, err) < 0)
            return -err->code;
    }
    return 0;
}

/* ---- the others ---- */

/* Those that have no name yet and are to have one. What unixjoin.c made has it already. */
static int name_all(struct restore *r, struct rsockets *s, struct err *err)
{
    _cleanup_free_ struct bind_job *jobs = calloc(s->n_unixes + 1, sizeof(*jobs));
    _cleanup_free_ struct runix **who = calloc(s->n_unixes + 1, sizeof(*who));
    size_t n = 0;

    if (!jobs || !who)
        return err_set(err, ENOMEM, "out of memory");
    for (size_t i = 0; i < s->n_unixes; i++) {
        struct runix *u = s->unixes[i];
        bool own = u->m->state != UNIX_CONNECTED || u->m->socket->type == SOCK_DGRAM;
        if (!u->m->name.len || (u->joined && u->m->socket->type != SOCK_DGRAM))
            continue;
        jobs[n] = (struct bind_job){.fd = u->fd, .name = &u->m->name, .file = own ? u->m->file : NULL};
        who[n++] = u;
    }
    if (unix_bind(r, jobs, n, err) < 0)
        return -err->code;
    for (size_t i = 0; i < n; i++)
        who[i]->node = jobs[i].node;
    return 0;
}

static int make_rest(struct rsockets *s, struct err *err)
{
    for (size_t i = 0; i < s->n_unixes; i++) {
        struct runix *u = s->unixes[i];
        if (u->fd >= 0)
            continue;
        u->fd = u->o->fd = socket_make(u->m->socket, err);
        if (u->fd < 0)
            return -err->code;
    }
    return 0;
}

static int listen_all(struct restore *r, struct rsockets *s, struct err *err)
{
    for (size_t i = 0; i < s->n_unixes; i++) {
        struct runix *u = s->unixes[i];
        struct cred_call c = {.what = CALL_LISTEN, .who = u->m->peer_cred, .backlog = (int)u->m->backlog,
                              .fds = &u->fd, .n = 1};
        if (u->m->state == UNIX_LISTENING && cred_run(r, &c, err) < 0)
            return -err->code;
    }
    return 0;
}

/*
 * Who called connect(2) is not to be had as long as the connection is not accepted; it is taken to be the
 * process that has the socket.
 */
static int connect_waiting(struct restore *r, struct runix *listener, struct runix *client, struct err *err)
{
    const Process *p = client->o->home->process;
    SockCred who = SOCK_CRED__INIT;
    struct cred_call c = {.what = CALL_CONNECT, .who = &who, .node = listener->node, .fds = &client->fd, .n = 1};

    who.pid = p->pid;
    who.uid = p->n_uids > 1 ? p->uids[1] : 0;
    who.gid = p->n_gids > 1 ? p->gids[1] : 0;
    c.to_len = unix_address(&listener->m->name, &c.to);
    if (client->joined || client->m->peer_state != PEER_WAITING)
        return err_set(err, EINVAL, "a connection that waits and does not");
    client->joined = true;
    return cred_run(r, &c, err);
}

static int connect_all_waiting(struct restore *r, struct rsockets *s, struct err *err)
{
    for (size_t i = 0; i < s->n_unixes; i++) {
        struct runix *u = s->unixes[i];
        for (size_t k = 0; u->m->state == UNIX_LISTENING && k < u->m->n_pending; k++) {
            struct runix *client = runix_find(r, u->m->pending[k]->client);
            if (!client || client->m->peer != u->m->id)
                return err_set(err, EINVAL, "a connection waits whose other end is not there");
            if (connect_waiting(r, u, client, err) < 0)
                return -err->code;
        }
    }
    return 0;
}

int unix_build(struct restore *r, struct rsockets *s, struct err *err)
{
    if (all_pairs(r, s, err) < 0 || unix_join(r, s, err) < 0 || make_rest(s, err) < 0 || name_all(r, s, err) < 0 ||
        listen_all(r, s, err) < 0)
        return -err->code;
    return connect_all_waiting(r, s, err);
}
