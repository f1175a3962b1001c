/* The table of kinds that a restart can rebuild. */
#include "restorer/restore.h"

extern const struct rebuild_ops aio_ops, epoll_ops, eventfd_ops, fanotify_ops, file_ops, inet_ops, inotify_ops,
    iouring_ops, mqueue_ops, netlink_ops, outside_ops, packet_ops, pidfd_ops, pipe_ops, plugin_ops, shm_ops, signalfd_ops, sysv_ops, timerfd_ops,
    tty_ops, unix_ops;

const struct rebuild_ops *const restorer_kinds[] = {
    &plugin_ops,  &file_ops,     &pipe_ops,     &eventfd_ops, &signalfd_ops, &timerfd_ops, &epoll_ops,
    &inotify_ops, &fanotify_ops, &iouring_ops, &aio_ops,      &mqueue_ops,  &pidfd_ops,
    &tty_ops,     &shm_ops,      &sysv_ops,    &unix_ops, &inet_ops,    &packet_ops,   &netlink_ops, &outside_ops,  NULL,
};
