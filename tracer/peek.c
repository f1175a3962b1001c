/*
 * The walk through a receive queue. The kernel's rules that this relies on (net/core/datagram.c,
 * __skb_try_recv_from_queue; net/unix/af_unix.c, unix_stream_read_generic):
 *
 * - A peek at a stream goes through several messages at once, but stops after one that carries fds and before
 *   one of another writer when SO_PASSCRED is set: so what one call returns belongs together.
 * - With SO_PEEK_OFF a peek at a datagram that is too long for the buffer says MSG_TRUNC and the next goes on
 *   where it stopped.
 * - A datagram of no bytes is marked when it has been peeked at and is passed over by later peeks with an
 *   offset. So one that waits through two checkpoints behind another message is not seen by the second; nothing
 *   in the kernel would tell. So the first message is looked at without an offset, and only then is one set.
 */
#include "tracer/peek.h"

#include <errno.h>
#include <linux/sockios.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "base/util.h"

#define BUFFER  (256u << 10)
#define GUARD   4096u /* bytes behind the buffer where nothing can be written */
#define CONTROL 4096u

struct peek {
    int fd;
    bool stream;
    uint8_t *buffer;      /* of one call */
    uint8_t control[CONTROL];
    uint8_t *whole;       /* a datagram in several pieces */
    size_t whole_len, whole_cap;
    uint64_t total;       /* bytes seen so far, in whole messages */
    uint64_t looked;      /* bytes that recvmsg gave so far */
    bool offset;          /* SO_PEEK_OFF is set */
    bool begun;
    int before;           /* the program's SO_PEEK_OFF */
    int (*each)(void *arg, struct peeked *p, struct err *err);
    void *arg;
};

static void close_fds(struct peeked *p)
{
    for (uint32_t i = 0; i < p->nfds; i++)
        if (p->fds[i] >= 0)
            close(p->fds[i]);
    p->nfds = 0;
}

static void take_control(struct peeked *p, struct msghdr *m)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
        size_t n = c->cmsg_len - CMSG_LEN(0);
        if (c->cmsg_level != SOL_SOCKET)
            continue;
        if (c->cmsg_type == SCM_RIGHTS && n / sizeof(int) <= PEEK_MAX_FDS) {
            p->nfds = (uint32_t)(n / sizeof(int));
            memcpy(p->fds, CMSG_DATA(c), p->nfds * sizeof(int));
        } else if (c->cmsg_type == SCM_CREDENTIALS && n >= sizeof(p->cred)) {
            p->has_cred = true;
            memcpy(&p->cred, CMSG_DATA(c), sizeof(p->cred));
        } else if (c->cmsg_type == 4 /* SCM_PIDFD */ && n >= sizeof(int)) {
            int pidfd;
            memcpy(&pidfd, CMSG_DATA(c), sizeof(pidfd));
            if (pidfd >= 0)
                close(pidfd);
        }
    }
}

