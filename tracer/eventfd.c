/*
 * eventfd(2): a counter. fdinfo tells it, and since Linux 6.5 also whether it is a semaphore; before, that
 * can only be found out by reading.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>

#include "base/util.h"
#include "image/eventfd.pb-c.h"
#include "tracer/ckpt.h"
#include "tracer/eventfd.h"
#include "tracer/fdinfo.h"

static bool eventfd_probe(const struct fd_info *fi)
{
    return !strcmp(fi->link, "anon_inode:[eventfd]");
}

/*
 * A semaphore gives 1 of what it counts, others give all. A count above one is needed to tell; what was taken
 * is put back at once. This is one of the few windows in which a tracer's death would leave something
 * changed, and only on kernels that do not tell.
 */
int eventfd_is_semaphore(int fd, uint64_t count, bool *semaphore, struct err *err)
{
    uint64_t add = count >= 2 ? 0 : 2 - count, got, rest;

    if (add && write(fd, &add, sizeof(add)) != sizeof(add))
        return err_errno(err, "writing to it");
    if (read(fd, &got, sizeof(got)) != sizeof(got))
        return err_errno(err, "reading it");
    *semaphore = got == 1;
    /* A semaphore now counts one less than count + add, others nothing. */
    if (*semaphore) {
        for (uint64_t now = count + add - 1; now > count; now--)
            if (read(fd, &rest, sizeof(rest)) != sizeof(rest))
                return err_errno(err, "reading it");
        rest = count + add - 1 < count ? 1 : 0;
    } else {
        rest = count;
    }
    if (rest && write(fd, &rest, sizeof(rest)) != sizeof(rest))
        return err_errno(err, "writing to it");
    return 0;
}

static int ask_semaphore(const struct fd_info *fi, uint64_t count, bool *semaphore, struct err *err)
{
    _cleanup_close_ int fd = ckpt_get_fd(fi->proc, fi->fd, err);

    if (fd < 0)
        return fd;
    if (count >= UINT64_MAX - 3)
        return err_set(err, ENOTSUP,
                       "whether it is a semaphore cannot be told while its count is the highest");
    return eventfd_is_semaphore(fd, count, semaphore, err);
}

static int eventfd_collect(struct ckpt *c, const struct fd_info *fi, struct object *o, struct err *err)
{
    Eventfd *m = arena_alloc(c->arena, sizeof(*m));
    uint64_t semaphore = 0;
    bool is = false;

    if (!m)
        return err_set(err, ENOMEM, "out of memory");
    eventfd__init(m);
    o->msg = &m->base;
    m->id = o->id;
    if (fdinfo_number(fi->fdinfo, "eventfd-count", 16, &m->count, err) < 0)
        return -err->code;
    if (fdinfo_number(fi->fdinfo, "eventfd-semaphore", 10, &semaphore, err) == 0)
        is = semaphore != 0;
    else if (ask_semaphore(fi, m->count, &is, err) < 0)
        return -err->code;
    m->semaphore = is;
    return 0;
}

const struct kind_ops eventfd_ops = {
    .kind = KIND_EVENTFD,
    .per_description = true,
    .probe = eventfd_probe,
    .collect = eventfd_collect,
};
