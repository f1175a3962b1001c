/* The table of kinds that a checkpoint can save. The first row whose probe says yes handles an fd. */
#include "tracer/ckpt.h"

extern const struct kind_ops aio_ops, epoll_ops, eventfd_ops, fanotify_ops, file_ops, inet_ops, inotify_ops,
    iouring_ops, mqueue_ops, netlink_ops, outside_ops, packet_ops, pidfd_ops, pipe_ops, plugin_ops, shm_ops, signalfd_ops, sysv_ops, timerfd_ops,
    tty_ops, unix_ops;

/* Plugins first, they may claim anything; then special things: file_ops takes all that has a path. */
const struct kind_ops *const tracer_kinds[] = {
    &plugin_ops,  &shm_ops,      &pipe_ops,     &eventfd_ops, &signalfd_ops, &timerfd_ops, &epoll_ops,
    &inotify_ops, &fanotify_ops, &iouring_ops, &aio_ops,      &mqueue_ops,  &pidfd_ops,
    &sysv_ops,    &tty_ops,      &unix_ops, &inet_ops,    &packet_ops,  &netlink_ops, &outside_ops,  &file_ops,    NULL,
};
