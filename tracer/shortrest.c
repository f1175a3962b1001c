/*
 * The calls that a stop cuts short, found by trying: those that transfer piece by piece and look between the
 * pieces, or while they wait, whether anything is to be done (signal_pending()), and that without it return
 * only when all is done. Not among them are splice(2), tee(2), vmsplice(2) and sendfile(2) to a pipe and
 * read(2) from a pipe or socket, which give what there is or room for; and reading and writing regular files,
 * which nothing but SIGKILL ends.
 */
#include "tracer/shortrest.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <termios.h>
#include <unistd.h>

#include "base/util.h"
#include "injector/ptrace.h"
#include "tracer/procfs.h"

bool short_possible(const struct user_regs_struct *r)
{
    if ((int64_t)r->rax <= 0)
        return false;
    switch ((int64_t)r->orig_rax) {
    case SYS_read:
    case SYS_pread64:
    case SYS_write:
    case SYS_sendto:
    case SYS_recvfrom:
    case SYS_sendmmsg:
    case SYS_recvmmsg:
        return r->rax < r->rdx;
    case SYS_getrandom:
        return r->rax < r->rsi;
    case SYS_sendfile:
        return r->rax < r->r10;
    case SYS_copy_file_range:
    case SYS_splice:
        return r->rax < r->r8;
    case SYS_readv:
    case SYS_writev:
    case SYS_sendmsg:
    case SYS_recvmsg:
        return true;
    default:
        return false;
    }
}

bool short_needs_data(const struct user_regs_struct *r)
{
    return r->orig_rax == SYS_readv || r->orig_rax == SYS_writev || r->orig_rax == SYS_sendmsg;
}

/* ---- what it is that is read or written ---- */

enum what { OTHER, SOCKET, FIFO, TTY, MEMORY, REGULAR }; /* MEMORY: /dev/zero, full, random and urandom */

static enum what what_is(const struct stat *st)
{
    unsigned major_nr = major(st->st_rdev), minor_nr = minor(st->st_rdev);

    if (S_ISSOCK(st->st_mode))
        return SOCKET;
    if (S_ISFIFO(st->st_mode))
        return FIFO;
    if (S_ISREG(st->st_mode))
        return REGULAR;
    if (!S_ISCHR(st->st_mode))
        return OTHER;
    if (major_nr == 1)
        return minor_nr == 5 || (minor_nr >= 7 && minor_nr <= 9) ? MEMORY : OTHER;
    return major_nr == 4 || major_nr == 5 || (major_nr >= 136 && major_nr <= 143) ? TTY : OTHER;
}

/* OTHER also when it is non-blocking: then a part is what is to be expected. */
static enum what look_at(pid_t tid, uint64_t fd)
{
    _cleanup_free_ char *text = NULL;
    struct err ignored;
    unsigned flags;
    char path[48];
    struct stat st;
    const char *at;

    snprintf(path, sizeof(path), "/proc/%d/fd/%d", tid, (int)fd);
    if (stat(path, &st) < 0 || read_proc(&text, NULL, &ignored, "%d/fdinfo/%d", tid, (int)fd) < 0)
        return OTHER;
    at = strstr(text, "flags:");
    if (!at || sscanf(at + 6, "%o", &flags) != 1 || (flags & O_NONBLOCK))
        return OTHER;
    return what_is(&st);
}

/* A copy of its descriptor; -1. The caller's. */
static int copy_fd(pid_t tid, uint64_t fd)
{
    struct proc_status st;
    struct err ignored;
    _cleanup_close_ int pidfd = -1;

    if (read_status(tid, tid, &st, &ignored) < 0)
        return -1;
    proc_status_free(&st);
    pidfd = (int)syscall(SYS_pidfd_open, st.tgid, 0);
    return pidfd < 0 ? -1 : (int)syscall(SYS_pidfd_getfd, pidfd, (int)fd, 0);
}

/* ---- what is left ---- */

/* The pieces at r->rsi without what has been transferred, at most `max`. Their number; 0: nothing is left, or
 * more. */
