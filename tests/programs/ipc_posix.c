/*
 * POSIX shared memory and semaphores, which are files of /dev/shm: mapped, also in another process, only opened,
 * unlinked; a semaphore with a value and one that somebody waits for. A child changes memory all the time: what it
 * has written and what it remembers of that must be of the same instant.
 */
#include <errno.h>
#include <fcntl.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"

#define SIZE 50000

struct shared {
    volatile unsigned long count;
    char data[SIZE];
};

static char names[5][64];

static int make(int i, const char *what)
{
    int fd;

    snprintf(names[i], sizeof(names[i]), "/dmtcp-test-%s-%d-%lx", what, getpid(), (long)time(NULL));
    fd = shm_open(names[i], O_RDWR | O_CREAT | O_EXCL, 0600);
    MUST(fd);
    MUST(ftruncate(fd, sizeof(struct shared)));
    return fd;
}

static struct shared *map(int fd)
{
    struct shared *s = mmap(NULL, sizeof(*s), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

    MUST(s);
    return s;
}

static sem_t *make_sem(int i, const char *what, unsigned value)
{
    snprintf(names[i], sizeof(names[i]), "/dmtcp-test-%s-%d-%lx", what, getpid(), (long)time(NULL));
    sem_t *sem = sem_open(names[i], O_CREAT | O_EXCL, 0600, value);
    if (sem == SEM_FAILED)
        check_die("sem_open: %s", strerror(errno));
    return sem;
}

/* The name must lead to what is mapped. sem_open(3) would only look up that this process has it open already. */
static void post_by_name(const char *name)
{
    char path[80];
    sem_t *sem;
    int fd;

    snprintf(path, sizeof(path), "/sem.%s", name + 1);
    fd = shm_open(path, O_RDWR, 0);
    MUST(fd);
    sem = mmap(NULL, sizeof(*sem), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    MUST(sem);
    MUST(sem_post(sem));
    MUST(munmap(sem, sizeof(*sem)));
    MUST(close(fd));
}

/* Ends when it is told to, with 1 if memory ever differed from what it had written. */
static int count(struct shared *s, sem_t *begin, sem_t *end)
{
    unsigned long mine = 0;
    bool wrong = false;

    sem_post(begin);
    while (sem_trywait(end) != 0) {
        wrong |= s->count != mine;
        mine++;
        s->count = mine;
        if (mine % 1024 == 0)
            usleep(100);
    }
    return wrong;
}

int main(int argc, char **argv)
{
    struct shared *mapped, *unlinked;
    int opened, fd, value, status;
    sem_t *counted, *begin;
    char before[64];
    pid_t child;

    check_init(argc, argv);
    fd = make(0, "mapped");
    mapped = map(fd);
    MUST(close(fd));
    check_fill(mapped->data, SIZE, 1);
    opened = make(1, "opened");
    check_fill(before, sizeof(before), 2);
    MUST(pwrite(opened, before, sizeof(before), 12345));
    fd = make(2, "unlinked");
    unlinked = map(fd);
    MUST(close(fd));
    MUST(shm_unlink(names[2]));
    check_fill(unlinked->data, SIZE, 3);
    counted = make_sem(3, "counted", 7);
    begin = make_sem(4, "begin", 0);

    child = fork();
    MUST(child);
    if (child == 0) {
        sem_t *end = sem_open(names[3], 0); /* the same by its name */
        for (int i = 0; i < 7; i++)
            sem_trywait(end);
        _exit(count(mapped, begin, end));
    }
    MUST(sem_wait(begin));
    check_wait();

    post_by_name(names[4]);
    MUST(sem_getvalue(begin, &value));
    check_num(1, value, "value of the semaphore that was opened again");
    MUST(sem_getvalue(counted, &value));
    check_num(0, value, "value of the semaphore");
    MUST(sem_post(counted));
    MUST(waitpid(child, &status, 0));
    check_num(check_broken() ? 1 : 0, status, "status of the child");
    check_filled(mapped->data, SIZE, 1, "mapped memory");
    check_filled(unlinked->data, SIZE, 3, "unlinked memory");
    MUST(pread(opened, before, sizeof(before), 12345));
    check_filled(before, sizeof(before), 2, "memory that is only opened");
    for (int i = 0; i < 5; i++)
        if (i != 2)
            check_num(0, i < 2 ? shm_unlink(names[i]) : sem_unlink(names[i]), "removing %s", names[i]);
    return check_end();
}
