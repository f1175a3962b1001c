/*
 * A dead thread-group leader: main has called pthread_exit(), the process lives in its other threads and
 * shows its first thread as a zombie.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"

static char leader_state(void)
{
    char path[64], stat[1024], *at;

    snprintf(path, sizeof(path), "/proc/self/task/%d/stat", getpid());
    check_slurp(path, stat, sizeof(stat));
    at = strrchr(stat, ')');
    return at ? at[2] : '?';
}

static void *other(void *arg)
{
    long tid = syscall(SYS_gettid);

    check_idle();
    check_num(tid, syscall(SYS_gettid), "tid of another thread");
    return arg;
}

static void *survivor(void *arg)
{
    long tid = syscall(SYS_gettid);
    pid_t pid = getpid();
    pthread_t thread;
    void *result = NULL;

    while (leader_state() != 'Z')
        check_sleep(0.005);
    pthread_create(&thread, NULL, other, arg);

    check_wait();

    check_num(check_broken() ? 'S' : 'Z', leader_state(), "state of the thread-group leader");
    check_num(pid, getpid(), "pid");
    check_num(tid, syscall(SYS_gettid), "tid");
    pthread_join(thread, &result);
    check_str(arg, result ? result : "(nothing)", "what the other thread returned");
    exit(check_end());
}

int main(int argc, char **argv)
{
    static char word[] = "word";
    pthread_t thread;

    check_init(argc, argv);
    pthread_create(&thread, NULL, survivor, word);
    pthread_exit(NULL);
}
