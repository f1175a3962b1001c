/*
 * Which request of whom goes where: one table. A request that its sender's role may not make is answered with
 * an error; what is no request at all is ignored (a newer client may say more than we know). Also here: what
 * must wait while a checkpoint is going on.
 */
#include <errno.h>

#include "base/log.h"
#include "base/util.h"
#include "coordinator/server.h"

static const struct {
    Wire__Msg__BodyCase body;
    unsigned roles;
    int (*handle)(struct server *s, struct peer *p, Wire__Msg *msg);
    const char *name;
} table[] = {
    {WIRE__MSG__BODY_JOIN, ROLE_KNOWN | ROLE_RESTARTER, on_join, "Join"},
    {WIRE__MSG__BODY_LEAVE, ROLE_MEMBER, on_leave, "Leave"},
    {WIRE__MSG__BODY_PUBLISH, ROLE_MEMBER, on_publish, "Publish"},
    {WIRE__MSG__BODY_QUERY, ROLE_MEMBER, on_query, "Query"},
    {WIRE__MSG__BODY_BARRIER, ROLE_MEMBER, on_barrier, "Barrier"},
    {WIRE__MSG__BODY_LAUNCH, ROLE_KNOWN | ROLE_LAUNCHER, on_launch, "Launch"},
    {WIRE__MSG__BODY_COMMAND, ROLE_KNOWN | ROLE_COMMAND | ROLE_LAUNCHER, on_command, "Command"},
};

void dispatch(struct server *s, struct peer *p, Wire__Msg *msg)
{
    const struct ask ask = {p->id, msg->seq, 0};
    int kept = 0;
    size_t i;

    for (i = 0; i < ARRAY_SIZE(table); i++)
        if (table[i].body == msg->body_case)
            break;
    if (i == ARRAY_SIZE(table))
        answer_error(s, &ask, ENOSYS, "the coordinator does not know this request (%d)", (int)msg->body_case);
    else if (!(table[i].roles & p->role))
        answer_error(s, &ask, EPERM, "%s is not for this kind of client", table[i].name);
    else
        kept = table[i].handle(s, p, msg);
    if (!kept)
        wire__msg__free_unpacked(msg, NULL);
}

int defer(struct server *s, const struct ask *ask, Wire__Msg *msg)
{
    struct deferred *deferred;

    if (s->ck.state == CK_IDLE)
        return 0;
    deferred = grow(s->deferred, s->n_deferred, &s->cap_deferred, sizeof(*deferred));
    if (!deferred) {
        answer_error(s, ask, ENOMEM, "out of memory");
        return 0;
    }
    s->deferred = deferred;
    deferred[s->n_deferred++] = (struct deferred){*ask, msg};
    return 1;
}

void deferred_run(struct server *s)
{
    struct deferred *list = s->deferred;
    size_t n = s->n_deferred;

    s->deferred = NULL;
    s->n_deferred = s->cap_deferred = 0;
    for (size_t i = 0; i < n; i++) {
        struct peer *p = peer_by_id(s, list[i].ask.peer);
        if (p)
            dispatch(s, p, list[i].msg);
        else
            wire__msg__free_unpacked(list[i].msg, NULL);
    }
    free(list);
}
