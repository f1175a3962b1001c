/* What led out of the tree: dmtcp_restart's own standard streams stand in. */
#include <errno.h>
#include <fcntl.h>

#include "image/outside.pb-c.h"
#include "restorer/restore.h"

static const Outside *outside_of(const struct robject *o)
{
    return (const Outside *)o->msg;
}

static int outside_prepare(struct restore *r, struct robject *o, struct err *err)
{
    (void)r;
    if (outside_of(o)->stream > 2)
        return err_set(err, EINVAL, "standard stream %u does not exist", outside_of(o)->stream);
    return 0;
}

/* A stream that dmtcp_restart itself was started without is one that leads nowhere. */
static int stand_in(const struct restore *r, uint32_t stream)
{
    int fd = r->options.stdio[stream];

    return fd >= 0 ? fcntl(fd, F_DUPFD_CLOEXEC, 0) : open("/dev/null", O_RDWR | O_CLOEXEC);
}

/* Not waiting is all that is asked of a description that is not ours alone. */
static int outside_open(struct restore *r, struct robject *o, struct rofd *d, int *fd, struct err *err)
{
    int flags;

    *fd = stand_in(r, outside_of(o)->stream);
    if (*fd < 0)
        return err_errno(err, "standard stream %u", outside_of(o)->stream);
    flags = fcntl(*fd, F_GETFL);
    if (flags >= 0 && ((uint32_t)flags ^ d->msg->flags) & O_NONBLOCK)
        fcntl(*fd, F_SETFL, flags ^ O_NONBLOCK);
    return 0;
}

/* One thing that was several standard streams: each is dmtcp_restart's of that number, which may be different
 * things. */
static int outside_pick(struct restore *r, struct rofd *d, uint32_t number)
{
    const Outside *m = outside_of(d->object);

    return number <= 2 && number != m->stream && (m->streams & 1u << number) ? r->options.stdio[number] : -1;
}

const struct rebuild_ops outside_ops = {
    .kind = KIND_OUTSIDE,
    .descriptor = &outside__descriptor,
    .borrowed = true,
    .prepare = outside_prepare,
    .open = outside_open,
    .pick = outside_pick,
};
