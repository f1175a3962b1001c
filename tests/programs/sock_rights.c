/*
 * Descriptors in flight (SCM_RIGHTS): shared with one that is open, open nowhere else, sockets in flight on each
 * other, a pipe with both ends in flight, many at once, between bytes without any; credentials
 * (SCM_CREDENTIALS) of a living and of a dead process.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"
#include "tests/programs/sock.h"

#define MAX 16

static void send_fds(int fd, const char *text, const int *fds, size_t n)
{
    char control[CMSG_SPACE(MAX * sizeof(int))] __attribute__((aligned(8))) = {0};
    struct iovec iov = {(char *)text, strlen(text)};
    struct msghdr h = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control,
                       .msg_controllen = CMSG_SPACE(n * sizeof(int))};
    struct cmsghdr *c = CMSG_FIRSTHDR(&h);

    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(n * sizeof(int));
    memcpy(CMSG_DATA(c), fds, n * sizeof(int));
    MUST(sendmsg(fd, &h, 0));
}

/* Receive up to len bytes; returns the number of fds. */
static size_t recv_fds(int fd, size_t len, const char *text, int *fds, struct ucred *cred, const char *what)
{
    char control[512] __attribute__((aligned(8)));
    char buf[256] = "";
    struct iovec iov = {buf, len};
    struct msghdr h = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
    size_t n = 0;

    if (recvmsg(fd, &h, MSG_DONTWAIT) < 0) {
        check_fail("%s: %s", what, strerror(errno));
        return 0;
    }
    check_str(text, buf, what);
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&h); c; c = CMSG_NXTHDR(&h, c)) {
        if (c->cmsg_type == SCM_RIGHTS) {
            n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
            memcpy(fds, CMSG_DATA(c), n * sizeof(int));
        } else if (c->cmsg_type == SCM_CREDENTIALS && cred) {
            memcpy(cred, CMSG_DATA(c), sizeof(*cred));
        }
    }
    return n;
}

static int shared[2], file, between[2], ring_a[2], ring_b[2], packets[2], creds[2];
static pid_t dead;

static void make_plain(void)
{
    int p[2], nowhere;

    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, shared));
    file = (int)MUST(open(check_path("shared"), O_RDWR | O_CREAT | O_TRUNC, 0600));
    MUST(write(file, "0123456789", 10));
    MUST(lseek(file, 4, SEEK_SET));
    nowhere = (int)MUST(open(check_path("nowhere"), O_RDWR | O_CREAT | O_TRUNC, 0600));
    MUST(write(nowhere, "open nowhere", 12));
    MUST(lseek(nowhere, 5, SEEK_SET));
    send_fds(shared[0], "two files", (int[]){file, nowhere}, 2);
    close(nowhere);
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, between));
    MUST(send(between[0], "plain", 5, 0));
    MUST(pipe(p));
    MUST(write(p[1], "in a pipe in flight", 19));
    send_fds(between[0], "both ends", p, 2);
    MUST(send(between[0], "plain again", 11, 0));
    send_fds(between[0], "file again", &file, 1);
    close(p[0]);
    close(p[1]);
}

/* a[0] waits in b, b[0] waits in a: no fd leads to either but those in flight. */
static void make_ring(void)
{
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, ring_a));
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, ring_b));
    MUST(send(ring_a[0], "A", 1, 0));
    MUST(send(ring_b[1], "to b0", 5, 0));
    MUST(send(ring_a[1], "to a0", 5, 0));
    send_fds(ring_b[0], "carry a", &ring_a[0], 1);
    send_fds(ring_a[0], "carry b", &ring_b[0], 1);
    close(ring_a[0]);
    close(ring_b[0]);
}

static void make_packets(void)
{
    int fds[MAX];

    MUST(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, packets));
    for (int i = 0; i < MAX; i++) {
        char name[32];
        snprintf(name, sizeof(name), "file%d", i);
        fds[i] = (int)MUST(open(check_path(name), O_RDWR | O_CREAT | O_TRUNC, 0600));
        MUST(write(fds[i], &i, sizeof(i)));
    }
    send_fds(packets[0], "many", fds, MAX);
    MUST(send(packets[0], "none", 4, 0));
    send_fds(packets[0], "itself", &packets[0], 1);
    for (int i = 0; i < MAX; i++)
        close(fds[i]);
}

