/* signalfd(2): whose signals it shows is decided by who reads it, so it can be made here. */
#include <errno.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "image/signalfd.pb-c.h"
#include "restorer/restore.h"

static int signalfd_open(struct restore *r, struct robject *o, struct rofd *d, int *fd, struct err *err)
{
    const Signalfd *m = (const Signalfd *)o->msg;
    uint64_t mask = m->mask;

    (void)r;
    (void)d;
    /* The kernel's mask has 64 signals; glibc's sigset_t is longer. */
    *fd = (int)syscall(SYS_signalfd4, -1, &mask, sizeof(mask), O_CLOEXEC);
    return *fd < 0 ? err_errno(err, "signalfd") : 0;
}

const struct rebuild_ops signalfd_ops = {
    .kind = KIND_SIGNALFD,
    .descriptor = &signalfd__descriptor,
    .open = signalfd_open,
};
