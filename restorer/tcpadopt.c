/*
 * When a program is killed after its checkpoint (dmtcp_command --kcheckpoint), a helper of its tracer holds the
 * connections that lead out of the computation for some minutes, silent and deaf (tracer/keeper.h): so the kernel
 * does not answer their peers with a reset. A restart in that time takes the very sockets over, if they are as the
 * image says; when all is done the helper is told to end. They are looked for by dmtcp_restart itself: its child, the
 * driver, may be in a new pid namespace, from which the helper can't be seen.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "base/util.h"
#include "restorer/inet.h"

#define KEEPER_NAME "dmtcp_keeper"

struct held {
    struct held *next;
    struct inet_end local, remote;
    int pidfd, fd; /* ours; the sockets of one helper are next to each other */
    int bell;      /* of the helper: wakes it */
    bool taken;
};

static bool is_eventfd(int fd)
{
    _cleanup_free_ char *link = NULL;
    char path[32];

    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    link = readlink_dup(path);
    return link && !strcmp(link, "anon_inode:[eventfd]");
}

static void add(struct rsockets *s, int pidfd, int number, int *bell)
{
    union address a, b;
    socklen_t n = sizeof(a), m = sizeof(b);
    struct held *h;
    int fd = (int)syscall(SYS_pidfd_getfd, pidfd, number, 0);

    if (fd < 0)
        return;
    if (is_eventfd(fd)) {
        *bell = fd;
        return;
    }
    h = getsockname(fd, &a.sa, &n) == 0 && getpeername(fd, &b.sa, &m) == 0 ? restore_alloc(s->r, sizeof(*h)) : NULL;
    if (!h || !inet_end_of(&a, n, &h->local) || !inet_end_of(&b, m, &h->remote)) {
        close(fd);
        return;
    }
    h->pidfd = pidfd;
    h->fd = fd;
    h->next = s->held;
    s->held = h;
}

/* What is held in another network namespace has nothing to do with the addresses of this one. */
static bool same_network(const char *pid)
{
    struct stat ours, theirs;
    char path[64];

    snprintf(path, sizeof(path), "/proc/%.16s/ns/net", pid);
    return stat(path, &theirs) == 0 && stat("/proc/self/ns/net", &ours) == 0 && theirs.st_ino == ours.st_ino &&
           theirs.st_dev == ours.st_dev;
}

static void look_at(struct rsockets *s, const char *pid)
{
    struct held *before = s->held;
    char path[64], comm[32] = "";
    struct stat st;
    _cleanup_close_ int f = -1;
    int pidfd, bell = -1;
    DIR *d;

    snprintf(path, sizeof(path), "/proc/%.16s/comm", pid);
    f = open(path, O_RDONLY | O_CLOEXEC);
    if (f < 0 || read(f, comm, sizeof(comm) - 1) < 0 || strcmp(comm, KEEPER_NAME "\n") || fstat(f, &st) < 0 ||
        st.st_uid != geteuid() || !same_network(pid))
        return;
    pidfd = (int)syscall(SYS_pidfd_open, atoi(pid), 0);
    snprintf(path, sizeof(path), "/proc/%.16s/fd", pid);
    d = pidfd >= 0 ? opendir(path) : NULL;
    for (const struct dirent *e; d && (e = readdir(d));)
        if (e->d_name[0] != '.' && atoi(e->d_name) > 0)
            add(s, pidfd, atoi(e->d_name), &bell);
    if (d)
        closedir(d);
    if (s->held == before && pidfd >= 0)
        close(pidfd);
    if (s->held == before && bell >= 0)
        close(bell);
    for (struct held *h = s->held; h != before; h = h->next)
        h->bell = bell;
}

void tcp_adopt_find(struct rsockets *s)
{
    DIR *d = s->looked_for_held ? NULL : opendir("/proc");

    s->looked_for_held = true;
    for (const struct dirent *e; d && (e = readdir(d));)
        if (e->d_name[0] >= '1' && e->d_name[0] <= '9')
            look_at(s, e->d_name);
    if (d)
        closedir(d);
}

static bool sequence_is(int fd, int queue, uint32_t want)
{
    uint32_t seq = 0;
    socklen_t n = sizeof(seq);

    return setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_QUEUE, &queue, sizeof(queue)) == 0 &&
           getsockopt(fd, IPPROTO_TCP, TCP_QUEUE_SEQ, &seq, &n) == 0 && seq == want;
}

/* In repair mode still, and not a byte further than the image. */
static bool is_as_saved(int fd, const Inet *m)
{
    int on = 0, none = TCP_NO_QUEUE;
    socklen_t n = sizeof(on);
    struct tcp_state t;
    struct err err;
    bool yes = getsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &on, &n) == 0 && on && tcp_state(fd, &t, &err) == 0 &&
               t.state == m->state && sequence_is(fd, TCP_SEND_QUEUE, m->repair->send_seq + m->sent_fin) &&
               sequence_is(fd, TCP_RECV_QUEUE, m->repair->receive_seq + m->got_fin);

    setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_QUEUE, &none, sizeof(none));
    return yes;
}

int tcp_adopt(struct rsockets *s, const struct rinet *u)
{
    for (struct held *h = s->held; h; h = h->next)
        if (!h->taken && inet_same(&h->local, &u->local) && inet_same(&h->remote, &u->remote) &&
            is_as_saved(h->fd, u->m)) {
            h->taken = true;
            return h->fd;
        }
    return -ENOENT;
}

/* wake: the helpers whose sockets were taken may end. */
static void close_all(struct rsockets *s, bool wake)
{
    uint64_t one = 1;
    bool taken = false;

    for (struct held *h = s->held; h; h = h->next) {
        taken |= h->taken;
        if (!h->taken || !wake)
            close(h->fd);
        if (h->next && h->next->pidfd == h->pidfd)
            continue;
        if (wake && taken && h->bell >= 0 && write(h->bell, &one, sizeof(one)) == sizeof(one))
            poll(&(struct pollfd){.fd = h->pidfd, .events = POLLIN}, 1, 1000);
        close(h->pidfd);
        if (h->bell >= 0)
            close(h->bell);
        taken = false;
    }
    s->held = NULL;
}

/* In dmtcp_restart, when the driver has them. */
void tcp_adopt_forget(struct restore *r)
{
    if (r->sockets)
        close_all(r->sockets, false);
}

/* Those that were not taken are the helper's still. */
void tcp_adopt_end(struct rsockets *s)
{
    close_all(s, true);
}
