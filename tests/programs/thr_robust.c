/*
 * Robust mutexes: one held by a thread that dies after the checkpoint and one held by a process that is
 * killed after it; the next owner must be told. This needs each thread's robust list and its tid.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"

struct shared {
    pthread_mutex_t by_thread, by_process, contended;
    volatile int ready;
};

static struct shared *s;

static void init(pthread_mutex_t *mutex)
{
    pthread_mutexattr_t attr;

    pthread_mutexattr_init(&attr);
    pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
    pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
    pthread_mutex_init(mutex, &attr);
}

static void *holder(void *arg)
{
    pthread_mutex_lock(&s->by_thread);
    __atomic_add_fetch(&s->ready, 1, __ATOMIC_SEQ_CST);
    check_idle();
    if (check_broken())
        pthread_mutex_unlock(&s->by_thread);
    return arg; /* dies with the mutex locked */
}

static void *waiter(void *arg)
{
    __atomic_add_fetch(&s->ready, 1, __ATOMIC_SEQ_CST);
    check_num(EOWNERDEAD, pthread_mutex_lock(&s->contended), "lock of a mutex that was waited for since before");
    pthread_mutex_consistent(&s->contended);
    pthread_mutex_unlock(&s->contended);
    return arg;
}

static void __attribute__((noreturn)) process(void)
{
    pthread_mutex_lock(&s->by_process);
    pthread_mutex_lock(&s->contended);
    __atomic_add_fetch(&s->ready, 1, __ATOMIC_SEQ_CST);
    for (;;)
        pause();
}

static void take_over(pthread_mutex_t *mutex, const char *what)
{
    check_num(EOWNERDEAD, pthread_mutex_lock(mutex), "%s", what);
    check_num(0, pthread_mutex_consistent(mutex), "%s: pthread_mutex_consistent", what);
    check_num(0, pthread_mutex_unlock(mutex), "%s: unlock", what);
}

int main(int argc, char **argv)
{
    pthread_t thread, waiting;
    pid_t pid;

    check_init(argc, argv);
    s = mmap(NULL, sizeof(*s), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    MUST(s);
    init(&s->by_thread);
    init(&s->by_process);
    init(&s->contended);
    pid = (pid_t)MUST(fork());
    if (pid == 0)
        process();
    pthread_create(&thread, NULL, holder, NULL);
    while (__atomic_load_n(&s->ready, __ATOMIC_SEQ_CST) < 2)
        check_sleep(0.002);
    pthread_create(&waiting, NULL, waiter, NULL);
    while (__atomic_load_n(&s->ready, __ATOMIC_SEQ_CST) < 3)
        check_sleep(0.002);
    check_sleep(0.05);

    check_wait();

    pthread_join(thread, NULL);
    check_num(EBUSY, pthread_mutex_trylock(&s->by_process), "trylock of the mutex of a living process");
    take_over(&s->by_thread, "lock of the mutex of a thread that has died");
    MUST(kill(pid, SIGKILL));
    MUST(waitpid(pid, NULL, 0));
    take_over(&s->by_process, "lock of the mutex of a process that was killed");
    pthread_join(waiting, NULL);
    return check_end();
}
