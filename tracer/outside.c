/*
 * Standard streams that lead out of the tree: at a restart dmtcp_restart's own stand in. Which pipes lead
 * outside is found out by pipe.c; a socket on a standard stream of a launched process is one that its starter
 * made.
 */
#include "tracer/outside.h"

#include <errno.h>
#include <string.h>

#include "image/outside.pb-c.h"

static bool outside_probe(const struct fd_info *fi)
{
    return S_ISSOCK(fi->st.st_mode) && fi->stream >= 0;
}

static Outside *new_outside(struct ckpt *c, struct object *o, uint32_t type, int stream, uint32_t streams)
{
    Outside *m = arena_alloc(c->arena, sizeof(*m));

    if (!m)
        return NULL;
    outside__init(m);
    m->id = o->id;
    m->type = type;
    m->stream = (uint32_t)stream;
    m->streams = streams;
    m->dev = o->dev;
    m->ino = o->ino;
    return m;
}

static int outside_collect(struct ckpt *c, const struct fd_info *fi, struct object *o, struct err *err)
{
    Outside *m = new_outside(c, o, OUTSIDE_SOCKET, fi->stream, fi->streams);

    if (!m)
        return err_set(err, ENOMEM, "out of memory");
    m->path = arena_text(c->arena, fi->link);
    o->msg = &m->base;
    return 0;
}

int outside_become(struct ckpt *c, struct object *o, uint32_t type, int stream, uint32_t streams,
                   struct err *err)
{
    Outside *m = new_outside(c, o, type, stream, streams);

    if (!m)
        return err_set(err, ENOMEM, "out of memory");
    o->ops = &outside_ops;
    o->msg = &m->base;
    for (struct ofd *d = c->ofds; d; d = d->next)
        if (d->object == o)
            d->msg->kind = KIND_OUTSIDE;
    return 0;
}

const struct kind_ops outside_ops = {
    .kind = KIND_OUTSIDE,
    .probe = outside_probe,
    .collect = outside_collect,
};
