/*
 * A storm of threads: they are created, joined, detached and cancelled as fast as possible, take mutexes,
 * hand over items through a queue with conditions, and use thread-local storage. No item may be lost, no
 * thread's result wrong, no counter out of step.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"

#define MAKERS 4
#define QUEUE  16

static __thread unsigned long mine;

static struct {
    pthread_mutex_t lock;
    pthread_cond_t not_empty, not_full;
    unsigned long items[QUEUE], first, count;
    bool closed;
} queue = {.lock = PTHREAD_MUTEX_INITIALIZER,
           .not_empty = PTHREAD_COND_INITIALIZER,
           .not_full = PTHREAD_COND_INITIALIZER};

static atomic_ulong put_sum, got_sum, detached_started, detached_ended, rounds;

static void put(unsigned long item)
{
    pthread_mutex_lock(&queue.lock);
    while (queue.count == QUEUE)
        pthread_cond_wait(&queue.not_full, &queue.lock);
    queue.items[(queue.first + queue.count++) % QUEUE] = item;
    pthread_cond_signal(&queue.not_empty);
    pthread_mutex_unlock(&queue.lock);
    atomic_fetch_add(&put_sum, item);
}

static void *taker(void *arg)
{
    for (;;) {
        unsigned long item;

        pthread_mutex_lock(&queue.lock);
        while (queue.count == 0 && !queue.closed)
            pthread_cond_wait(&queue.not_empty, &queue.lock);
        if (queue.count == 0) {
            pthread_mutex_unlock(&queue.lock);
            return arg;
        }
        item = queue.items[queue.first];
        queue.first = (queue.first + 1) % QUEUE;
        queue.count--;
        pthread_cond_signal(&queue.not_full);
        pthread_mutex_unlock(&queue.lock);
        atomic_fetch_add(&got_sum, item);
    }
}

static void *short_lived(void *arg)
{
    unsigned long n = (unsigned long)arg, i, x = n;

    check_num(0, (long long)mine, "thread-local storage of a new thread");
    mine = n;
    for (i = 0; i < 200; i++)
        x = x * 6364136223846793005u + 1;
    put(n & 0xffff);
    check_num((long long)n, (long long)mine, "thread-local storage at the end");
    return (void *)x;
}

static void *detached(void *arg)
{
    put(1);
    atomic_fetch_add(&detached_ended, 1);
    return arg;
}

static void *cancelled(void *arg)
{
    for (;;)
        pause();
    return arg;
}

static void join_one(unsigned long n)
{
    unsigned long i, x = n;
    pthread_t thread;
    void *result;

    if (pthread_create(&thread, NULL, short_lived, (void *)n))
        check_die("pthread_create");
    check_num(0, pthread_join(thread, &result), "pthread_join");
    for (i = 0; i < 200; i++)
        x = x * 6364136223846793005u + 1;
    check_num((long long)x, (long long)(unsigned long)result, "result of a thread");
}

static void cancel_one(void)
{
    pthread_t thread;
    void *result;

    if (pthread_create(&thread, NULL, cancelled, NULL))
        check_die("pthread_create");
    pthread_cancel(thread);
    check_num(0, pthread_join(thread, &result), "pthread_join of a cancelled thread");
    check_num(1, result == PTHREAD_CANCELED, "result of a cancelled thread");
}

static void detach_one(void)
{
    pthread_attr_t attr;
    pthread_t thread;

    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    atomic_fetch_add(&detached_started, 1);
    if (pthread_create(&thread, &attr, detached, NULL))
        check_die("pthread_create");
    pthread_attr_destroy(&attr);
}

static void *maker(void *arg)
{
    unsigned long n;

    for (n = (unsigned long)arg; (!check_go() || !atomic_load(&rounds)) && !check_status(); n++) {
        join_one(n);
        if (n % 5 == 0)
            cancel_one();
        if (n % 3 == 0)
            detach_one();
        atomic_fetch_add(&rounds, 1);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t makers[MAKERS], takers[2];
    unsigned long i;

    check_init(argc, argv);
    for (i = 0; i < 2; i++)
        pthread_create(&takers[i], NULL, taker, NULL);
    for (i = 0; i < MAKERS; i++)
        pthread_create(&makers[i], NULL, maker, (void *)(i << 32));
    check_ready();
    for (i = 0; i < MAKERS; i++)
        pthread_join(makers[i], NULL);
    for (i = 0; i < 2000 && atomic_load(&detached_ended) < atomic_load(&detached_started); i++)
        check_sleep(0.005);
    check_num((long long)atomic_load(&detached_started), (long long)atomic_load(&detached_ended), "detached threads");
    pthread_mutex_lock(&queue.lock);
    queue.closed = true;
    pthread_cond_broadcast(&queue.not_empty);
    pthread_mutex_unlock(&queue.lock);
    for (i = 0; i < 2; i++)
        pthread_join(takers[i], NULL);
    if (check_broken())
        atomic_fetch_add(&got_sum, 1);
    check_num((long long)atomic_load(&put_sum), (long long)atomic_load(&got_sum), "sum of the items");
    check_true(atomic_load(&rounds) > 0, "not one round");
    return check_end();
}