static void make_creds(void)
{
    int one = 1;

    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, creds));
    MUST(setsockopt(creds[1], SOL_SOCKET, SO_PASSCRED, &one, sizeof(one)));
    MUST(send(creds[0], "mine", 4, 0));
    dead = (pid_t)MUST(fork());
    if (dead == 0) {
        MUST(send(creds[0], "child's", 7, 0));
        _exit(0);
    }
    check_child(dead, "child");
    MUST(send(creds[0], "mine again", 10, 0));
}

static void check_plain(void)
{
    char buf[64] = "";
    int fds[MAX] = {-1, -1};
    struct stat a, b;

    if (!check_num(2, (long long)recv_fds(shared[1], 64, "two files", fds, NULL, "two files"), "fds"))
        return;
    MUST(fstat(file, &a));
    MUST(fstat(fds[0], &b));
    check_num((long long)a.st_ino, (long long)b.st_ino, "the same file");
    check_num(4, lseek(fds[0], 0, SEEK_CUR), "position of the shared one");
    MUST(lseek(file, 7, SEEK_SET));
    check_num(7, lseek(fds[0], 0, SEEK_CUR), "position is shared");
    check_num(7, read(fds[1], buf, sizeof(buf)), "bytes of the one that was open nowhere");
    check_str("nowhere", buf, "content of the one that was open nowhere");

    check_num(0, (long long)recv_fds(between[1], 5, "plain", fds, NULL, "before the fds"), "fds before");
    if (!check_num(2, (long long)recv_fds(between[1], 4, "both", fds, NULL, "with the fds"), "fds with their byte"))
        return;
    memset(buf, 0, sizeof(buf));
    check_num(19, read(fds[0], buf, sizeof(buf)), "bytes in the pipe");
    check_str("in a pipe in flight", buf, "content of the pipe");
    close(fds[1]);
    check_num(0, read(fds[0], buf, sizeof(buf)), "end of the pipe");
    check_num(0, (long long)recv_fds(between[1], 5, " ends", fds, NULL, "rest"), "fds with the rest");
    check_num(0, (long long)recv_fds(between[1], 11, "plain again", fds, NULL, "after"), "fds after");
    check_num(1, (long long)recv_fds(between[1], 64, "file again", fds, NULL, "again"), "fds again");
}

static void check_ring(void)
{
    int b0[MAX] = {-1}, a0[MAX] = {-1};

    sock_expect(ring_a[1], "A", "ring");
    if (!check_num(1, (long long)recv_fds(ring_a[1], 64, "carry b", b0, NULL, "ring"), "fds of the ring") ||
        !check_num(1, (long long)recv_fds(ring_b[1], 64, "carry a", a0, NULL, "ring"), "fds of the ring"))
        return;
    sock_expect(b0[0], "to b0", "what waited in a socket in flight");
    sock_expect(a0[0], "to a0", "what waited in a socket in flight");
    MUST(send(a0[0], "alive", 5, 0));
    sock_expect(ring_a[1], "alive", "ring");
}

static void check_packets(void)
{
    int fds[MAX] = {0};

    if (check_num(MAX, (long long)recv_fds(packets[1], 64, "many", fds, NULL, "many"), "many fds"))
        for (int i = 0; i < MAX; i++) {
            int v = -1;
            check_num(4, pread(fds[i], &v, sizeof(v), 0), "bytes of file %d", i);
            check_num(i, v, "content of file %d", i);
        }
    check_num(0, (long long)recv_fds(packets[1], 64, "none", fds, NULL, "none"), "no fds");
    check_num(1, (long long)recv_fds(packets[1], 64, "itself", fds, NULL, "itself"), "the sender itself");
    MUST(send(fds[0], "x", 1, 0));
    sock_expect(packets[1], "x", "through the copy in flight");
}

static void check_creds(void)
{
    struct ucred u = {0};
    int fds[MAX];

    recv_fds(creds[1], 64, "mine", fds, &u, "credentials");
    check_num(getpid(), u.pid, "pid of the sender");
    check_num(getuid(), u.uid, "uid of the sender");
    recv_fds(creds[1], 64, "child's", fds, &u, "credentials of the dead");
    check_num(dead, u.pid, "pid of the dead sender");
    recv_fds(creds[1], 64, "mine again", fds, &u, "credentials");
    check_num(getpid(), u.pid, "pid of the sender");
}

int main(int argc, char **argv)
{
    check_init(argc, argv);
    make_plain();
    make_ring();
    make_packets();
    make_creds();

    check_wait();

    if (check_broken())
        sock_expect(shared[1], "t", "spoiled");
    check_plain();
    check_ring();
    check_packets();
    check_creds();
    return check_end();
}
