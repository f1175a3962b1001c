/*
 * The other calls that a stop can end in the middle (thr_transfer.c has the first): messages with several pieces, several
 * messages at once, a pipe into a socket, a terminal that waits for a number of bytes. None may return a short count, and
 * no byte may be lost or doubled.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"

#define SIZE     (1 << 20)
#define PIECE    16384 /* of several messages */
#define MESSAGES (SIZE / PIECE)
#define PIPE     (256 << 10)
#define KEYS     10

struct job {
    const char *name;
    ssize_t (*call)(struct job *j);
    ssize_t want;    /* its result */
    size_t given;    /* bytes that it waits in the middle of, if it receives */
    unsigned char *data;
    int fd, other;
    pthread_t thread;
    volatile pid_t tid;
    volatile int done;
    ssize_t result;
};

static ssize_t call_sendmsg(struct job *j)
{
    struct iovec iov = {j->data, SIZE};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};

    return sendmsg(j->fd, &m, MSG_NOSIGNAL);
}

static ssize_t call_sendmsg_pieces(struct job *j)
{
    struct iovec iov[3] = {{j->data, 1000}, {j->data + 1000, SIZE / 2}, {j->data + 1000 + SIZE / 2, SIZE / 2 - 1000}};
    char control[CMSG_SPACE(sizeof(int))] = "";
    struct msghdr m = {.msg_iov = iov, .msg_iovlen = 3, .msg_control = control, .msg_controllen = sizeof(control)};
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);

    *c = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
    memcpy(CMSG_DATA(c), &j->fd, sizeof(int));
    return sendmsg(j->fd, &m, MSG_NOSIGNAL);
}

static ssize_t call_recvmsg(struct job *j)
{
    struct iovec iov[2] = {{j->data, 1000}, {j->data + 1000, SIZE - 1000}};
    struct msghdr m = {.msg_iov = iov, .msg_iovlen = 2};

    return recvmsg(j->fd, &m, MSG_WAITALL);
}

static void many(struct job *j, struct mmsghdr m[MESSAGES], struct iovec iov[MESSAGES])
{
    memset(m, 0, MESSAGES * sizeof(*m));
    for (int i = 0; i < MESSAGES; i++) {
        iov[i] = (struct iovec){j->data + i * PIECE, PIECE};
        m[i].msg_hdr.msg_iov = &iov[i];
        m[i].msg_hdr.msg_iovlen = 1;
    }
}

static ssize_t call_sendmmsg(struct job *j)
{
    struct mmsghdr m[MESSAGES];
    struct iovec iov[MESSAGES];

    many(j, m, iov);
    return sendmmsg(j->fd, m, MESSAGES, MSG_NOSIGNAL);
}

static ssize_t call_recvmmsg(struct job *j)
{
    struct mmsghdr m[MESSAGES];
    struct iovec iov[MESSAGES];
    ssize_t n;

    many(j, m, iov);
    n = recvmmsg(j->fd, m, MESSAGES, 0, NULL);
    check_num(-EAGAIN, recv(j->fd, iov, 1, MSG_DONTWAIT) < 0 ? -errno : 0, "%s: errno of the next call", j->name);
    return n;
}

static ssize_t call_splice(struct job *j)
{
    int p[2];

    MUST(pipe(p));
    MUST(fcntl(p[1], F_SETPIPE_SZ, PIPE));
    check_num(PIPE, write(p[1], j->data, PIPE), "bytes in the pipe");
    return splice(p[0], NULL, j->fd, NULL, SIZE, 0);
}

static ssize_t call_read(struct job *j)
{
    return read(j->fd, j->data, SIZE);
}

static struct job jobs[] = {
    {.name = "sendmsg", .call = call_sendmsg, .want = SIZE},
    {.name = "sendmsg with several pieces", .call = call_sendmsg_pieces, .want = SIZE},
    {.name = "recvmsg with MSG_WAITALL", .call = call_recvmsg, .want = SIZE, .given = 70000},
    {.name = "sendmmsg", .call = call_sendmmsg, .want = MESSAGES},
    {.name = "recvmmsg", .call = call_recvmmsg, .want = MESSAGES, .given = 3 * PIECE},
    {.name = "splice of a pipe to a socket", .call = call_splice, .want = PIPE},
    {.name = "read from a terminal", .call = call_read, .want = KEYS, .given = 3},
};
#define JOBS (sizeof(jobs) / sizeof(jobs[0]))

