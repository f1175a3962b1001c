/*
 * System V IPC: shared memory attached (whole, and in part after munmap), detached, marked for deletion,
 * shared with a child; semaphores with values and SEM_UNDO; message queues with messages of several types;
 * ids and keys as before.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"

#define PAGES 5
#define SIZE  (PAGES * 4096 - 100)

union semun {
    int val;
    struct semid_ds *buf;
    unsigned short *array;
};

struct message {
    long type;
    char text[64];
};

struct all {
    int key, attached, detached, doomed, part, sems, queue;
    char *at, *doomed_at, *part_at;
};

static int segment(int key, size_t size, uint64_t seed, char **at)
{
    int id = (int)MUST(shmget(key, size, IPC_CREAT | IPC_EXCL | 0640));

    *at = shmat(id, NULL, 0);
    MUST(*at == (void *)-1 ? -1 : 0);
    check_fill(*at, size, seed);
    return id;
}

static void send(int queue, long type, const char *text)
{
    struct message m = {.type = type};

    snprintf(m.text, sizeof(m.text), "%s", text);
    MUST(msgsnd(queue, &m, strlen(text), 0));
}

static void expect(int queue, long type, long got_type, const char *text)
{
    struct message m = {0};
    ssize_t n = msgrcv(queue, &m, sizeof(m.text), type, IPC_NOWAIT);

    check_num((long long)strlen(text), n, "length of the message '%s'", text);
    check_num(got_type, m.type, "type of the message '%s'", text);
    check_str(text, m.text, "message");
}

static void op(int sems, int number, int value, int flags)
{
    struct sembuf b = {(unsigned short)number, (short)value, (short)flags};

    MUST(semop(sems, &b, 1));
}

static int value(int sems, int number)
{
    return semctl(sems, number, GETVAL, (union semun){0});
}

static void make(struct all *a)
{
    unsigned short values[4] = {5, 0, 7, 32767};
    char *detached;

    a->key = 0x44000000 | (getpid() & 0xffffff);
    a->attached = segment(a->key, SIZE, 1, &a->at);
    a->detached = segment(IPC_PRIVATE, 4096, 2, &detached);
    MUST(shmdt(detached));
    a->doomed = segment(IPC_PRIVATE, 8192, 3, &a->doomed_at);
    MUST(shmctl(a->doomed, IPC_RMID, NULL));
    a->part = segment(IPC_PRIVATE, SIZE, 4, &a->part_at);
    MUST(munmap(a->part_at, 4096));
    MUST(munmap(a->part_at + 3 * 4096L, 4096));
    a->sems = (int)MUST(semget(a->key, 4, IPC_CREAT | IPC_EXCL | 0600));
    MUST(semctl(a->sems, 0, SETALL, (union semun){.array = values}));
    op(a->sems, 0, -2, 0);
    op(a->sems, 1, 3, SEM_UNDO);
    a->queue = (int)MUST(msgget(a->key, IPC_CREAT | IPC_EXCL | 0600));
    send(a->queue, 3, "first");
    send(a->queue, 1, "second");
    send(a->queue, 3, "");
    send(a->queue, 2, "last");
}

/* Holds a semaphore as a lock that is to be released when it dies, and sees the shared memory of its parent.
 */
static _Noreturn void child(const struct all *a)
{
    op(a->sems, 2, -4, SEM_UNDO);
    a->at[100]++;
    check_idle();
    while (a->at[101] != 'g')
        check_sleep(0.002);
    a->at[102] = 'c';
    for (;;)
        pause();
}

static void check_memory(const struct all *a)
{
    struct shmid_ds d;
    char *p;

    MUST(shmctl(a->attached, IPC_STAT, &d));
    check_num(SIZE, (long long)d.shm_segsz, "size");
    check_num(2, (long long)d.shm_nattch, "attachments");
    check_num(0640, d.shm_perm.mode & 0777, "mode");
    check_num(a->attached, shmget(a->key, 0, 0), "id that the key leads to");
    check_filled(a->at + 200, SIZE - 200, 0, "attached segment");
    p = shmat(a->detached, NULL, SHM_RDONLY);
    if (check_true(p != (void *)-1, "detached segment: %s", strerror(errno)))
        check_filled(p, 4096, 2, "detached segment");
    MUST(shmctl(a->doomed, IPC_STAT, &d));
    check_true(d.shm_perm.mode & SHM_DEST, "mark for deletion");
    check_filled(a->doomed_at, 8192, 3, "segment marked for deletion");
    check_num(0, shmdt(a->doomed_at), "detaching it");
}

static void check_part(const struct all *a)
{
    struct shmid_ds d;
    char *whole;

    MUST(shmctl(a->part, IPC_STAT, &d));
    check_num(4, (long long)d.shm_nattch,
              "attachments of the segment in parts"); /* two parts in two processes */
    whole = shmat(a->part, NULL, 0);
    check_filled(whole, SIZE, 4, "segment of which parts were unmapped");
    check_mem(whole + 4096, a->part_at + 4096, 2 * 4096L, "its first part");
    check_mem(whole + 4 * 4096L, a->part_at + 4 * 4096L, SIZE - 4 * 4096, "its second part");
    MUST(munmap(a->part_at + 4096, 2 * 4096L));
    MUST(shmdt(whole));
    MUST(shmctl(a->part, IPC_RMID, NULL));
    MUST(shmctl(a->detached, IPC_RMID, NULL));
}

int main(int argc, char **argv)
{
    struct all a;
    pid_t pid;
    int status;

    check_init(argc, argv);
    make(&a);
    check_fill(a.at + 200, SIZE - 200, 0);
    a.at[100] = 0;
    a.at[101] = 0;
    pid = (pid_t)MUST(fork());
    if (pid == 0)
        child(&a);
    while (a.at[100] == 0)
        check_sleep(0.002);

    check_wait();

    if (check_broken())
        a.at[300]++;
    check_memory(&a);
    check_part(&a);
    check_num(3, value(a.sems, 0), "semaphore 0");
    check_num(3, value(a.sems, 1), "semaphore 1");
    check_num(3, value(a.sems, 2), "semaphore 2, held by the child");
    check_num(32767, value(a.sems, 3), "semaphore 3");
    a.at[101] = 'g';
    while (a.at[102] != 'c')
        check_sleep(0.002);
    MUST(kill(pid, SIGKILL));
    MUST(waitpid(pid, &status, 0));
    check_num(7, value(a.sems, 2), "semaphore 2 when the child is dead");
    expect(a.queue, 0, 3, "first");
    expect(a.queue, -2, 1, "second");
    expect(a.queue, 3, 3, "");
    expect(a.queue, 2, 2, "last");
    check_num(a.queue, msgget(a.key, 0), "queue that the key leads to");
    MUST(msgctl(a.queue, IPC_RMID, NULL));
    MUST(semctl(a.sems, 0, IPC_RMID));
    MUST(shmctl(a.attached, IPC_RMID, NULL));
    return check_end();
}
