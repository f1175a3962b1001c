/*
 * Threads in calls on sockets that wait, with and without a time-out of the socket's (SO_RCVTIMEO, SO_SNDTIMEO): with
 * one the kernel ends them with EINTR for every interruption.
 */
#include <errno.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/programs/check.h"
#include "tests/programs/jobs.h"

static const struct timeval hour = {3600, 0};

static void make_pair(struct job *j)
{
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, j->fds));
}

static void make_timed_pair(struct job *j)
{
    make_pair(j);
    MUST(setsockopt(j->fds[0], SOL_SOCKET, SO_RCVTIMEO, &hour, sizeof(hour)));
    MUST(setsockopt(j->fds[0], SOL_SOCKET, SO_SNDTIMEO, &hour, sizeof(hour)));
}

static void fill(int fd)
{
    static char block[65536];

    while (send(fd, block, sizeof(block), MSG_DONTWAIT) > 0)
        ;
    while (send(fd, block, 1, MSG_DONTWAIT) > 0)
        ;
}

static void make_full_pair(struct job *j)
{
    make_pair(j);
    fill(j->fds[0]);
}

static void make_timed_full_pair(struct job *j)
{
    make_timed_pair(j);
    fill(j->fds[0]);
}

static long call_recv(struct job *j)
{
    char buf[16];

    return result_of(recv(j->fds[0], buf, sizeof(buf), 0));
}

static long call_recvmsg(struct job *j)
{
    char buf[16];
    struct iovec v = {buf, sizeof(buf)};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1};

    return result_of(recvmsg(j->fds[0], &m, 0));
}

static long call_recvmmsg(struct job *j)
{
    char buf[16];
    struct iovec v = {buf, sizeof(buf)};
    struct mmsghdr m = {.msg_hdr = {.msg_iov = &v, .msg_iovlen = 1}};
    int n = recvmmsg(j->fds[0], &m, 1, 0, NULL);

    return n == 1 ? (long)m.msg_len : result_of(n);
}

static long call_read(struct job *j)
{
    char buf[16];

    return result_of(read(j->fds[0], buf, sizeof(buf)));
}

static long call_send(struct job *j)
{
    return result_of(send(j->fds[0], "hello", 5, 0));
}

static long call_sendmsg(struct job *j)
{
    struct iovec v = {"hello", 5};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1};

    return result_of(sendmsg(j->fds[0], &m, 0));
}

static void say(struct job *j)
{
    MUST(write(j->fds[1], "hello", 5));
}

static void read_all(struct job *j)
{
    static char block[65536];

    while (recv(j->fds[1], block, sizeof(block), MSG_DONTWAIT) > 0)
        ;
}

/* -- accept and connect ---------------------------------------------------------------------------------- */

static socklen_t name(struct job *j, struct sockaddr_un *a)
{
    *a = (struct sockaddr_un){.sun_family = AF_UNIX};
    snprintf(a->sun_path + 1, sizeof(a->sun_path) - 1, "thr_block_socket-%d-%s", (int)getpid(), j->name);
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(a->sun_path + 1));
}

static void make_listener(struct job *j)
{
    struct sockaddr_un a;
    socklen_t n = name(j, &a);

    j->fds[0] = (int)MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    MUST(bind(j->fds[0], (struct sockaddr *)&a, n));
    MUST(listen(j->fds[0], 0));
}

static void make_timed_listener(struct job *j)
{
    make_listener(j);
    MUST(setsockopt(j->fds[0], SOL_SOCKET, SO_RCVTIMEO, &hour, sizeof(hour)));
}

/* It has no room for another: a connection waits already. */
static void make_full_listener(struct job *j)
{
    struct sockaddr_un a;
    socklen_t n = name(j, &a);

    make_listener(j);
    MUST(connect((int)MUST(socket(AF_UNIX, SOCK_STREAM, 0)), (struct sockaddr *)&a, n));
    j->fds[1] = (int)MUST(socket(AF_UNIX, SOCK_STREAM, 0));
}

static void make_full_listener_and_time_out(struct job *j)
{
    make_full_listener(j);
    MUST(setsockopt(j->fds[1], SOL_SOCKET, SO_SNDTIMEO, &hour, sizeof(hour)));
}

static long call_accept(struct job *j)
{
    return accept(j->fds[0], NULL, NULL) < 0 ? -errno : 1;
}

static long call_connect(struct job *j)
{
    struct sockaddr_un a;
    socklen_t n = name(j, &a);

    return result_of(connect(j->fds[1], (struct sockaddr *)&a, n));
}

static void release_accept(struct job *j)
{
    struct sockaddr_un a;
    socklen_t n = name(j, &a);

    MUST(connect((int)MUST(socket(AF_UNIX, SOCK_STREAM, 0)), (struct sockaddr *)&a, n));
}

static void release_connect(struct job *j)
{
    MUST(accept(j->fds[0], NULL, NULL));
}

static struct job jobs[] = {
    JOB("recv", make_pair, call_recv, say, 5),
    JOB("recv with time-out", make_timed_pair, call_recv, say, 5),
    JOB("recvmsg with time-out", make_timed_pair, call_recvmsg, say, 5),
    JOB("recvmmsg with time-out", make_timed_pair, call_recvmmsg, say, 5),
    JOB("read with time-out", make_timed_pair, call_read, say, 5),
    JOB("send", make_full_pair, call_send, read_all, 5),
    JOB("send with time-out", make_timed_full_pair, call_send, read_all, 5),
    JOB("sendmsg with time-out", make_timed_full_pair, call_sendmsg, read_all, 5),
    JOB("accept", make_listener, call_accept, release_accept, 1),
    JOB("accept with time-out", make_timed_listener, call_accept, release_accept, 1),
    JOB("connect", make_full_listener, call_connect, release_connect, 0),
    JOB("connect with time-out", make_full_listener_and_time_out, call_connect, release_connect, 0),
};

int main(int argc, char **argv)
{
    check_init(argc, argv);
    return check_jobs(jobs, sizeof(jobs) / sizeof(jobs[0]));
}
