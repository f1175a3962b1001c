/*
 * A thousand threads, each with its own tid, thread-local storage, stack content and name, most of them
 * blocked on a condition, some computing; all are joined in the end, which needs clear_child_tid.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"

#define THREADS 1000

static __thread unsigned long mine;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
static bool released;
static atomic_int started, woken_early;

static void compute(unsigned long me)
{
    unsigned long n = 0, sum = me, again = me, i;

    while (!check_go()) {
        for (i = 0; i < 1000; i++, n++)
            sum = sum * 6364136223846793005u + n;
        check_sleep(0.002);
    }
    for (i = 0; i < n; i++)
        again = again * 6364136223846793005u + i;
    check_num((long long)again, (long long)sum, "sum of thread %lu after %lu steps", me, n);
}

static void block(void)
{
    pthread_mutex_lock(&lock);
    while (!released) {
        pthread_cond_wait(&wake, &lock);
        if (!released)
            atomic_fetch_add(&woken_early, 1);
    }
    pthread_mutex_unlock(&lock);
}

static void *thread(void *arg)
{
    unsigned long me = (unsigned long)arg;
    unsigned char local[1000];
    char name[16], now[16];
    long tid = syscall(SYS_gettid);

    mine = me * 7;
    check_fill(local, sizeof(local), me);
    snprintf(name, sizeof(name), "t%lu", me);
    MUST(prctl(PR_SET_NAME, name));
    atomic_fetch_add(&started, 1);
    if (me % 50 == 0)
        compute(me);
    else
        block();
    if (check_broken() && me == 500)
        mine++;
    check_num((long long)me * 7, (long long)mine, "thread-local value of thread %lu", me);
    check_num(tid, syscall(SYS_gettid), "tid of thread %lu", me);
    check_filled(local, sizeof(local), me, "stack of a thread");
    MUST(prctl(PR_GET_NAME, now));
    check_str(name, now, "name of a thread");
    return (void *)(me + 1);
}

int main(int argc, char **argv)
{
    static pthread_t threads[THREADS];
    pthread_attr_t attr;
    unsigned long i;
    void *result;

    check_init(argc, argv);
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, 128 * 1024);
    for (i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], &attr, thread, (void *)i))
            check_die("pthread_create: thread %lu", i);
    while (atomic_load(&started) < THREADS)
        check_sleep(0.005);

    check_wait();

    pthread_mutex_lock(&lock);
    released = true;
    pthread_cond_broadcast(&wake);
    pthread_mutex_unlock(&lock);
    for (i = 0; i < THREADS; i++) {
        pthread_join(threads[i], &result);
        check_num((long long)i + 1, (long)result, "result of thread %lu", i);
    }
    check_num(0, atomic_load(&woken_early), "threads woken although nobody woke them");
    return check_end();
}