static bool is_terminal(const struct job *j)
{
    return j->call == call_read;
}

static bool has_messages(const struct job *j)
{
    return j->call == call_sendmmsg || j->call == call_recvmmsg;
}

/* Bytes that go through in all. */
static size_t size_of(const struct job *j)
{
    return has_messages(j) ? SIZE : (size_t)j->want;
}

static void *thread(void *arg)
{
    struct job *j = arg;

    j->tid = (pid_t)syscall(SYS_gettid);
    j->result = j->call(j);
    if (j->result < 0)
        j->result = -errno;
    j->done = 1;
    return NULL;
}

static void open_terminal(struct job *j)
{
    struct termios t;

    j->other = (int)MUST(posix_openpt(O_RDWR | O_NOCTTY));
    MUST(grantpt(j->other));
    MUST(unlockpt(j->other));
    j->fd = (int)MUST(open(ptsname(j->other), O_RDWR | O_NOCTTY));
    MUST(tcgetattr(j->fd, &t));
    cfmakeraw(&t);
    t.c_cc[VMIN] = KEYS;
    t.c_cc[VTIME] = 0;
    MUST(tcsetattr(j->fd, TCSANOW, &t));
}

static void give(const struct job *j, const unsigned char *data, size_t from, size_t to)
{
    size_t most = has_messages(j) ? PIECE : SIZE;

    for (ssize_t n; from < to; from += (size_t)n)
        n = MUST(write(j->other, data + from, to - from < most ? to - from : most));
}

/* It sleeps, again and again: it has got as far as it can for the moment. */
static void await_block(const struct job *j)
{
    char path[64], text[512];

    snprintf(path, sizeof(path), "/proc/self/task/%d/stat", j->tid);
    for (int same = 0; same < 10;) {
        check_sleep(0.005);
        check_slurp(path, text, sizeof(text));
        same = strstr(text, ") S ") ? same + 1 : 0;
    }
}

static void start(struct job *j, unsigned seed)
{
    int ends[2], size = 65536;

    if (is_terminal(j)) {
        open_terminal(j);
    } else {
        MUST(socketpair(AF_UNIX, has_messages(j) ? SOCK_DGRAM : SOCK_STREAM, 0, ends));
        j->other = ends[0];
        j->fd = ends[1];
        MUST(setsockopt(j->fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)));
    }
    j->data = malloc(SIZE);
    check_fill(j->data, SIZE, seed);
    if (j->given) {
        give(j, j->data, 0, j->given);
        memset(j->data, 0, SIZE);
    }
    pthread_create(&j->thread, NULL, thread, j);
    while (!j->tid)
        check_sleep(0.001);
    await_block(j);
    check_num(0, j->done, "%s has returned", j->name);
}

static void finish(struct job *j, unsigned seed)
{
    unsigned char *got = calloc(1, SIZE), *want = malloc(SIZE);
    struct pollfd p = {.fd = j->other, .events = POLLIN};
    size_t total = 0, size = size_of(j);

    check_fill(want, SIZE, seed);
    if (j->given)
        give(j, want, j->given, size);
    while (!j->given && total < size && (!j->done || poll(&p, 1, 0) > 0))
        if (poll(&p, 1, 20) > 0)
            total += (size_t)MUST(read(j->other, got + total, SIZE - total));
    pthread_join(j->thread, NULL);
    check_num(j->want, j->result, "%s: result (or -errno)", j->name);
    if (!j->given)
        check_num((long long)size, (long long)total, "%s: bytes that arrived", j->name);
    if (check_broken())
        want[1] ^= 1;
    check_mem(want, j->given ? j->data : got, size, j->name);
    free(got);
    free(want);
}

int main(int argc, char **argv)
{
    check_init(argc, argv);
    for (unsigned i = 0; i < JOBS; i++)
        start(&jobs[i], i);

    check_wait();

    for (unsigned i = 0; i < JOBS; i++)
        finish(&jobs[i], i);
    return check_end();
}
