/*
 * Threads that are blocked in the middle of a transfer: a part has gone through, the rest has to wait. Without a signal such
 * a call returns when all is done, so none may return a short count, and no byte may be lost or doubled.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"

#define SIZE (1 << 20)
#define ROOM 1500 /* behind the end of the vDSO, for what adds up the parts of six calls */

struct job {
    const char *name;
    bool socket;
    ssize_t (*call)(struct job *j);
    bool receives;
    pthread_t thread;
    int fd, other;
    ssize_t result;
    unsigned char *data;
    volatile int done;
};

static ssize_t call_write(struct job *j)
{
    return write(j->fd, j->data, SIZE);
}

static ssize_t call_writev(struct job *j)
{
    struct iovec iov[3] = {{j->data, 1000}, {j->data + 1000, SIZE / 2}, {j->data + 1000 + SIZE / 2, SIZE / 2 - 1000}};

    return writev(j->fd, iov, 3);
}

static ssize_t call_send(struct job *j)
{
    return send(j->fd, j->data, SIZE, MSG_NOSIGNAL);
}

static ssize_t call_sendfile(struct job *j)
{
    int file = (int)MUST(open(check_path("sendfile"), O_RDWR | O_CREAT | O_TRUNC, 0600));
    off_t offset = 0;

    MUST(write(file, j->data, SIZE));
    return sendfile(j->fd, file, &offset, SIZE);
}

static ssize_t call_recv(struct job *j)
{
    return recv(j->fd, j->data, SIZE, MSG_WAITALL);
}

static struct job jobs[] = {
    {"write to a pipe", false, call_write, false, 0, -1, -1, 0, NULL, 0},
    {"write to a socket", true, call_write, false, 0, -1, -1, 0, NULL, 0},
    {"writev to a pipe", false, call_writev, false, 0, -1, -1, 0, NULL, 0},
    {"send", true, call_send, false, 0, -1, -1, 0, NULL, 0},
    {"sendfile to a socket", true, call_sendfile, false, 0, -1, -1, 0, NULL, 0},
    {"recv with MSG_WAITALL", true, call_recv, true, 0, -1, -1, 0, NULL, 0},
};
#define JOBS (sizeof(jobs) / sizeof(jobs[0]))

static void *thread(void *arg)
{
    struct job *j = arg;

    j->result = j->call(j);
    if (j->result < 0)
        j->result = -errno;
    j->done = 1;
    return NULL;
}

/* Begun, and as far as it can get for the moment. */
static void start(struct job *j, unsigned seed)
{
    int ends[2], waiting = 0, before = -1;

    if (j->socket)
        MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
    else
        MUST(pipe(ends));
    j->other = ends[0];
    j->fd = ends[1];
    j->data = malloc(SIZE);
    if (j->receives) {
        unsigned char *half = malloc(SIZE);
        check_fill(half, SIZE, seed);
        MUST(write(j->other, half, 70000));
        free(half);
    } else {
        check_fill(j->data, SIZE, seed);
    }
    pthread_create(&j->thread, NULL, thread, j);
    for (int same = 0; same < 10;) {
        check_sleep(0.005);
        MUST(ioctl(j->receives ? j->fd : j->other, FIONREAD, &waiting));
        same = waiting == before && (j->receives ? waiting == 0 : waiting > 0) ? same + 1 : 0;
        before = waiting;
    }
}

static void finish(struct job *j, unsigned seed)
{
    unsigned char *got = malloc(SIZE);
    ssize_t n, total = 0;

    if (j->receives) {
        check_fill(got, SIZE, seed);
        for (total = 70000; total < SIZE; total += n)
            n = MUST(write(j->other, got + total, (size_t)(SIZE - total)));
    } else {
        struct pollfd p = {.fd = j->other, .events = POLLIN};
        while (total < SIZE && (!j->done || poll(&p, 1, 0) > 0)) {
            if (poll(&p, 1, 20) <= 0)
                continue;
            n = MUST(read(j->other, got + total, (size_t)(SIZE - total)));
            total += n;
        }
        check_num(SIZE, total, "%s: bytes that arrived", j->name);
    }
    pthread_join(j->thread, NULL);
    check_num(SIZE, j->result, "%s: result (or -errno)", j->name);
    if (check_broken())
        got[77] ^= 1;
    check_filled(j->receives ? j->data : got, (size_t)total, seed, j->name);
    if (check_broken())
        check_filled(got, (size_t)total, seed, j->name);
    free(got);
}

/* Zeros at the end of the vDSO. */
static int room(void)
{
    char line[512];
    unsigned long start, end = 0;
    FILE *f = fopen("/proc/self/maps", "r");
    int n = 0;

    while (f && fgets(line, sizeof(line), f))
        if (strstr(line, "[vdso]") && sscanf(line, "%lx-%lx", &start, &end) == 2)
            break;
    if (f)
        fclose(f);
    while (end && n < 4096 && !((const char *)end)[-1 - n])
        n++;
    return n;
}

int main(int argc, char **argv)
{
    check_init(argc, argv);
    if (room() < ROOM)
        check_skip("the vDSO of this kernel fills its pages");
    for (unsigned i = 0; i < JOBS; i++)
        start(&jobs[i], i);

    check_wait();

    for (unsigned i = 0; i < JOBS; i++)
        finish(&jobs[i], i);
    return check_end();
}
