/*
 * Batches: lists of system calls with their arguments' data, carried into the area, run there, and
 * fetched back. Only what a batch uses of the area is ever written or read.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "base/util.h"
#include "injector/layout.h"
#include "injector/ptrace.h"

int inj_begin(struct inj_batch *b, struct inj *inj, struct err *err)
{
    *b = (struct inj_batch){.inj = inj};
    b->calls = malloc(INJ_MAX_CALLS * sizeof(*b->calls));
    b->data = malloc(INJ_DATA_SIZE);
    if (!b->calls || !b->data) {
        inj_end(b);
        return err_set(err, ENOMEM, "out of memory");
    }
    return 0;
}

void inj_end(struct inj_batch *b)
{
    free(b->calls);
    free(b->data);
    b->calls = NULL;
    b->data = NULL;
}

void inj_reset(struct inj_batch *b)
{
    b->ncalls = 0;
    b->used = 0;
    b->overflow = false;
}

uint32_t inj_add(struct inj_batch *b, uint32_t flags, long nr, uint64_t a0, uint64_t a1, uint64_t a2, uint64_t a3,
                 uint64_t a4, uint64_t a5)
{
    if (b->ncalls >= INJ_MAX_CALLS) {
        b->overflow = true;
        return 0;
    }
    b->calls[b->ncalls] = (struct blob_call){.nr = nr, .arg = {a0, a1, a2, a3, a4, a5}, .flags = flags};
    return b->ncalls++;
}

uint64_t inj_data(struct inj_batch *b, const void *p, size_t n)
{
    uint32_t at = b->used;

    if (n > INJ_DATA_SIZE - at) {
        b->overflow = true;
        return data_at(b->inj);
    }
    if (p)
        memcpy(b->data + at, p, n);
    else
        memset(b->data + at, 0, n);
    b->used += (uint32_t)((n + 15) & ~15ull);
    if (b->used > INJ_DATA_SIZE)
        b->used = INJ_DATA_SIZE;
    return data_at(b->inj) + at;
}

/*
 * A thread can be stopped while it runs: by a SIGSTOP from outside, which no mask holds back. It is delivered, and
 * the thread goes on in a process that counts as stopped, and is so when the parasite has left.
 */
int inj_look_after(const struct inj *inj, pid_t tid, struct err *err)
{
    siginfo_t si = {0};
    int status;

    if (waitid(P_PID, (id_t)tid, &si, WSTOPPED | WEXITED | WNOHANG | WNOWAIT | __WALL) < 0)
        return 0; /* not traced by us: nothing to look after */
    if (si.si_pid == 0)
        return 0;
    if (si.si_code == CLD_EXITED || si.si_code == CLD_KILLED || si.si_code == CLD_DUMPED)
        return err_set(err, ESRCH, "process %d has ended", inj->pid);
    if (waitpid(tid, &status, __WALL | WNOHANG) != tid || !WIFSTOPPED(status))
        return 0;
    return pt_cont(tid, pt_sigstop(status), err);
}

/* Waiting for an answer looks after the host now and then: by a timeout, which costs no call of its own. */
int inj_set_timeout(const struct inj *inj, struct err *err)
{
    const struct timeval now_and_then = {.tv_usec = 20000};

    if (setsockopt(inj->ctl, SOL_SOCKET, SO_RCVTIMEO, &now_and_then, sizeof(now_and_then)) < 0)
        return err_errno(err, "control socket");
    return 0;
}

static bool ended(const struct inj *inj)
{
    struct pollfd p = {.fd = inj->pidfd, .events = POLLIN};

    return poll(&p, 1, 0) > 0;
}

/*
 * Of a process that was killed the socket need not tell: one that it has just forked still has that end too. What it had
 * said before is there when its end is known.
 */
int inj_wait_msg(struct inj *inj, struct blob_msg *m, struct err *err)
{
    bool gone = false;
    ssize_t n;

    while ((n = recv(inj->ctl, m, sizeof(*m), gone ? MSG_DONTWAIT : 0)) < 0 && (errno == EINTR || (errno == EAGAIN && !gone))) {
        gone = ended(inj);
        if (!gone && inj_look_after(inj, inj->tid, err) < 0)
            return -err->code;
    }
    if (n == 0 || (n < 0 && (errno == ECONNRESET || errno == EAGAIN)))
        return err_set(err, ESRCH, "process %d has ended", inj->pid);
    if (n < 0)
        return err_errno(err, "process %d: control socket", inj->pid);
    if (n != sizeof(*m))
        return err_set(err, EPROTO, "process %d: strange message on the control socket", inj->pid);
    return 0;
}

