/*
 * Threads each of which is in one call that waits for something. None may come back before the something happens, and
 * then each must come back with the right result.
 */
#ifndef TESTS_PROGRAMS_JOBS_H
#define TESTS_PROGRAMS_JOBS_H

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include "tests/programs/check.h"

enum { NONE = -100000 };

struct job {
    const char *name;
    void (*prepare)(struct job *); /* in main, before the thread; may be NULL */
    long (*call)(struct job *);    /* in the thread: result or -errno */
    void (*release)(struct job *); /* in main: lets the call come back */
    long expected;
    int fds[2];
    pid_t pid;
    pthread_t thread;
    atomic_long result;
    union {
        atomic_int word;
        sem_t sem;
        pthread_mutex_t mutex;
    };
    pthread_cond_t cond;
};

#define JOB(name, prepare, call, release, expected) \
    {name, prepare, call, release, expected, {-1, -1}, 0, 0, NONE, {0}, PTHREAD_COND_INITIALIZER}

static inline long result_of(long result)
{
    return result < 0 ? -errno : result;
}

static inline void *job_thread(void *arg)
{
    struct job *j = arg;

    atomic_store(&j->result, j->call(j));
    return NULL;
}

static inline void job_finish(struct job *j)
{
    double end = check_now(CLOCK_MONOTONIC) + 10;

    if (!check_true(atomic_load(&j->result) == NONE, "%s: came back before it was let: result %ld", j->name,
                    atomic_load(&j->result)))
        return;
    if (!check_broken())
        j->release(j);
    else
        end = check_now(CLOCK_MONOTONIC) + 0.01;
    while (atomic_load(&j->result) == NONE && check_now(CLOCK_MONOTONIC) < end)
        check_sleep(0.001);
    if (atomic_load(&j->result) == NONE)
        check_fail("%s: does not come back", j->name);
    else
        check_num(j->expected, atomic_load(&j->result), "%s: result (or -errno)", j->name);
}

/* Begin all, wait for what is to be survived, end all; returns the exit status of the program. */
static inline int check_jobs(struct job *jobs, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (jobs[i].prepare)
            jobs[i].prepare(&jobs[i]);
    for (size_t i = 0; i < n; i++)
        pthread_create(&jobs[i].thread, NULL, job_thread, &jobs[i]);
    check_sleep(0.2); /* until all are in their calls */

    check_wait();

    check_sleep(0.05);
    for (size_t i = 0; i < n; i++)
        job_finish(&jobs[i]);
    return check_end();
}

#endif
