/*
 * timerfd_create(2). fdinfo alone is not enough: of an interval timer that has expired and was not read
 * since, it shows one expiration and no time left. timerfd_gettime(2) makes the kernel count and go on
 * (timerfd_fget in fs/timerfd.c), which changes nothing that the program could see, so it is asked first and
 * fdinfo read again.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/timerfd.h>
#include <time.h>

#include "base/util.h"
#include "image/timerfd.pb-c.h"
#include "tracer/ckpt.h"
#include "tracer/fdinfo.h"

static bool timerfd_probe(const struct fd_info *fi)
{
    return !strcmp(fi->link, "anon_inode:[timerfd]");
}

static uint64_t to_ns(const struct timespec *ts)
{
    return (uint64_t)ts->tv_sec * 1000000000 + (uint64_t)ts->tv_nsec;
}

static bool is_wall_clock(int clockid)
{
    return clockid == CLOCK_REALTIME || clockid == CLOCK_REALTIME_ALARM;
}

static int read_timer(const struct fd_info *fi, struct fdinfo_timer *t, struct itimerspec *left,
                      struct timespec *now, struct err *err)
{
    _cleanup_close_ int fd = ckpt_get_fd(fi->proc, fi->fd, err);
    _cleanup_free_ char *text = NULL;

    if (fd < 0)
        return fd;
    if (timerfd_gettime(fd, left) < 0)
        return err_errno(err, "timerfd_gettime(2)");
    clock_gettime(CLOCK_REALTIME, now);
    if (read_proc(&text, NULL, err, "%d/task/%d/fdinfo/%d", fi->proc->pid, ckpt_fd_task(fi->proc), fi->fd) <
        0)
        return -err->code;
    return fdinfo_timerfd(text, t, err);
}

static int timerfd_collect(struct ckpt *c, const struct fd_info *fi, struct object *o, struct err *err)
{
    Timerfd *m = arena_alloc(c->arena, sizeof(*m));
    struct fdinfo_timer t;
    struct itimerspec left;
    struct timespec now;

    if (!m)
        return err_set(err, ENOMEM, "out of memory");
    timerfd__init(m);
    o->msg = &m->base;
    m->id = o->id;
    if (read_timer(fi, &t, &left, &now, err) < 0)
        return -err->code;
    m->clockid = t.clockid;
    m->ticks = t.ticks;
    m->settime_flags = t.settime_flags;
    m->value_ns = to_ns(&left.it_value);
    m->interval_ns = to_ns(&left.it_interval);
    if (m->value_ns && is_wall_clock(t.clockid) && (t.settime_flags & TFD_TIMER_ABSTIME))
        m->expires_ns = to_ns(&now) + m->value_ns;
    return 0;
}

const struct kind_ops timerfd_ops = {
    .kind = KIND_TIMERFD,
    .per_description = true,
    .probe = timerfd_probe,
    .collect = timerfd_collect,
};
