/* See pool.h. A single worker runs in the caller's thread: no thread is made for small work. */
#include "tracer/pool.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>

#define MAX_WORKERS 16u

struct pool {
    pool_job job;
    void *arg;
    size_t n;
    size_t next;
    bool failed;
    pthread_mutex_t lock;
    struct err err;
};

struct worker {
    struct pool *pool;
    unsigned number;
    pthread_t thread;
};

unsigned pool_workers(void)
{
    cpu_set_t set;
    unsigned n = sched_getaffinity(0, sizeof(set), &set) == 0 ? (unsigned)CPU_COUNT(&set) : 1;

    return n < 1 ? 1 : n > MAX_WORKERS ? MAX_WORKERS : n;
}

static void *work(void *arg)
{
    struct worker *w = arg;
    struct pool *p = w->pool;
    struct err err = {0};

    for (;;) {
        size_t i = __atomic_fetch_add(&p->next, 1, __ATOMIC_RELAXED);
        if (i >= p->n || __atomic_load_n(&p->failed, __ATOMIC_RELAXED))
            return NULL;
        if (p->job(p->arg, w->number, i, &err) < 0) {
            pthread_mutex_lock(&p->lock);
            if (!p->failed)
                p->err = err;
            __atomic_store_n(&p->failed, true, __ATOMIC_RELAXED);
            pthread_mutex_unlock(&p->lock);
            return NULL;
        }
    }
}

int pool_run(pool_job job, void *arg, size_t n, struct err *err)
{
    struct pool p = {.job = job, .arg = arg, .n = n, .lock = PTHREAD_MUTEX_INITIALIZER};
    struct worker w[MAX_WORKERS];
    unsigned workers = pool_workers(), started = 1;

    if (workers > n)
        workers = n ? (unsigned)n : 1;
    for (unsigned i = 0; i < workers; i++)
        w[i] = (struct worker){.pool = &p, .number = i};
    for (; started < workers; started++)
        if (pthread_create(&w[started].thread, NULL, work, &w[started]) != 0)
            break; /* fewer will do */
    work(&w[0]);
    for (unsigned i = 1; i < started; i++)
        pthread_join(w[i].thread, NULL);
    if (p.failed) {
        *err = p.err;
        return -(err->code ? err->code : EIO);
    }
    return 0;
}
