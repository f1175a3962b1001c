/* eventfd(2): made with its count; what does not fit into the call's 32 bits is added. */
#include <errno.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "image/eventfd.pb-c.h"
#include "restorer/restore.h"

static int eventfd_open(struct restore *r, struct robject *o, struct rofd *d, int *fd, struct err *err)
{
    const Eventfd *m = (const Eventfd *)o->msg;
    uint64_t rest = m->count > UINT32_MAX ? m->count - UINT32_MAX : 0;

    (void)r;
    (void)d;
    *fd =
        eventfd((unsigned)(m->count - rest), EFD_CLOEXEC | EFD_NONBLOCK | (m->semaphore ? EFD_SEMAPHORE : 0));
    if (*fd < 0)
        return err_errno(err, "eventfd");
    if (rest && write(*fd, &rest, sizeof(rest)) != sizeof(rest))
        return err_errno(err, "its count of %llu", (unsigned long long)m->count);
    return 0;
}

const struct rebuild_ops eventfd_ops = {
    .kind = KIND_EVENTFD,
    .descriptor = &eventfd__descriptor,
    .open = eventfd_open,
};
