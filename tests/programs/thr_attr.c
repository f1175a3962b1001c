/*
 * What each thread has of its own, every thread with different values: thread-local storage, signal mask,
 * alternate stack, name, nice value, scheduling policy, affinity, timer slack, parent-death signal, I/O
 * priority, robust list, clear_child_tid, tid. Only what an ordinary user may set.
 */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"

#define THREADS 12
#ifndef SS_AUTODISARM
#define SS_AUTODISARM (1U << 31)
#endif

struct attr {
    long tid, nice, policy, slack, deathsig, ioprio, cpus;
    unsigned long mask, tls, tls_address, robust, robust_len, stack_sp, stack_size, stack_flags, tid_address;
    char name[16];
};

static __thread unsigned long tls[4] = {1, 2, 3, 4};
static pthread_barrier_t all_set;

static void look(struct attr *a)
{
    cpu_set_t cpus;
    stack_t stack;
    void *head = NULL;
    size_t len = 0;
    int sig = 0, *tid_address = NULL;

    memset(a, 0, sizeof(*a));
    a->tid = syscall(SYS_gettid);
    a->nice = getpriority(PRIO_PROCESS, (id_t)a->tid);
    a->policy = MUST(sched_getscheduler(0));
    a->slack = MUST(prctl(PR_GET_TIMERSLACK));
    MUST(prctl(PR_GET_PDEATHSIG, &sig));
    a->deathsig = sig;
    a->ioprio = MUST(syscall(SYS_ioprio_get, 1, 0));
    MUST(sched_getaffinity(0, sizeof(cpus), &cpus));
    memcpy(&a->cpus, &cpus, sizeof(a->cpus));
    MUST(syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, &a->mask, 8));
    MUST(sigaltstack(NULL, &stack));
    a->stack_sp = (unsigned long)stack.ss_sp;
    a->stack_size = stack.ss_size;
    a->stack_flags = (unsigned long)stack.ss_flags;
    MUST(syscall(SYS_get_robust_list, 0, &head, &len));
    a->robust = (unsigned long)head;
    a->robust_len = len;
    a->tls = tls[2];
    a->tls_address = (unsigned long)tls;
    MUST(prctl(PR_GET_TID_ADDRESS, &tid_address));
    a->tid_address = (unsigned long)tid_address;
    MUST(prctl(PR_GET_NAME, a->name));
}

static void set(int me)
{
    struct sched_param param = {0};
    char name[16], *memory;
    cpu_set_t cpus;
    sigset_t mask;
    stack_t stack;

    snprintf(name, sizeof(name), "thr %d", me);
    MUST(prctl(PR_SET_NAME, name));
    MUST(setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), me % 5));
    MUST(sched_setscheduler(0, me % 3 == 1 ? SCHED_BATCH : me % 3 == 2 ? SCHED_IDLE : SCHED_OTHER, &param));
    MUST(prctl(PR_SET_TIMERSLACK, 50000 + me * 1000));
    MUST(prctl(PR_SET_PDEATHSIG, me % 2 ? SIGRTMIN + me : 0));
    MUST(syscall(SYS_ioprio_set, 1, 0, 2 << 13 | me % 8)); /* best effort */
    MUST(sched_getaffinity(0, sizeof(cpus), &cpus));
    if (me % 2 && CPU_COUNT(&cpus) > 1) {
        int cpu = CPU_SETSIZE - 1;

        while (!CPU_ISSET(cpu, &cpus))
            cpu--;
        CPU_CLR(cpu, &cpus);
        MUST(sched_setaffinity(0, sizeof(cpus), &cpus));
    }
    sigemptyset(&mask);
    sigaddset(&mask, SIGRTMIN + me);
    sigaddset(&mask, me % 2 ? SIGUSR1 : SIGHUP);
    MUST(pthread_sigmask(SIG_BLOCK, &mask, NULL) ? -1 : 0);
    memory = malloc(16384 + (size_t)me * 64);
    stack = (stack_t){.ss_sp = memory, .ss_size = 16384 + (size_t)me * 64, .ss_flags = me % 3 ? 0 : (int)SS_AUTODISARM};
    if (me % 4)
        MUST(sigaltstack(&stack, NULL));
    tls[2] = 1000 + (unsigned long)me;
}

static void compare(int me, const struct attr *a, const struct attr *b)
{
#define SAME(field) check_num((long long)a->field, (long long)b->field, "thread %d: %s", me, #field)
    SAME(tid);
    SAME(nice);
    SAME(policy);
    SAME(slack);
    SAME(deathsig);
    SAME(ioprio);
    SAME(cpus);
    SAME(mask);
    SAME(tls);
    SAME(tls_address);
    SAME(robust);
    SAME(robust_len);
    SAME(stack_sp);
    SAME(stack_size);
    SAME(stack_flags);
    SAME(tid_address);
    check_str(a->name, b->name, "thread name");
#undef SAME
}

static void *thread(void *arg)
{
    int me = (int)(long)arg;
    struct attr before, after;

    set(me);
    look(&before);
    pthread_barrier_wait(&all_set);
    if (me == 0)
        check_wait();
    else
        check_idle();
    if (check_broken() && me == 5)
        MUST(prctl(PR_SET_TIMERSLACK, 1));
    look(&after);
    compare(me, &before, &after);
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t threads[THREADS];
    long i;

    check_init(argc, argv);
    pthread_barrier_init(&all_set, NULL, THREADS);
    for (i = 1; i < THREADS; i++)
        pthread_create(&threads[i], NULL, thread, (void *)i);
    thread((void *)0);
    for (i = 1; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    return check_end();
}
