/*
 * SEM_UNDO of processes whose operations together are more than a semaphore can hold: what each of them takes back when
 * it ends is what it has done, whatever the others did.
 */
#include <errno.h>
#include <signal.h>
#include <sys/ipc.h>
#include <sys/sem.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/programs/check.h"

#define MUCH     20000
#define CHILDREN 3

union semun {
    int val;
};

static int sems;

static void op(int number, int value, int flags)
{
    struct sembuf b = {(unsigned short)number, (short)value, (short)(flags | IPC_NOWAIT)};

    MUST(semop(sems, &b, 1));
}

static int value(int number)
{
    return semctl(sems, number, GETVAL, (union semun){0});
}

/* Adds to the first semaphore, then takes from the second, and leaves them to be undone. */
static pid_t start(void)
{
    pid_t pid = (pid_t)MUST(fork());

    if (pid == 0) {
        op(0, MUCH, SEM_UNDO);
        op(1, -MUCH, SEM_UNDO);
        op(2, 1, SEM_UNDO);
        for (;;)
            pause();
    }
    while (value(2) == 0)
        check_sleep(0.002);
    return pid;
}

/* What others need; no undo of our own. */
static void make_room(int number, int wanted)
{
    if (value(number) != wanted)
        op(number, wanted - value(number), 0);
}

int main(int argc, char **argv)
{
    pid_t pids[CHILDREN];

    check_init(argc, argv);
    sems = (int)MUST(semget(IPC_PRIVATE, 3, IPC_CREAT | 0600));
    for (int i = 0; i < CHILDREN; i++) {
        make_room(0, 0);
        make_room(1, MUCH);
        make_room(2, 0);
        pids[i] = start();
    }
    make_room(0, 32767);
    make_room(2, 5);

    check_wait();

    check_num(check_broken() ? 1 : 32767, value(0), "first semaphore");
    check_num(0, value(1), "second semaphore");
    check_num(5, value(2), "third semaphore");
    for (int i = 0; i < CHILDREN; i++) {
        int status;
        make_room(0, 32767);
        make_room(1, 0);
        make_room(2, 5);
        MUST(kill(pids[i], SIGKILL));
        MUST(waitpid(pids[i], &status, 0));
        check_num(32767 - MUCH, value(0), "first semaphore when child %d is dead", i);
        check_num(MUCH, value(1), "second semaphore when child %d is dead", i);
        check_num(4, value(2), "third semaphore when child %d is dead", i);
    }
    MUST(semctl(sems, 0, IPC_RMID));
    return check_end();
}
