/* signalfd(2): only its mask; the signals are the process's own. */
#include <errno.h>
#include <string.h>

#include "image/signalfd.pb-c.h"
#include "tracer/ckpt.h"
#include "tracer/fdinfo.h"

static bool signalfd_probe(const struct fd_info *fi)
{
    return !strcmp(fi->link, "anon_inode:[signalfd]");
}

static int signalfd_collect(struct ckpt *c, const struct fd_info *fi, struct object *o, struct err *err)
{
    Signalfd *m = arena_alloc(c->arena, sizeof(*m));

    if (!m)
        return err_set(err, ENOMEM, "out of memory");
    signalfd__init(m);
    o->msg = &m->base;
    m->id = o->id;
    return fdinfo_number(fi->fdinfo, "sigmask", 16, &m->mask, err);
}

const struct kind_ops signalfd_ops = {
    .kind = KIND_SIGNALFD,
    .per_description = true,
    .probe = signalfd_probe,
    .collect = signalfd_collect,
};