static int put(const struct inj_batch *b, struct err *err)
{
    size_t calls = b->ncalls * sizeof(*b->calls), want = calls + b->used;
    struct iovec l[2] = {{b->calls, calls}, {b->data, b->used}};
    struct iovec r[2] = {{(void *)calls_at(b->inj), calls}, {(void *)data_at(b->inj), b->used}};

    if (process_vm_writev(b->inj->pid, l, 2, r, 2, 0) != (ssize_t)want)
        return err_errno(err, "process %d: writing a batch", b->inj->pid);
    return 0;
}

static int get(const struct inj_batch *b, struct err *err)
{
    size_t calls = b->ncalls * sizeof(*b->calls), want = calls + b->used;
    struct iovec l[2] = {{b->calls, calls}, {b->data, b->used}};
    struct iovec r[2] = {{(void *)calls_at(b->inj), calls}, {(void *)data_at(b->inj), b->used}};

    if (process_vm_readv(b->inj->pid, l, 2, r, 2, 0) != (ssize_t)want)
        return err_errno(err, "process %d: reading a batch", b->inj->pid);
    return 0;
}

int inj_start(const struct inj_batch *b, struct err *err)
{
    struct blob_msg m = {BLOB_RUN, b->ncalls, calls_at(b->inj)};

    if (b->overflow)
        return err_set(err, E2BIG, "process %d: more than one batch can carry", b->inj->pid);
    if (put(b, err) < 0)
        return -err->code;
    if (send(b->inj->ctl, &m, sizeof(m), MSG_NOSIGNAL) != sizeof(m))
        return err_errno(err, "process %d: control socket", b->inj->pid);
    return 0;
}

static int finish(struct inj_batch *b, struct err *err)
{
    struct blob_msg m;

    if (inj_wait_msg(b->inj, &m, err) < 0)
        return -err->code;
    if (m.op != BLOB_DONE)
        return err_set(err, EPROTO, "process %d: strange message on the control socket", b->inj->pid);
    return get(b, err);
}

int inj_run(struct inj_batch *b, struct err *err)
{
    if (!b->ncalls && !b->overflow)
        return 0;
    if (inj_start(b, err) < 0)
        return -err->code;
    return finish(b, err);
}

void inj_says(struct inj_batch *b, uint32_t op)
{
    const struct blob_msg m = {.op = op};

    inj_call(b, 0, SYS_sendto, b->inj->remote_ctl, inj_data(b, &m, sizeof(m)), sizeof(m), MSG_NOSIGNAL);
}

/* The child has not said hello yet: it may also have ended. */
static int await_child(const struct inj *inj, int pidfd, struct err *err)
{
    struct pollfd p[2] = {{.fd = inj->ctl, .events = POLLIN}, {.fd = pidfd, .events = POLLIN}};

    while (poll(p, 2, -1) < 0)
        if (errno != EINTR)
            return err_errno(err, "poll");
    return p[0].revents ? 0 : err_set(err, ECHILD, "process %d: what it forked has ended", inj->pid);
}

/* Either may be the first to speak. */
int inj_finish_fork(struct inj_batch *b, uint32_t fork_call, int *pidfd, struct err *err)
{
    bool done = false, hello = false;
    struct blob_msg m;

    *pidfd = -1;
    while (!done || !hello) {
        if (done && await_child(b->inj, *pidfd, err) < 0)
            return -err->code;
        if (inj_wait_msg(b->inj, &m, err) < 0)
            return -err->code;
        hello |= m.op == BLOB_HELLO;
        if (m.op != BLOB_DONE)
            continue;
        done = true;
        if (get(b, err) < 0)
            return -err->code;
        if (inj_failed(inj_ret(b, fork_call)))
            return err_set(err, (int)-inj_ret(b, fork_call), "process %d: fork: %s", b->inj->pid,
                           strerror((int)-inj_ret(b, fork_call)));
        *pidfd = (int)syscall(SYS_pidfd_open, (pid_t)inj_ret(b, fork_call), 0);
        if (*pidfd < 0)
            return err_errno(err, "pidfd_open");
    }
    return 0;
}

/* The host tells how many it could make; only those report. */
int inj_run_threads(struct inj_batch *b, uint32_t n, struct err *err)
{
    uint32_t reports = 0;
    bool host = false;
    struct blob_msg m;

    if (inj_start(b, err) < 0)
        return -err->code;
    while (!host || reports < n) {
        if (inj_wait_msg(b->inj, &m, err) < 0)
            return -err->code;
        if (m.op != BLOB_DONE)
            return err_set(err, EPROTO, "process %d: strange message on the control socket", b->inj->pid);
        if (m.n != b->inj->slot) {
            reports++;
            continue;
        }
        host = true;
        if (get(b, err) < 0)
            return -err->code;
        for (uint32_t i = n = 0; i < b->ncalls; i++)
            n += !(b->calls[i].flags & BLOB_NOT_RUN) && !inj_failed(b->calls[i].ret);
    }
    return get(b, err);
}

