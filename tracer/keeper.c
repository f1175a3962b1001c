/* See keeper.h. The helper is no child of the tracer and has nothing of it but the channel and the sockets. */
#include "tracer/keeper.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/util.h"

#define REPAIR_OFF_SILENT (-1) /* TCP_REPAIR_OFF_NO_WP: no window probe; since Linux 4.19 */
#define MAX_FILTER        4096 /* BPF_MAXINSNS */

enum { WATCH, FORGET, HOLD };

struct message {
    uint32_t op;
    int32_t reuse;
    uint64_t id;
    uint32_t n_filter;
};

struct watched {
    uint64_t id;
    int fd;
    int32_t reuse;
    uint32_t n_filter;
    struct sock_filter *filter;
};

int tcp_deafen(int fd, struct err *err)
{
    struct sock_filter drop[] = {BPF_STMT(BPF_RET | BPF_K, 0)};
    struct sock_fprog p = {1, drop};

    if (setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &p, sizeof(p)) == 0)
        return 0;
    if (errno == EPERM)
        return err_set(err, ENOTSUP, "its filter is locked (SO_LOCK_FILTER), which keeps the connection from being kept");
    return err_errno(err, "SO_ATTACH_FILTER");
}

void tcp_put_back(int fd, const struct keeper_before *b)
{
    struct sock_fprog p = {(unsigned short)b->n_filter, (struct sock_filter *)b->filter};
    int off = REPAIR_OFF_SILENT, zero = 0;

    setsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &off, sizeof(off));
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &b->reuse, sizeof(b->reuse));
    if (b->n_filter)
        setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &p, sizeof(p));
    else
        setsockopt(fd, SOL_SOCKET, SO_DETACH_FILTER, &zero, sizeof(zero));
}

/* ---- the helper ---- */

struct list {
    struct watched *w;
    size_t n, cap;
};

static void put_all_back(const struct list *l)
{
    for (size_t i = 0; i < l->n; i++)
        tcp_put_back(l->w[i].fd, &(struct keeper_before){l->w[i].reuse, l->w[i].n_filter, l->w[i].filter});
}

static void watch(struct list *l, const struct message *m, int fd, const struct sock_filter *filter)
{
    struct watched *more = fd >= 0 ? grow(l->w, l->n, &l->cap, sizeof(*more)) : NULL;
    struct sock_filter *copy = m->n_filter ? malloc(m->n_filter * sizeof(*copy)) : NULL;

    if (!more || (m->n_filter && !copy)) {
        put_all_back(l);
        _exit(1);
    }
    if (copy)
        memcpy(copy, filter, m->n_filter * sizeof(*copy));
    l->w = more;
    l->w[l->n++] = (struct watched){m->id, fd, m->reuse, m->n_filter, copy};
}

static void forget(struct list *l, uint64_t id)
{
    for (size_t i = 0; i < l->n; i++)
        if (l->w[i].id == id) {
            close(l->w[i].fd);
            free(l->w[i].filter);
            l->w[i] = l->w[--l->n];
            return;
        }
}

/* -1: the channel has ended. Otherwise the operation. */
static int take(int sock, struct list *l)
{
    struct sock_filter filter[MAX_FILTER];
    struct message m = {0};
    struct iovec iov[2] = {{&m, sizeof(m)}, {filter, sizeof(filter)}};
    union {
        char buf[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } u;
    struct msghdr h = {.msg_iov = iov, .msg_iovlen = 2, .msg_control = u.buf, .msg_controllen = sizeof(u.buf)};
    ssize_t n = recvmsg(sock, &h, MSG_CMSG_CLOEXEC);
    struct cmsghdr *c = n > 0 ? CMSG_FIRSTHDR(&h) : NULL;
    int fd = -1;

    if (n < 0 && errno == EINTR)
        return FORGET;
    if (n < (ssize_t)sizeof(m))
        return -1;
    if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
        memcpy(&fd, CMSG_DATA(c), sizeof(fd));
    if (m.op == WATCH)
        watch(l, &m, fd, filter);
    else if (m.op == FORGET)
        forget(l, m.id);
    return (int)m.op;
}

static _Noreturn void helper(int sock)
{
    struct list l = {0};
    sigset_t most;
    int op, bell;

    sigfillset(&most);
    sigdelset(&most, SIGTERM);
    sigprocmask(SIG_SETMASK, &most, NULL);
    signal(SIGTERM, SIG_DFL);
    setsid();
    prctl(PR_SET_NAME, KEEPER_NAME);
    dup2(sock, 0);
    syscall(SYS_close_range, 1, ~0u, 0);
    bell = eventfd(0, EFD_CLOEXEC);
    if (bell < 0 || chdir("/") < 0)
        _exit(1);
    do
        op = take(0, &l);
    while (op >= 0 && op != HOLD);
    if (op < 0)
        put_all_back(&l);
    else if (l.n)
        poll(&(struct pollfd){.fd = bell, .events = POLLIN}, 1, KEEPER_SECONDS * 1000);
    _exit(0); /* still in repair mode: no packet is sent */
}

/* ---- the tracer ---- */

int keeper_start(int *sock, struct err *err)
{
    int pair[2];
    pid_t pid;

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return err_errno(err, "socketpair");
    pid = fork();
    if (pid == 0) {
        pid = fork();
        if (pid == 0)
            helper(pair[1]);
        _exit(pid < 0);
    }
    close(pair[1]);
    if (pid < 0) {
        close(pair[0]);
        return err_errno(err, "making a helper process");
    }
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        ;
    *sock = pair[0];
    return 0;
}

static int tell(int sock, const struct message *m, const struct sock_filter *filter, int fd)
{
    struct iovec iov[2] = {{(void *)m, sizeof(*m)}, {(void *)filter, m->n_filter * sizeof(*filter)}};
    union {
        char buf[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } u = {0};
    struct msghdr h = {.msg_iov = iov, .msg_iovlen = 2};

    if (fd >= 0) {
        h.msg_control = u.buf;
        h.msg_controllen = sizeof(u.buf);
        struct cmsghdr *c = CMSG_FIRSTHDR(&h);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(c), &fd, sizeof(fd));
    }
    while (sendmsg(sock, &h, MSG_NOSIGNAL) < 0)
        if (errno != EINTR)
            return -errno;
    return 0;
}

int keeper_watch(int sock, int fd, uint64_t id, const struct keeper_before *b, struct err *err)
{
    struct message m = {WATCH, b->reuse, id, b->n_filter};
    int r = tell(sock, &m, b->filter, fd);

    return r < 0 ? err_set(err, -r, "the helper that guards TCP connections: %s", strerror(-r)) : 0;
}

void keeper_forget(int sock, uint64_t id)
{
    tell(sock, &(struct message){.op = FORGET, .id = id}, NULL, -1);
}

void keeper_hold(int sock)
{
    tell(sock, &(struct message){.op = HOLD}, NULL, -1);
    close(sock);
}
