/*
 * TCP sockets that listen: connections that nobody has accepted yet, in order, one of them closed again by its
 * client; a full backlog and one who still tries; a group with SO_REUSEPORT; options that are inherited; between
 * processes.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"
#include "tests/programs/sock.h"

#define WAITING 4
#define GROUP   3

static struct sockaddr_in any_port(void)
{
    return (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

static int listen_at(struct sockaddr_in *a, int backlog, bool reuseport)
{
    int fd = (int)MUST(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0)), one = 1;
    socklen_t n = sizeof(*a);

    MUST(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)));
    if (reuseport)
        MUST(setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one)));
    MUST(bind(fd, (void *)a, sizeof(*a)));
    MUST(listen(fd, backlog));
    MUST(getsockname(fd, (void *)a, &n));
    return fd;
}

static int connect_to(const struct sockaddr_in *a)
{
    int fd = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));

    MUST(connect(fd, (const void *)a, sizeof(*a)));
    return fd;
}

/* accept, which may take a moment. */
static int accept_soon(int fd)
{
    if (poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, 3000) <= 0)
        return -1;
    return accept(fd, NULL, NULL);
}

static uint16_t port_of(int fd, bool peer)
{
    struct sockaddr_in a = {0};
    socklen_t n = sizeof(a);

    if ((peer ? getpeername(fd, (void *)&a, &n) : getsockname(fd, (void *)&a, &n)) < 0)
        return 0;
    return ntohs(a.sin_port);
}

/* ---- */

static struct sockaddr_in queue_at, group_at, full_at;
static int queue, waiting[WAITING], full, full_clients[2], late, group[GROUP], group_clients[6], group_counts[GROUP];
static int half;

static void make_queue(void)
{
    struct linger l = {0, 0};
    int one = 1, gone;

    queue_at = any_port();
    queue = listen_at(&queue_at, 8, false);
    MUST(setsockopt(queue, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)));
    for (int i = 0; i < WAITING; i++) {
        waiting[i] = connect_to(&queue_at);
        check_sleep(0.02); /* their age is what tells their order */
    }
    half = connect_to(&queue_at);
    MUST(shutdown(half, SHUT_WR));
    check_sleep(0.02);
    gone = connect_to(&queue_at);
    MUST(setsockopt(gone, SOL_SOCKET, SO_LINGER, &l, sizeof(l)));
    MUST(close(gone));
}

static void check_queue(void)
{
    for (int i = 0; i < WAITING; i++) {
        int fd = accept_soon(queue);
        check_num(port_of(waiting[i], false), port_of(fd, true), "port of connection %d", i);
        check_num(port_of(waiting[i], true), port_of(fd, false), "own port of connection %d", i);
        check_num(1, sock_int(fd, IPPROTO_TCP, TCP_NODELAY), "inherited option of connection %d", i);
        MUST(send(waiting[i], "hello", 5, 0));
        sock_expect(fd, "hello", "connection that waited");
    }
    int fd = accept_soon(queue);
    check_num(port_of(half, false), port_of(fd, true), "port of the half-closed connection");
    sock_expect_end(fd, "half-closed before it was accepted");
    fd = accept_soon(queue);
    if (check_true(fd >= 0, "a connection whose client is gone"))
        sock_expect_end(fd, "client gone");
    check_num(EAGAIN, accept(queue, NULL, NULL) < 0 ? errno : 0, "no more connections");
}

static void make_full(void)
{
    full_at = any_port();
    full = listen_at(&full_at, 1, false);
    for (int i = 0; i < 2; i++) {
        full_clients[i] = connect_to(&full_at);
        check_sleep(0.02);
    }
    late = (int)MUST(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
    check_num(EINPROGRESS, connect(late, (void *)&full_at, sizeof(full_at)) < 0 ? errno : 0, "errno of connect");
}

static void check_full(void)
{
    for (int i = 0; i < 2; i++) {
        int fd = accept_soon(full);
        check_num(port_of(full_clients[i], false), port_of(fd, true), "port of connection %d of a full backlog", i);
    }
    /* Now there is room; its SYN comes again after a while. */
    check_true(accept_soon(full) >= 0, "who was connecting gets in");
}

static int count_waiting(int fd)
{
    struct tcp_info i = {0};
    socklen_t n = sizeof(i);

    MUST(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &i, &n));
    return (int)i.tcpi_unacked;
}

static void make_group(void)
{
    group_at = any_port();
    for (int i = 0; i < GROUP; i++)
        group[i] = listen_at(&group_at, 10, true);
    for (int i = 0; i < 6; i++)
        group_clients[i] = connect_to(&group_at);
    for (int i = 0; i < GROUP; i++)
        group_counts[i] = count_waiting(group[i]);
}

static void check_group(void)
{
    int got = 0;

    for (int i = 0; i < GROUP; i++) {
        check_num(group_counts[i], count_waiting(group[i]), "connections at number %d of a group", i);
        check_num(1, sock_int(group[i], SOL_SOCKET, SO_REUSEPORT), "SO_REUSEPORT");
        while (accept(group[i], NULL, NULL) >= 0)
            got++;
    }
    check_num(6, got, "connections of a group");
}

/* ---- with a child ---- */

static int from_child;
static pid_t child;

static void make_child(void)
{
    struct sockaddr_in a = any_port();
    int l = listen_at(&a, 5, false);

    child = (pid_t)MUST(fork());
    if (child == 0) {
        int fd = connect_to(&a);
        MUST(send(fd, "ready", 5, 0));
        check_idle();
        sock_expect(fd, "from the parent", "child");
        MUST(send(fd, "from the child", 14, 0));
        _exit(check_status());
    }
    from_child = accept_soon(l);
    close(l); /* the port has connections only */
    sock_expect(from_child, "ready", "child");
}

int main(int argc, char **argv)
{
    check_init(argc, argv);
    make_queue();
    make_full();
    make_group();
    make_child();

    check_wait();

    if (check_broken())
        MUST(send(from_child, "spoiled", 7, 0));
    check_queue();
    check_full();
    check_group();
    MUST(send(from_child, "from the parent", 15, 0));
    sock_expect(from_child, "from the child", "parent");
    check_child(child, "child");
    return check_end();
}
