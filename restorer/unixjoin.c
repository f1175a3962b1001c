/*
 * Connections of unix sockets that went through a listening socket: the accepted end has that one's name, and
 * each end knows who called listen(2) and connect(2). The listening socket may be long gone, or have been
 * listened to by somebody else since; so a temporary one is made for all connections that have name and
 * callers in common, before the real ones are.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "restorer/peercred.h"
#include "restorer/unix.h"

#define AT_ONCE 100u /* connections that wait to be accepted: below every system's net.core.somaxconn */

struct join {
    int type;
    const ProtobufCBinaryData *name;            /* of the accepted end */
    const SockCred *listener, *caller;          /* NULL: not known, nobody can ask */
    struct runix *client, *server;              /* NULL: closed since */
    const ProtobufCBinaryData *client_name;
};

static bool listens(const struct rsockets *s, const struct runix *u)
{
    for (size_t i = 0; i < s->n_unixes; i++) {
        const Unix *m = s->unixes[i]->m;
        if (m->state == UNIX_LISTENING && m->socket->type == u->m->socket->type && m->name.len == u->m->name.len &&
            !memcmp(m->name.data, u->m->name.data, m->name.len))
            return true;
    }
    return false;
}

/* Was u, of two ends of which at least one has a name, the accepted one? Both named: ask who listens. */
static bool is_server(const struct rsockets *s, const struct runix *u)
{
    if (!u->m->name.len || !u->m->peer_name.len)
        return u->m->name.len != 0;
    return u->peer && listens(s, u->peer) ? false : listens(s, u) || !u->peer || u->o->id > u->peer->o->id;
}

static struct join describe(const struct rsockets *s, struct runix *u)
{
    struct join j = {.type = (int)u->m->socket->type};

    if (is_server(s, u)) {
        j.server = u;
        j.client = u->peer;
    } else {
        j.client = u;
        j.server = u->peer;
    }
    j.name = j.server ? &j.server->m->name : &j.client->m->peer_name;
    j.client_name = j.client ? &j.client->m->name : &j.server->m->peer_name;
    j.listener = j.client ? j.client->m->peer_cred : NULL;
    j.caller = j.server ? j.server->m->peer_cred : NULL;
    return j;
}

static int compare_cred(const SockCred *a, const SockCred *b)
{
    if (!a || !b)
        return (a != NULL) - (b != NULL);
    if (a->pid != b->pid)
        return a->pid < b->pid ? -1 : 1;
    if (a->uid != b->uid)
        return a->uid < b->uid ? -1 : 1;
    return a->gid == b->gid ? 0 : a->gid < b->gid ? -1 : 1;
}

/* Same listening socket? */
static int compare_listener(const struct join *a, const struct join *b)
{
    int c;

    if (a->type != b->type)
        return a->type < b->type ? -1 : 1;
    if (a->name->len != b->name->len)
        return a->name->len < b->name->len ? -1 : 1;
    c = memcmp(a->name->data, b->name->data, a->name->len);
    return c ? c : compare_cred(a->listener, b->listener);
}

static int by_listener(const void *x, const void *y)
{
    const struct join *a = x, *b = y;
    int c = compare_listener(a, b);
    const struct runix *u = a->client ? a->client : a->server, *v = b->client ? b->client : b->server;

    c = c ? c : compare_cred(a->caller, b->caller);
    return c ? c : u->o->id < v->o->id ? -1 : u->o->id > v->o->id;
}

static int make_clients(struct restore *r, const struct join *j, size_t n, int *fds, struct err *err)
{
    struct bind_job jobs[AT_ONCE];
    size_t named = 0;

    for (size_t i = 0; i < n; i++) {
        fds[i] = j[i].client ? socket_make(j[i].client->m->socket, err)
                             : socket(AF_UNIX, j->type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fds[i] < 0)
            return j[i].client ? -err->code : err_errno(err, "a socket");
        if (j[i].client)
            j[i].client->fd = j[i].client->o->fd = fds[i];
        if (j[i].client_name->len)
            jobs[named++] = (struct bind_job){.fd = fds[i], .name = j[i].client_name};
    }
    if (unix_bind(r, jobs, named, err) < 0)
        return -err->code;
    for (size_t i = 0; i < named; i++)
        if (jobs[i].node >= 0)
            close(jobs[i].node);
    return 0;
}

static int accept_one(int listener, const struct join *j, int client, struct err *err)
{
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (fd < 0)
        return err_errno(err, "accept");
    if (j->client)
        j->client->joined = true;
    if (!j->client)
        j->server->temp = client;
    if (!j->server) {
        j->client->temp = fd;
        return 0;
    }
    j->server->fd = j->server->o->fd = fd;
    j->server->joined = true;
    return socket_early(fd, j->server->m->socket, err);
}

/* Connections of one listening socket with one caller, AT_ONCE of them at most. */
static int join_some(struct restore *r, struct cred_call *c, int listener, const struct join *j, size_t n,
                     struct err *err)
{
    int fds[AT_ONCE];

    if (make_clients(r, j, n, fds, err) < 0)
        return -err->code;
    c->who = j->caller;
    c->fds = fds;
    c->n = n;
    if (cred_run(r, c, err) < 0)
        return -err->code;
    for (size_t i = 0; i < n; i++)
        if (accept_one(listener, &j[i], fds[i], err) < 0)
            return -err->code;
    return 0;
}

static int join_group(struct restore *r, const struct join *j, size_t n, struct err *err)
{
    _cleanup_close_ int listener = socket(AF_UNIX, j->type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    struct bind_job job = {.fd = listener, .name = j->name};
    struct cred_call listening = {.what = CALL_LISTEN, .who = j->listener, .backlog = 4096, .fds = &listener, .n = 1};
    struct cred_call c = {.what = CALL_CONNECT};
    _cleanup_close_ int node = -1;

    if (listener < 0)
        return err_errno(err, "a socket");
    if (unix_bind(r, &job, 1, err) < 0 || cred_run(r, &listening, err) < 0)
        return -err->code;
    c.node = node = job.node;
    c.to_len = unix_address(j->name, &c.to);
    for (size_t i = 0, end; i < n; i = end) {
        for (end = i + 1; end < n && end - i < AT_ONCE && !compare_cred(j[i].caller, j[end].caller);)
            end++;
        if (join_some(r, &c, listener, j + i, end - i, err) < 0)
            return -err->code;
    }
    return 0;
}

static bool wanted(const struct runix *u)
{
    if (u->joined || u->m->state != UNIX_CONNECTED || u->m->socket->type == SOCK_DGRAM)
        return false;
    return u->m->peer_state == PEER_CLOSED || (u->m->peer_state == PEER_OBJECT && u->o->id < u->peer->o->id);
}

int unix_join(struct restore *r, struct rsockets *s, struct err *err)
{
    _cleanup_free_ struct join *list = calloc(s->n_unixes + 1, sizeof(*list));
    size_t n = 0;

    if (!list)
        return err_set(err, ENOMEM, "out of memory");
    for (size_t i = 0; i < s->n_unixes; i++)
        if (wanted(s->unixes[i])) {
            list[n] = describe(s, s->unixes[i]);
            if (!list[n++].name->len)
                return err_set(err, EINVAL, "a connection through a listening socket that had no name");
        }
    qsort(list, n, sizeof(*list), by_listener);
    for (size_t i = 0, end; i < n; i = end) {
        for (end = i + 1; end < n && !compare_listener(&list[i], &list[end]);)
            end++;
        if (join_group(r, list + i, end - i, err) < 0)
            return -err->code;
    }
    return 0;
}