static size_t skip_iov(pid_t tid, uint64_t from, uint64_t n, uint64_t done, struct iovec *left, size_t max)
{
    struct iovec iov[SHORT_IOVS_MAX + 30];
    struct err ignored;
    size_t i = 0;

    if (n == 0 || n > ARRAY_SIZE(iov) || pt_read(tid, from, iov, n * sizeof(*iov), &ignored) < 0)
        return 0;
    while (i < n && done >= iov[i].iov_len)
        done -= iov[i++].iov_len;
    while (n > i && !iov[n - 1].iov_len)
        n--;
    if (i >= n || n - i > max)
        return 0;
    iov[i].iov_base = (char *)iov[i].iov_base + done;
    iov[i].iov_len -= done;
    memcpy(left, &iov[i], (n - i) * sizeof(*iov));
    return n - i;
}

static bool rest_of_vector(pid_t tid, struct user_regs_struct *r, struct short_data *d, uint64_t at)
{
    struct iovec *iov = (struct iovec *)d; /* all of it */
    size_t n = skip_iov(tid, r->rsi, r->rdx, r->rax, iov, sizeof(*d) / sizeof(*iov));

    r->rsi = at;
    r->rdx = n;
    return n > 0;
}

/* sendto(2) or recvfrom(2), without an address: such a call can be cut short on a connected stream only. */
static void make_simple(struct user_regs_struct *r, long nr, const struct iovec *iov)
{
    r->orig_rax = (uint64_t)nr;
    r->r10 = r->rdx;
    r->rsi = (uint64_t)iov->iov_base;
    r->rdx = iov->iov_len;
    r->r8 = r->r9 = 0;
}

/* Control data has gone with the first part. */
static bool rest_of_sendmsg(pid_t tid, struct user_regs_struct *r, struct short_data *d, uint64_t at)
{
    struct err ignored;
    struct msghdr m;
    size_t n;

    if ((r->rdx & MSG_DONTWAIT) || pt_read(tid, r->rsi, &m, sizeof(m), &ignored) < 0)
        return false;
    n = skip_iov(tid, (uint64_t)m.msg_iov, m.msg_iovlen, r->rax, d->iov, SHORT_IOVS_MAX);
    if (n == 1)
        make_simple(r, SYS_sendto, d->iov);
    else if (n)
        r->rsi = at + offsetof(struct short_data, msg);
    d->msg = (struct msghdr){.msg_iov = (void *)(at + offsetof(struct short_data, iov)), .msg_iovlen = n};
    return n > 0;
}

/* The kernel writes into the header of recvmsg(2), which must then be the program's own: so one piece only.
 */
static bool rest_of_recvmsg(pid_t tid, struct user_regs_struct *r, struct short_data *d)
{
    struct err ignored;
    struct msghdr m;

    if (!(r->rdx & MSG_WAITALL) || (r->rdx & (MSG_DONTWAIT | MSG_PEEK)) ||
        pt_read(tid, r->rsi, &m, sizeof(m), &ignored) < 0 || m.msg_controllen ||
        (m.msg_flags & (MSG_EOR | MSG_OOB)) ||
        skip_iov(tid, (uint64_t)m.msg_iov, m.msg_iovlen, r->rax, d->iov, 1) != 1)
        return false;
    make_simple(r, SYS_recvfrom, d->iov);
    return true;
}

/* Several messages, of which r->rax are done. The last may itself have been cut short. */
static bool rest_of_sendmmsg(pid_t tid, struct user_regs_struct *r)
{
    struct iovec iov[32];
    struct mmsghdr last;
    struct err ignored;
    uint64_t size = 0;

    if ((r->r10 & MSG_DONTWAIT) ||
        pt_read(tid, r->rsi + (r->rax - 1) * sizeof(last), &last, sizeof(last), &ignored) < 0 ||
        last.msg_hdr.msg_iovlen > ARRAY_SIZE(iov) ||
        pt_read(tid, (uint64_t)last.msg_hdr.msg_iov, iov, last.msg_hdr.msg_iovlen * sizeof(*iov), &ignored) <
            0)
        return false;
    for (size_t i = 0; i < last.msg_hdr.msg_iovlen; i++)
        size += iov[i].iov_len;
    if (last.msg_len != size)
        return false;
    r->rsi += r->rax * sizeof(last);
    r->rdx -= r->rax;
    return true;
}

/*
 * The kernel keeps what ended the call for the next one to report (do_recvmmsg() in net/socket.c), and so
 * leaves ERESTARTSYS in the socket, of which no program should hear.
 */
