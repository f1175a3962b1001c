/*
 * Scheduling that needs a right: real-time policies with priorities, deadline parameters, reset-on-fork,
 * negative nice values, real-time I/O priority. A thread of each kind.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"

struct attr { /* struct sched_attr, which glibc 2.36 does not have */
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, deadline, period;
};

struct job {
    const char *name;
    struct attr attr;
    long ioprio;
    pthread_t thread;
};

#define RESET_ON_FORK 1

static struct job jobs[] = {
    {"SCHED_FIFO", {sizeof(struct attr), SCHED_FIFO, 0, 0, 11, 0, 0, 0}, 1 << 13 | 3, 0},
    {"SCHED_RR", {sizeof(struct attr), SCHED_RR, RESET_ON_FORK, 0, 5, 0, 0, 0}, 3 << 13, 0},
    {"SCHED_OTHER", {sizeof(struct attr), SCHED_OTHER, RESET_ON_FORK, -7, 0, 0, 0, 0}, 2 << 13 | 1, 0},
    {"SCHED_BATCH", {sizeof(struct attr), SCHED_BATCH, 0, -3, 0, 0, 0, 0}, 2 << 13 | 7, 0},
    {"SCHED_DEADLINE", {sizeof(struct attr), 6, 0, 0, 0, 1000000, 20000000, 30000000}, 2 << 13 | 2, 0},
};

#define JOBS (sizeof(jobs) / sizeof(jobs[0]))

static pthread_barrier_t all_set;

static void *thread(void *arg)
{
    struct job *job = arg;
    struct attr before = {0}, after = {0};
    long ioprio;
    bool have = true;

    if (syscall(SYS_sched_setattr, 0, &job->attr, 0) < 0) {
        check_note("%s can't be had here: %s", job->name, strerror(errno));
        have = false;
    }
    MUST(syscall(SYS_ioprio_set, 1, 0, job->ioprio));
    MUST(syscall(SYS_sched_getattr, 0, &before, sizeof(before), 0));
    if (have)
        check_num(job->attr.policy, before.policy, "%s: policy that was just set", job->name);
    ioprio = MUST(syscall(SYS_ioprio_get, 1, 0));
    pthread_barrier_wait(&all_set);

    check_idle();

    if (check_broken())
        MUST(syscall(SYS_ioprio_set, 1, 0, 2 << 13 | 5));
    MUST(syscall(SYS_sched_getattr, 0, &after, sizeof(after), 0));
    check_num(before.policy, after.policy, "%s: policy", job->name);
    check_num((long long)before.flags, (long long)after.flags, "%s: flags", job->name);
    check_num(before.nice, after.nice, "%s: nice", job->name);
    check_num(before.priority, after.priority, "%s: priority", job->name);
    check_num((long long)before.runtime, (long long)after.runtime, "%s: runtime", job->name);
    check_num((long long)before.deadline, (long long)after.deadline, "%s: deadline", job->name);
    check_num((long long)before.period, (long long)after.period, "%s: period", job->name);
    check_num(ioprio, syscall(SYS_ioprio_get, 1, 0), "%s: I/O priority", job->name);
    return NULL;
}

int main(int argc, char **argv)
{
    unsigned i;

    check_init(argc, argv);
    pthread_barrier_init(&all_set, NULL, JOBS + 1);
    for (i = 0; i < JOBS; i++)
        pthread_create(&jobs[i].thread, NULL, thread, &jobs[i]);
    pthread_barrier_wait(&all_set);

    check_wait();

    for (i = 0; i < JOBS; i++)
        pthread_join(jobs[i].thread, NULL);
    return check_end();
}
