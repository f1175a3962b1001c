/*
 * See peercred.h. Three ways: remote calls in a skeleton, a short-lived child with the pid of a process that has
 * ended, or the driver itself.
 */
#include "restorer/peercred.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/log.h"
#include "base/util.h"

#define AT_ONCE 100u /* sockets in one remote batch */

/* ---- in this process ---- */

static int node_address(int node, struct sockaddr_un *a, socklen_t *len)
{
    *a = (struct sockaddr_un){.sun_family = AF_UNIX};
    *len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 +
                       (size_t)snprintf(a->sun_path, sizeof(a->sun_path), "/proc/self/fd/%d", node));
    return 0;
}

/* 0 or -errno. */
static int call_here(const struct cred_call *c, size_t i)
{
    struct sockaddr_un a = c->to;
    socklen_t len = c->to_len;

    switch (c->what) {
    case CALL_PAIR:
        return socketpair(AF_UNIX, c->type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, c->fds + 2 * i) < 0 ? -errno : 0;
    case CALL_LISTEN:
        return listen(c->fds[i], c->backlog) < 0 ? -errno : 0;
    case CALL_CONNECT:
    default:
        if (c->node >= 0)
            node_address(c->node, &a, &len);
        return connect(c->fds[i], (void *)&a, len) < 0 ? -errno : 0;
    }
}

static const char *const names[] = {"socketpair", "listen", "connect"};

static int complain(const struct cred_call *c, int64_t ret, struct err *err)
{
    return err_set(err, (int)-ret, "%s: %s", names[c->what], strerror((int)-ret));
}

static int run_here(const struct cred_call *c, struct err *err)
{
    for (size_t i = 0; i < c->n; i++) {
        int r = call_here(c, i);
        if (r < 0)
            return complain(c, r, err);
    }
    return 0;
}

/* ---- in a child with a pid of our choice ---- */

struct shared {
    int ret;
    bool done;
};

/* A child that shares our table of fds, so that what it makes is ours. -errno when the pid can't be had. */
static pid_t child_with_pid(pid_t pid)
{
    struct clone_args a = {.flags = CLONE_FILES, .exit_signal = SIGCHLD, .set_tid = (uint64_t)&pid,
                           .set_tid_size = 1};
    long r = syscall(SYS_clone3, &a, sizeof(a));

    return r < 0 ? -errno : (pid_t)r;
}

static void reap(pid_t pid)
{
    while (waitpid(pid, NULL, __WALL) < 0 && errno == EINTR)
        ;
}

static _Noreturn void child_main(const struct cred_call *c, int *fds, struct shared *s)
{
    struct cred_call mine = *c;

    mine.fds = fds;
    syscall(SYS_setresgid, -1, c->who->gid, -1); /* where we may: a user has no other ids */
    syscall(SYS_setresuid, -1, c->who->uid, -1);
    for (size_t i = 0; i < c->n && s->ret == 0; i++)
        s->ret = call_here(&mine, i);
    s->done = true;
    _exit(0);
}

/* 1: no such child can be had. */
static int run_child(const struct cred_call *c, struct err *err)
{
    size_t words = c->n * (c->what == CALL_PAIR ? 2 : 1), size = sizeof(struct shared) + words * sizeof(int);
    struct shared *s = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int *fds = (int *)(s + 1), ret;
    pid_t pid;

    if (s == MAP_FAILED)
        return err_errno(err, "memory");
    memcpy(fds, c->fds, words * sizeof(int));
    pid = child_with_pid(c->who->pid);
    if (pid == 0)
        child_main(c, fds, s);
    if (pid < 0) {
        munmap(s, size);
        return 1;
    }
    reap(pid);
    memcpy(c->fds, fds, words * sizeof(int));
    ret = !s->done ? err_set(err, EIO, "a helper process has died") : s->ret < 0 ? complain(c, s->ret, err) : 0;
    munmap(s, size);
    return ret;
}

/* ---- in a skeleton ---- */

static void become(struct inj_batch *b, const struct cred_call *c)
{
    if (geteuid() == c->who->uid && getegid() == c->who->gid)
        return;
    inj_call(b, 0, SYS_setresgid, -1, c->who->gid, -1);
    inj_call(b, 0, SYS_setresuid, -1, c->who->uid, -1);
}

static void become_again(struct inj_batch *b, const struct cred_call *c)
{
    if (geteuid() == c->who->uid && getegid() == c->who->gid)
        return;
    inj_call(b, 0, SYS_setresuid, -1, geteuid(), -1);
    inj_call(b, 0, SYS_setresgid, -1, getegid(), -1);
}