static bool rest_of_recvmmsg(pid_t tid, struct user_regs_struct *r)
{
    _cleanup_close_ int fd = -1;
    int error = 0;
    socklen_t n = sizeof(error);

    if ((r->r10 & (MSG_DONTWAIT | MSG_WAITFORONE)) || r->r8 || (fd = copy_fd(tid, r->rdi)) < 0 ||
        getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &n) < 0)
        return false;
    r->rsi += r->rax * sizeof(struct mmsghdr);
    r->rdx -= r->rax;
    return true;
}

/*
 * A terminal that gives no less than VMIN bytes. Of what would have been waited for the rest is asked for,
 * and no more: that alone would be waited for anew.
 */
static bool rest_of_tty(pid_t tid, struct user_regs_struct *r)
{
    _cleanup_close_ int fd = copy_fd(tid, r->rdi);
    struct termios t;
    uint64_t want;

    if (fd < 0 || tcgetattr(fd, &t) < 0 || (t.c_lflag & ICANON) || t.c_cc[VTIME])
        return false;
    want = t.c_cc[VMIN] < r->rdx ? t.c_cc[VMIN] : r->rdx;
    if (r->rax >= want)
        return false;
    r->rsi += r->rax;
    r->rdx = want - r->rax;
    return true;
}

static bool rest_of_buffer(struct user_regs_struct *r)
{
    r->rsi += r->rax;
    r->rdx -= r->rax;
    return true;
}

/* From a pipe to a socket: all that is in the pipe. */
static bool rest_of_splice(pid_t tid, struct user_regs_struct *r)
{
    _cleanup_close_ int fd = -1;
    int waiting = 0;

    if ((r->r9 & SPLICE_F_NONBLOCK) || look_at(tid, r->rdi) != FIFO || look_at(tid, r->rdx) != SOCKET ||
        (fd = copy_fd(tid, r->rdi)) < 0 || ioctl(fd, FIONREAD, &waiting) < 0 || waiting <= 0)
        return false;
    if ((uint64_t)waiting < r->r8 - r->rax) /* what comes later it would not have waited for */
        r->r8 = (uint64_t)waiting;
    else
        r->r8 -= r->rax;
    return true;
}

/* Where the call's file decides. */
static bool rest_on(enum what what, pid_t tid, struct user_regs_struct *r, struct short_data *d, uint64_t at)
{
    bool stream = what == SOCKET || what == FIFO || what == TTY;

    switch (r->orig_rax) {
    case SYS_read:
        return what == TTY ? rest_of_tty(tid, r) : what == MEMORY && rest_of_buffer(r);
    case SYS_pread64:
        return what == MEMORY && rest_of_buffer(r);
    case SYS_readv:
        return what == MEMORY && rest_of_vector(tid, r, d, at);
    case SYS_write:
        return (stream || what == MEMORY) && rest_of_buffer(r);
    case SYS_writev:
        return (stream || what == MEMORY) && rest_of_vector(tid, r, d, at);
    case SYS_sendto:
        return what == SOCKET && !(r->r10 & MSG_DONTWAIT) && rest_of_buffer(r);
    case SYS_recvfrom:
        return what == SOCKET && (r->r10 & MSG_WAITALL) && !(r->r10 & (MSG_DONTWAIT | MSG_PEEK)) &&
               rest_of_buffer(r);
    case SYS_sendmsg:
        return what == SOCKET && rest_of_sendmsg(tid, r, d, at);
    case SYS_recvmsg:
        return what == SOCKET && rest_of_recvmsg(tid, r, d);
    case SYS_sendmmsg:
        return what == SOCKET && rest_of_sendmmsg(tid, r);
    case SYS_recvmmsg:
        return what == SOCKET && rest_of_recvmmsg(tid, r);
    case SYS_sendfile:
        r->r10 -= r->rax;
        return what == SOCKET || what == REGULAR;
    default:
        return false;
    }
}

bool short_rest(pid_t tid, struct user_regs_struct *r, struct short_data *d, uint64_t at)
{
    switch (r->orig_rax) {
    case SYS_getrandom:
        r->rdi += r->rax;
        r->rsi -= r->rax;
        return true;
    case SYS_copy_file_range:
        r->r8 -= r->rax;
        return true;
    case SYS_splice:
        return rest_of_splice(tid, r);
    default:
        return rest_on(look_at(tid, r->rdi), tid, r, d, at);
    }
}
