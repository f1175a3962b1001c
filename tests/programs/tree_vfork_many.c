/*
 * Several vforks of one process in progress: threads that wait for a child each, of which one executes a program, and a
 * child that waits itself for a child of its own, all of them in one memory. Nobody goes on before its own child is done.
 */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"

#define WAITING 4

/* Of the vforking process and its children. */
static struct {
    volatile int ran[WAITING + 1], may_end[WAITING + 1], returned[WAITING + 1];
} memory;

static int up[2];

/* Each is done by itself, in the order of the numbers. */
static void child(int i)
{
    char *const argv[] = {(char *)"true", NULL};

    memory.ran[i] = 1;
    MUST(write(up[1], "x", 1));
    check_idle();
    while (!memory.may_end[i])
        check_sleep(0.001);
    if (i == 1)
        execv("/bin/true", argv);
    _exit(10 + i);
}

static void reap(int i, pid_t vforked)
{
    int status = 0;

    check_true(memory.may_end[i], "vfork %d returned before its child was done", i);
    check_num(1, memory.ran[i], "what child %d wrote into the shared memory", i);
    check_num(vforked, waitpid(vforked, &status, __WALL), "waitpid of vforked child %d", i);
    check_num(i == 1 ? 0 : check_broken() ? 1 : 10 + i, WEXITSTATUS(status), "exit status of vforked child %d", i);
    memory.returned[i] = 1;
}

/* The last child waits for one of its own. */
static void nested(int i)
{
    pid_t vforked;

    memory.ran[i] = 1;
    vforked = vfork();
    if (vforked == 0)
        child(i + 1);
    reap(i + 1, vforked);
    while (!memory.may_end[i])
        check_sleep(0.001);
    _exit(10 + i);
}

static void *waiting(void *arg)
{
    int i = (int)(long)arg;
    pid_t vforked = vfork();

    if (vforked == 0 && i == WAITING - 1)
        nested(i);
    if (vforked == 0)
        child(i);
    reap(i, vforked);
    return NULL;
}

static int parent(void)
{
    pthread_t threads[WAITING];

    for (long i = 0; i < WAITING; i++)
        pthread_create(&threads[i], NULL, waiting, (void *)i);
    check_idle();
    for (int i = WAITING; i >= 0; i--) { /* others have to stay where they are */
        for (int k = 0; k < i; k++)
            check_num(0, memory.returned[k], "vfork %d has returned", k);
        memory.may_end[i] = 1;
        while (!memory.returned[i])
            check_sleep(0.001);
    }
    for (int i = 0; i < WAITING; i++)
        pthread_join(threads[i], NULL);
    return check_status();
}

int main(int argc, char **argv)
{
    pid_t pid;
    char c;

    check_init(argc, argv);
    MUST(pipe(up));
    pid = (pid_t)MUST(fork());
    if (pid == 0)
        _exit(parent());
    for (int i = 0; i < WAITING; i++)
        MUST(read(up[0], &c, 1));

    check_wait();

    check_child(pid, "process with several vforked children");
    return check_end();
}
