/* See single.h. */
#include "tracer/single.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/util.h"
#include "tracer/skbqueue.h"

#define MOST (256u << 10)
#define OVERHEAD                                                                                             \
    512u /* a message takes more than this in addition to its bytes: SKB_TRUESIZE(0) is 576 at least */

#ifndef SO_MEMINFO
#define SO_MEMINFO 55
#endif

/* SK_MEMINFO_RMEM_ALLOC is the first. */
static int bytes_taken(int fd, uint32_t *bytes, struct err *err)
{
    uint32_t info[16] = {0};
    socklen_t n = sizeof(info);

    if (getsockopt(fd, SOL_SOCKET, SO_MEMINFO, info, &n) < 0)
        return err_errno(err, "SO_MEMINFO");
    *bytes = info[0];
    return 0;
}

int peek_single(int fd, const char *what, int (*each)(void *arg, struct peeked *p, struct err *err),
                void *arg, struct err *err)
{
    _cleanup_free_ uint8_t *buffer = malloc(MOST);
    struct peeked p = {.data = buffer};
    struct iovec iov = {buffer, MOST};
    struct msghdr m = {.msg_name = &p.from, .msg_namelen = sizeof(p.from), .msg_iov = &iov, .msg_iovlen = 1};
    struct err why = {0};
    uint32_t taken = 0;
    ssize_t n;

    if (!buffer)
        return err_set(err, ENOMEM, "out of memory");
    n = recvmsg(fd, &m, MSG_PEEK | MSG_DONTWAIT);
    if (n < 0)
        return errno == EAGAIN ? 0 : err_errno(err, "reading what waits in the socket");
    if (bytes_taken(fd, &taken, err) < 0)
        return -err->code;
    p.len = (size_t)n;
    p.from_len = m.msg_namelen;
    if (!(m.msg_flags & MSG_TRUNC) && taken < (size_t)n + 2 * OVERHEAD)
        return each(arg, &p, err);
    if (!(m.msg_flags & MSG_TRUNC) && skbqueue_peek(fd, &p, taken, each, arg, &why) == 0)
        return 0;
    log_trace("looking at all %s: %s", what, why.msg);
    return why.code == EAGAIN
               ? err_set(err, EAGAIN, "%s", why.msg)
               : err_set(err, EAGAIN,
                         "%s wait in it, of which only the first can be looked at before it is read", what);
}
