/* pidfds of threads (PIDFD_THREAD): of another one than the first, which ends when it is told. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"

#define PIDFD_THREAD O_EXCL

static volatile int tid, end;

static void *thread(void *arg)
{
    (void)arg;
    tid = (int)syscall(SYS_gettid);
    while (!end)
        check_sleep(0.002);
    return NULL;
}

static int ended(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};

    return poll(&p, 1, 0) == 1;
}

int main(int argc, char **argv)
{
    int other, first, again;
    pthread_t t;

    check_init(argc, argv);
    MUST(pthread_create(&t, NULL, thread, NULL) ? -1 : 0);
    while (!tid)
        check_sleep(0.001);
    other = (int)syscall(SYS_pidfd_open, tid, PIDFD_THREAD | O_NONBLOCK);
    if (other < 0)
        check_skip("no pidfds of threads here: %s", strerror(errno));
    first = (int)MUST(syscall(SYS_pidfd_open, getpid(), PIDFD_THREAD));
    again = (int)MUST(fcntl(other, F_DUPFD, 50));

    check_wait();

    check_num(O_NONBLOCK, fcntl(again, F_GETFL) & O_NONBLOCK, "PIDFD_NONBLOCK");
    check_num(FD_CLOEXEC, fcntl(other, F_GETFD), "close-on-exec");
    check_num(check_broken(), ended(other), "has the thread ended?");
    check_num(0, ended(first), "has the first thread ended?");
    check_num(0, syscall(SYS_pidfd_send_signal, other, 0, NULL, 0), "signal 0 to the thread");
    end = 1;
    pthread_join(t, NULL);
    for (int i = 0; i < 1000 && !ended(again); i++)
        check_sleep(0.002);
    check_num(1, ended(other), "has the thread ended now?");
    check_num(0, ended(first), "has the first thread ended?");
    return check_end();
}
