/*
 * Calls that wait for nothing but take long, and look in between whether they are to stop: random bytes, zeros, a file that
 * is copied. Threads make them again and again; none may ever return a short count.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/sendfile.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"

#define SIZE (8 << 20)

struct job {
    const char *name;
    ssize_t (*call)(struct job *j);
    unsigned char *data;
    int in, out;
    pthread_t thread;
    volatile unsigned rounds;
};

static ssize_t call_getrandom(struct job *j)
{
    return getrandom(j->data, check_broken() ? SIZE - 1 : SIZE, 0);
}

static ssize_t call_read(struct job *j)
{
    return read(j->in, j->data, SIZE);
}

static ssize_t call_sendfile(struct job *j)
{
    off_t from = 0;

    MUST(lseek(j->out, 0, SEEK_SET));
    return sendfile(j->out, j->in, &from, SIZE);
}

static ssize_t call_copy(struct job *j)
{
    loff_t from = 0, to = 0;

    return copy_file_range(j->in, &from, j->out, &to, SIZE, 0);
}

static struct job jobs[] = {
    {.name = "getrandom", .call = call_getrandom},
    {.name = "read from /dev/zero", .call = call_read},
    {.name = "read from /dev/urandom", .call = call_read},
    {.name = "sendfile to a file", .call = call_sendfile},
    {.name = "copy_file_range", .call = call_copy},
};
#define JOBS (sizeof(jobs) / sizeof(jobs[0]))

static int new_file(int i, const void *data)
{
    char name[32];
    int fd;

    snprintf(name, sizeof(name), "transfer.%d", i);
    fd = (int)MUST(open(check_path(name), O_RDWR | O_CREAT | O_TRUNC, 0600));
    if (data)
        check_num(SIZE, write(fd, data, SIZE), "bytes of a file");
    return fd;
}

static void *thread(void *arg)
{
    struct job *j = arg;

    while (!check_go()) {
        ssize_t n = j->call(j);
        check_num(SIZE, n < 0 ? -errno : n, "%s: result (or -errno) of call %u", j->name, j->rounds);
        j->rounds++;
    }
    return NULL;
}

int main(int argc, char **argv)
{
    check_init(argc, argv);
    for (unsigned i = 0; i < JOBS; i++) {
        struct job *j = &jobs[i];
        j->data = malloc(SIZE);
        check_fill(j->data, SIZE, i);
        if (j->call == call_read)
            j->in = (int)MUST(open(j->name + strlen("read from "), O_RDONLY));
        if (j->call == call_sendfile || j->call == call_copy) {
            j->in = new_file((int)i, j->data);
            j->out = new_file((int)(i + JOBS), NULL);
        }
        pthread_create(&j->thread, NULL, thread, j);
    }
    for (unsigned i = 0; i < JOBS; i++)
        while (jobs[i].rounds < 2)
            check_sleep(0.001);

    check_wait();

    for (unsigned i = 0; i < JOBS; i++)
        pthread_join(jobs[i].thread, NULL);
    return check_end();
}
