/*
 * timerfd_create(2): made disarmed, armed last with the time that was left. A timer set to a time of the day
 * goes off at that time, at once if it has passed meanwhile.
 */
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/timerfd.h>
#include <time.h>

#include "image/timerfd.pb-c.h"
#include "restorer/restore.h"

#define SET_TICKS _IOW('T', 0, uint64_t) /* TFD_IOC_SET_TICKS; needs CONFIG_CHECKPOINT_RESTORE */

static struct timespec from_ns(uint64_t ns)
{
    return (struct timespec){(time_t)(ns / 1000000000), (long)(ns % 1000000000)};
}

static int timerfd_open(struct restore *r, struct robject *o, struct rofd *d, int *fd, struct err *err)
{
    const Timerfd *m = (const Timerfd *)o->msg;

    (void)r;
    (void)d;
    *fd = timerfd_create(m->clockid, TFD_CLOEXEC);
    return *fd < 0 ? err_errno(err, "a timer of clock %d", m->clockid) : 0;
}

static int arm(const Timerfd *m, int fd, struct err *err)
{
    struct itimerspec t = {.it_value = from_ns(m->expires_ns ? m->expires_ns : m->value_ns),
                           .it_interval = from_ns(m->interval_ns)};
    int flags = m->expires_ns ? (int)(m->settime_flags & (TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET)) : 0;
    uint64_t ticks = m->ticks;

    if ((m->value_ns || m->interval_ns) && timerfd_settime(fd, flags, &t, NULL) < 0)
        return err_errno(err, "setting it");
    if (ticks && ioctl(fd, SET_TICKS, &ticks) < 0)
        return err_errno(err, "the %llu expirations that were not read yet", (unsigned long long)ticks);
    return 0;
}

static int timerfd_arm(struct restore *r, struct robject *o, struct err *err)
{
    for (struct rofd *d = r->ofds; d; d = d->next)
        if (d->object == o && d->fd >= 0 && arm((const Timerfd *)o->msg, d->fd, err) < 0)
            return -err->code;
    return 0;
}

const struct rebuild_ops timerfd_ops = {
    .kind = KIND_TIMERFD,
    .descriptor = &timerfd__descriptor,
    .open = timerfd_open,
    .arm = timerfd_arm,
};
