/*
 * The table of kinds: the one place besides its own files that a new kind of record touches.
 * A kind whose message is not here yet can be written and listed, but dmtcp_inspect shows its size only.
 */
#include "image/kinds.h"

#include "base/util.h"
#include "image/aio.pb-c.h"
#include "image/epoll.pb-c.h"
#include "image/eventfd.pb-c.h"
#include "image/fanotify.pb-c.h"
#include "image/fd.pb-c.h"
#include "image/file.pb-c.h"
#include "image/image.pb-c.h"
#include "image/inet.pb-c.h"
#include "image/inotify.pb-c.h"
#include "image/iouring.pb-c.h"
#include "image/mm.pb-c.h"
#include "image/mqueue.pb-c.h"
#include "image/netlink.pb-c.h"
#include "image/outside.pb-c.h"
#include "image/packet.pb-c.h"
#include "image/pidfd.pb-c.h"
#include "image/pipe.pb-c.h"
#include "image/plugin.pb-c.h"
#include "image/process.pb-c.h"
#include "image/shm.pb-c.h"
#include "image/signal.pb-c.h"
#include "image/signalfd.pb-c.h"
#include "image/sysv.pb-c.h"
#include "image/thread.pb-c.h"
#include "image/timer.pb-c.h"
#include "image/timerfd.pb-c.h"
#include "image/tty.pb-c.h"
#include "image/unix.pb-c.h"

static const struct {
    const char *name;
    const ProtobufCMessageDescriptor *message;
} kinds[KIND_MAX] = {
    [KIND_HEAD] = {"head", &image_head__descriptor},
    [KIND_PROCESS] = {"process", &process__descriptor},
    [KIND_THREAD] = {"thread", &thread__descriptor},
    [KIND_SIGNAL] = {"signal", &signals__descriptor},
    [KIND_TIMER] = {"timer", &timers__descriptor},
    [KIND_MM] = {"mm", &mm__descriptor},
    [KIND_FDTABLE] = {"fdtable", &fd_table__descriptor},
    [KIND_OFD] = {"ofd", &ofd__descriptor},
    [KIND_FILE] = {"file", &file__descriptor},
    [KIND_PIPE] = {"pipe", &pipe__descriptor},
    [KIND_EVENTFD] = {"eventfd", &eventfd__descriptor},
    [KIND_SIGNALFD] = {"signalfd", &signalfd__descriptor},
    [KIND_TIMERFD] = {"timerfd", &timerfd__descriptor},
    [KIND_EPOLL] = {"epoll", &epoll__descriptor},
    [KIND_INOTIFY] = {"inotify", &inotify__descriptor},
    [KIND_FANOTIFY] = {"fanotify", &fanotify__descriptor},
    [KIND_PIDFD] = {"pidfd", &pidfd__descriptor},
    [KIND_TTY] = {"tty", &tty__descriptor},
    [KIND_MEMFD] = {"memfd", NULL},
    [KIND_SHM] = {"shm", &shm__descriptor},
    [KIND_UNIX] = {"unix", &unix__descriptor},
    [KIND_INET] = {"inet", &inet__descriptor},
    [KIND_PACKET] = {"packet", &packet__descriptor},
    [KIND_NETLINK] = {"netlink", &netlink__descriptor},
    [KIND_SYSV] = {"sysv", &sysv__descriptor},
    [KIND_MQUEUE] = {"mqueue", &mqueue__descriptor},
    [KIND_IOURING] = {"iouring", &iouring__descriptor},
    [KIND_AIO] = {"aio", &aio__descriptor},
    [KIND_NSFD] = {"nsfd", NULL},
    [KIND_USERFAULT] = {"userfault", NULL},
    [KIND_OUTSIDE] = {"outside", &outside__descriptor},
    [KIND_PLUGIN] = {"plugin", &plugin__descriptor},
};

bool kind_known(uint32_t kind)
{
    return kind < KIND_MAX && kinds[kind].name;
}

const char *kind_name(uint32_t kind)
{
    return kind_known(kind) ? kinds[kind].name : "unknown";
}

const ProtobufCMessageDescriptor *kind_message(uint32_t kind)
{
    return kind < KIND_MAX ? kinds[kind].message : NULL;
}