int64_t inj_ret(const struct inj_batch *b, uint32_t call)
{
    return call < b->ncalls ? b->calls[call].ret : -EINVAL;
}

void *inj_at(const struct inj_batch *b, uint64_t addr)
{
    return b->data + (addr - data_at(b->inj));
}

int inj_check(const struct inj_batch *b, struct err *err, const char *what)
{
    for (uint32_t i = 0; i < b->ncalls; i++) {
        const struct blob_call *c = &b->calls[i];

        if ((c->flags & BLOB_MUST) && !(c->flags & BLOB_NOT_RUN) && inj_failed(c->ret))
            return err_set(err, (int)-c->ret, "process %d: %s: system call %lld(%#llx, %#llx, %#llx): %s", b->inj->pid,
                           what, (long long)c->nr, (unsigned long long)c->arg[0], (unsigned long long)c->arg[1],
                           (unsigned long long)c->arg[2], strerror((int)-c->ret));
    }
    return 0;
}

int inj_syscall(struct inj *inj, int64_t *ret, struct err *err, long nr, const uint64_t arg[6])
{
    struct blob_call c = {.nr = nr};
    struct inj_batch b = {.inj = inj, .calls = &c, .ncalls = 1};

    memcpy(c.arg, arg, sizeof(c.arg));
    if (inj_run(&b, err) < 0)
        return -err->code;
    *ret = c.ret;
    return 0;
}

static int send_scm(int sock, const int *fds, uint32_t n, struct err *err)
{
    union {
        char buf[CMSG_SPACE(INJ_MAX_FDS * sizeof(int))];
        struct cmsghdr align;
    } u = {0};
    char byte = 'f';
    struct iovec iov = {&byte, 1};
    struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = u.buf,
                        .msg_controllen = CMSG_SPACE(n * sizeof(int))};
    struct cmsghdr *c = CMSG_FIRSTHDR(&mh);

    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(n * sizeof(int));
    memcpy(CMSG_DATA(c), fds, n * sizeof(int));
    if (sendmsg(sock, &mh, MSG_NOSIGNAL) != 1)
        return err_errno(err, "sending file descriptors");
    return 0;
}

int inj_send_fds(struct inj *inj, const int *fds, int *remote, uint32_t n, struct err *err)
{
    _cleanup_batch_ struct inj_batch b = {0};
    uint64_t iov_base, iov_at, ctrl, mh_at;
    uint32_t call;

    if (n == 0)
        return 0;
    if (n > INJ_MAX_FDS)
        return err_set(err, E2BIG, "too many file descriptors in one message");
    if (inj_begin(&b, inj, err) < 0)
        return -err->code;
    iov_base = inj_data(&b, NULL, 16);
    iov_at = inj_data(&b, &(struct iovec){(void *)iov_base, 1}, sizeof(struct iovec));
    ctrl = inj_data(&b, NULL, CMSG_SPACE(n * sizeof(int)));
    mh_at = inj_data(&b,
                     &(struct msghdr){.msg_iov = (void *)iov_at, .msg_iovlen = 1, .msg_control = (void *)ctrl,
                                      .msg_controllen = CMSG_SPACE(n * sizeof(int))},
                     sizeof(struct msghdr));
    call = inj_call(&b, 0, SYS_recvmsg, inj->remote_ctl, mh_at, MSG_CMSG_CLOEXEC);
    /* The order matters: the loop itself reads the socket, and must be in the batch before fds arrive. */
    if (inj_start(&b, err) < 0 || send_scm(inj->ctl, fds, n, err) < 0 || finish(&b, err) < 0)
        return err_wrap(err, "process %d: passing file descriptors", inj->pid);
    struct msghdr *mh = inj_at(&b, mh_at);
    struct cmsghdr *c = inj_at(&b, ctrl);
    if (inj_ret(&b, call) != 1 || (mh->msg_flags & MSG_CTRUNC) || c->cmsg_len != CMSG_LEN(n * sizeof(int)))
        return err_set(err, EMFILE, "process %d: it could not take %u file descriptors (limit of open files?)",
                       inj->pid, n);
    memcpy(remote, (char *)c + CMSG_LEN(0), n * sizeof(int));
    return 0;
}

int inj_get_fd(struct inj *inj, int remote, struct err *err)
{
    int fd = (int)syscall(SYS_pidfd_getfd, inj->pidfd, remote, 0);

    if (fd < 0)
        return err_errno(err, "process %d: fetching its fd %d", inj->pid, remote);
    return fd;
}