/* One recvmsg: the number of bytes, or -errno without err (-EAGAIN: there is no more). */
static ssize_t look(struct peek *k, struct peeked *p, int *flags)
{
    struct iovec iov = {k->buffer, BUFFER};
    struct msghdr m = {.msg_name = &p->from, .msg_namelen = sizeof(p->from), .msg_iov = &iov, .msg_iovlen = 1,
                       .msg_control = k->control, .msg_controllen = CONTROL};
    ssize_t n;

    if (k->begun && !k->offset) {
        int at = (int)k->looked;
        if (setsockopt(k->fd, SOL_SOCKET, SO_PEEK_OFF, &at, sizeof(at)) < 0)
            return -errno;
        k->offset = true;
    }
    do
        n = recvmsg(k->fd, &m, MSG_PEEK | MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return -errno;
    k->begun = true;
    k->looked += (uint64_t)n;
    p->data = k->buffer;
    p->len = (size_t)n;
    p->from_len = m.msg_namelen;
    p->control = k->control;
    p->control_len = m.msg_controllen;
    take_control(p, &m);
    *flags = m.msg_flags;
    return n;
}

/* A further piece of a datagram that was too long for the buffer. */
static int append(struct peek *k, const struct peeked *p, struct err *err)
{
    if (k->whole_cap - k->whole_len < p->len) {
        size_t cap = (k->whole_len + p->len) * 2;
        uint8_t *w = realloc(k->whole, cap);
        if (!w)
            return err_set(err, ENOMEM, "out of memory");
        k->whole = w;
        k->whole_cap = cap;
    }
    memcpy(k->whole + k->whole_len, p->data, p->len);
    k->whole_len += p->len;
    return 0;
}

static int complain(ssize_t n, struct err *err)
{
    if (n == -EMFILE || n == -ENFILE)
        return err_set(err, (int)-n, "too many fds in flight for the tracer's own limit");
    return err_set(err, (int)-n, "reading what waits in the socket: %s", strerror((int)-n));
}

/*
 * How many of the bytes from `start` on came before the message with the fds, which is the last: a peek into a
 * buffer that is one byte too short for all of them, with nothing mapped behind it, can't copy that message
 * and returns what it has. (A smaller count would not do: the kernel hands out the fds of the message after
 * the last byte, too.) -errno.
 */
static ssize_t plain_bytes(struct peek *k, uint64_t start, size_t len)
{
    struct iovec iov = {k->buffer + BUFFER - (len - 1), len};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
    int offset = (int)start;
    ssize_t n;

    if (setsockopt(k->fd, SOL_SOCKET, SO_PEEK_OFF, &offset, sizeof(offset)) < 0)
        return -errno;
    n = recvmsg(k->fd, &m, MSG_PEEK | MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    return n >= 0 ? n : errno == EFAULT ? 0 : -errno;
}

/*
 * A run of a stream that ends with fds can begin with bytes that were written before, without any. The fds
 * belong to the first byte that was written with them: the program gets them when it reads that byte.
 */
static int deliver_split(struct peek *k, struct peeked *p, struct err *err)
{
    _cleanup_free_ uint8_t *copy = malloc(p->len);
    uint64_t start = k->looked - p->len;
    struct peeked plain = *p;
    int end = (int)k->looked;
    ssize_t n;

    if (!copy)
        return err_set(err, ENOMEM, "out of memory");
    memcpy(copy, p->data, p->len);
    n = plain_bytes(k, start, p->len);
    k->offset = true;
    if (n < 0 || (size_t)n >= p->len)
        return complain(n < 0 ? n : -EIO, err);
    if (setsockopt(k->fd, SOL_SOCKET, SO_PEEK_OFF, &end, sizeof(end)) < 0)
        return err_errno(err, "SO_PEEK_OFF");
    plain.nfds = 0;
    plain.data = copy;
    plain.len = (size_t)n;
    if (n && k->each(k->arg, &plain, err) < 0)
        return -err->code;
    p->data = copy + n;
    p->len -= (size_t)n;
    return k->each(k->arg, p, err);
}

/*
 * One message into `each`. Returns 1, 0 at the end of the queue, -errno. Control messages come with every piece
 * of a datagram; the last piece's are used.
 */
static int step(struct peek *k, struct err *err)
{
    struct peeked p;
    int flags = 0, r;
    ssize_t n;

    k->whole_len = 0;
    for (;;) {
        p.nfds = 0;
        p.has_cred = false;
        n = look(k, &p, &flags);
        if (n == -EAGAIN || (k->stream && n == 0))
            return k->whole_len ? err_set(err, EIO, "a queued message changed while it was read") : 0;
        if (n < 0)
            return complain(n, err);
        if (flags & MSG_CTRUNC) {
            close_fds(&p);
            return err_set(err, EMFILE, "a queued message has more control data than can be read");
        }
        if (k->stream || !(flags & MSG_TRUNC))
            break;
        r = append(k, &p, err);
        close_fds(&p);
        if (r < 0)
            return r;
    }
    if (k->whole_len) {
        r = append(k, &p, err);
        p.data = k->whole;
        p.len = k->whole_len;
    } else {
        r = 0;
    }
    k->total += p.len;
    if (r == 0)
        r = k->stream && p.nfds && p.len > 1 ? deliver_split(k, &p, err) : k->each(k->arg, &p, err);
    close_fds(&p);
    return r < 0 ? r : 1;
}

/*
 * Streams are done when all bytes were seen. At the end of a SOCK_SEQPACKET whose peer has shut down, the end of
 * file reads as a message of no bytes, again and again; once all bytes were seen, messages of no bytes that
 * still wait are the same to the program as that end.
 */
static bool all_seen(const struct peek *k, int type)
{
    int waiting = 0;

    if (!k->begun || type == SOCK_DGRAM || ioctl(k->fd, SIOCINQ, &waiting) < 0 || k->total < (uint64_t)waiting)
        return false;
    return k->stream || recv(k->fd, NULL, 0, MSG_PEEK | MSG_DONTWAIT) == 0;
}

static int walk(struct peek *k, struct err *err)
{
    int type = 0, r;
    socklen_t n = sizeof(type);

    if (getsockopt(k->fd, SOL_SOCKET, SO_TYPE, &type, &n) < 0)
        return err_errno(err, "SO_TYPE");
    do {
        if (all_seen(k, type))
            return 0;
        r = step(k, err);
    } while (r > 0);
    return r;
}

static int put_offset(int fd, int at, struct err *err)
{
    if (setsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &at, sizeof(at)) < 0)
        return err_errno(err, "SO_PEEK_OFF");
    return 0;
}

static int make_buffer(struct peek *k, struct err *err)
{
    void *p = mmap(NULL, BUFFER + GUARD, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (p == MAP_FAILED || mprotect((uint8_t *)p + BUFFER, GUARD, PROT_NONE) < 0)
        return err_errno(err, "a buffer");
    k->buffer = p;
    return 0;
}

int peek_messages(int fd, bool stream, int (*each)(void *, struct peeked *, struct err *), void *arg, struct err *err)
{
    struct peek k = {.fd = fd, .stream = stream, .each = each, .arg = arg, .before = -1};
    struct err second;
    int waiting = 0, r;
    socklen_t n = sizeof(k.before);

    if (stream && ioctl(fd, SIOCINQ, &waiting) == 0 && waiting == 0)
        return 0;
    if (getsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &k.before, &n) < 0)
        return err_errno(err, "SO_PEEK_OFF");
    if (k.before != -1 && put_offset(fd, -1, err) < 0)
        return -err->code;
    r = make_buffer(&k, err);
    if (r == 0)
        r = walk(&k, err);
    if ((k.before != -1 || k.offset) && put_offset(fd, k.before, r < 0 ? &second : err) < 0 && r >= 0)
        r = -err->code;
    if (k.buffer)
        munmap(k.buffer, BUFFER + GUARD);
    free(k.whole);
    return r;
}