static int remote_pairs(struct rproc *p, const struct cred_call *c, size_t from, size_t n, struct err *err)
{
    _cleanup_batch_ struct inj_batch b = {0};
    uint64_t at[AT_ONCE];
    uint32_t call[AT_ONCE];

    if (inj_begin(&b, &p->inj, err) < 0)
        return -err->code;
    become(&b, c);
    for (size_t i = 0; i < n; i++) {
        at[i] = inj_data(&b, NULL, 2 * sizeof(int));
        call[i] = inj_call(&b, 0, SYS_socketpair, AF_UNIX, c->type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, at[i]);
    }
    become_again(&b, c);
    if (inj_run(&b, err) < 0)
        return -err->code;
    int theirs[2 * AT_ONCE];
    for (size_t i = 0; i < n; i++) {
        if (inj_ret(&b, call[i]) < 0)
            return complain(c, inj_ret(&b, call[i]), err);
        memcpy(theirs + 2 * i, inj_at(&b, at[i]), 2 * sizeof(int));
    }
    inj_reset(&b);
    for (size_t i = 0; i < 2 * n; i++) {
        c->fds[2 * from + i] = inj_get_fd(&p->inj, theirs[i], err);
        if (c->fds[2 * from + i] < 0)
            return -err->code;
        inj_call(&b, 0, SYS_close, theirs[i]);
    }
    return inj_run(&b, err);
}

/* Where to connect: if it is a file, then by the fd of it that was sent along. */
static uint64_t remote_address(struct inj_batch *b, const struct cred_call *c, int node, socklen_t *len)
{
    struct sockaddr_un a = c->to;

    *len = c->to_len;
    if (c->node >= 0)
        node_address(node, &a, len);
    return inj_data(b, &a, sizeof(a));
}

static int remote_calls(struct rproc *p, const struct cred_call *c, size_t from, size_t n, struct err *err)
{
    _cleanup_batch_ struct inj_batch b = {0};
    int ours[AT_ONCE + 1], theirs[AT_ONCE + 1];
    uint32_t call[AT_ONCE], sent = (uint32_t)n;
    uint64_t to;
    socklen_t len;

    memcpy(ours, c->fds + from, n * sizeof(int));
    if (c->what == CALL_CONNECT && c->node >= 0)
        ours[sent++] = c->node;
    if (inj_send_fds(&p->inj, ours, theirs, sent, err) < 0 || inj_begin(&b, &p->inj, err) < 0)
        return -err->code;
    to = remote_address(&b, c, theirs[sent - 1], &len);
    become(&b, c);
    for (size_t i = 0; i < n; i++)
        call[i] = c->what == CALL_LISTEN ? inj_call(&b, 0, SYS_listen, theirs[i], c->backlog)
                                         : inj_call(&b, 0, SYS_connect, theirs[i], to, len);
    become_again(&b, c);
    for (uint32_t i = 0; i < sent; i++)
        inj_call(&b, 0, SYS_close, theirs[i]);
    if (inj_run(&b, err) < 0)
        return -err->code;
    for (size_t i = 0; i < n; i++) {
        int64_t ret = inj_ret(&b, call[i]);
        if (ret == -EACCES) /* the file's permissions are others by now: it could once */
            ret = call_here(c, from + i);
        if (ret < 0)
            return complain(c, ret, err);
    }
    return 0;
}

static int run_remote(struct rproc *p, const struct cred_call *c, struct err *err)
{
    for (size_t i = 0; i < c->n; i += AT_ONCE) {
        size_t n = c->n - i < AT_ONCE ? c->n - i : AT_ONCE;
        int r = c->what == CALL_PAIR ? remote_pairs(p, c, i, n, err) : remote_calls(p, c, i, n, err);
        if (r < 0)
            return err_wrap(err, "process %d", p->pid);
    }
    return 0;
}

int cred_run(struct restore *r, const struct cred_call *c, struct err *err)
{
    struct rproc *p = c->who ? restore_proc(r, c->who->pid) : NULL;
    int ret;

    if (c->n == 0)
        return 0;
    if (p && p->alive)
        return run_remote(p, c, err);
    if (!c->who)
        return run_here(c, err);
    ret = c->who->pid > 1 ? run_child(c, err) : 1;
    if (ret <= 0)
        return ret;
    log_warn("SO_PEERCRED of %zu unix sockets was process %d, which is not restored and whose number is taken", c->n,
             c->who->pid);
    return run_here(c, err);
}

int with_pid(struct restore *r, pid_t pid, int (*f)(void *arg, pid_t here, struct err *err), void *arg,
             struct err *err)
{
    struct rproc *p = restore_proc(r, pid);
    pid_t child;
    int ret;

    if (p || kill(pid, 0) == 0 || errno == EPERM)
        return f(arg, p ? p->host_pid : pid, err);
    child = child_with_pid(pid);
    if (child == 0) {
        pause();
        _exit(0);
    }
    ret = f(arg, child > 0 ? child : pid, err);
    if (child > 0) {
        kill(child, SIGKILL);
        reap(child);
    }
    return ret;
}
