/* Interval timers and POSIX timers: made with their ids once the threads exist, armed last. */
#include <errno.h>
#include <linux/prctl.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>

#include "base/util.h"
#include "restorer/core.h"

#ifndef PR_TIMER_CREATE_RESTORE_IDS /* Linux 6.15 */
#define PR_TIMER_CREATE_RESTORE_IDS 77
#endif
#define SEARCH_LIMIT 100000 /* timers made and deleted in search of an id, on older kernels */

struct kernel_sigevent {
    uint64_t value;
    int32_t signo, notify, tid;
    int32_t pad[11];
};

static uint64_t event_of(struct inj_batch *b, const PosixTimer *t)
{
    struct kernel_sigevent ev = {.value = t->value, .signo = t->signo, .notify = (int32_t)t->notify,
                                 .tid = t->notify & SIGEV_THREAD_ID ? t->notify_tid : 0};

    return inj_data(b, &ev, sizeof(ev));
}

/* Kernels that let the caller say the id. 1: done, 0: this one does not. */
static int create_by_id(struct rproc *p, struct err *err)
{
    _cleanup_batch_ struct inj_batch b = {0};
    uint32_t on;

    if (inj_begin(&b, &p->inj, err) < 0)
        return -err->code;
    on = inj_call(&b, 0, SYS_prctl, PR_TIMER_CREATE_RESTORE_IDS, 1, 0, 0, 0);
    if (inj_run(&b, err) < 0)
        return -err->code;
    if (inj_failed(inj_ret(&b, on)))
        return 0;
    inj_reset(&b);
    for (size_t i = 0; i < p->timers->n_posix; i++) {
        const PosixTimer *t = p->timers->posix[i];
        inj_call(&b, BLOB_MUST, SYS_timer_create, t->clockid, event_of(&b, t), inj_data(&b, &t->id, sizeof(t->id)));
        if (run_full_batch(&b, "timers", err) < 0)
            return -err->code;
    }
    inj_call(&b, 0, SYS_prctl, PR_TIMER_CREATE_RESTORE_IDS, 0, 0, 0, 0);
    return run_batch(&b, "timers", err) < 0 ? -err->code : 1;
}

/* Others count ids upwards: make and delete until it fits. */
static int create_in_turn(struct rproc *p, const PosixTimer *t, struct err *err)
{
    for (int tries = 0; tries < SEARCH_LIMIT; tries++) {
        _cleanup_batch_ struct inj_batch b = {0};
        int32_t id = -1;
        uint64_t at;
        if (inj_begin(&b, &p->inj, err) < 0)
            return -err->code;
        at = inj_data(&b, &id, sizeof(id));
        inj_call(&b, BLOB_MUST, SYS_timer_create, t->clockid, event_of(&b, t), at);
        if (inj_run(&b, err) < 0 || inj_check(&b, err, "timers") < 0)
            return -err->code;
        memcpy(&id, inj_at(&b, at), sizeof(id));
        if (id == t->id)
            return 0;
        inj_reset(&b);
        inj_call(&b, 0, SYS_timer_delete, id);
        if (inj_run(&b, err) < 0)
            return -err->code;
        if (id > t->id)
            break;
    }
    return err_set(err, ENOTSUP, "process %d: the timer id %d cannot be had on this kernel", p->pid, t->id);
}

int timers_create(struct restore *r, struct rproc *p, struct err *err)
{
    int done;

    (void)r;
    if (!p->timers->n_posix)
        return 0;
    done = create_by_id(p, err);
    for (size_t i = 0; done == 0 && i < p->timers->n_posix; i++)
        if (create_in_turn(p, p->timers->posix[i], err) < 0)
            return -err->code;
    return done < 0 ? done : 0;
}

static struct timespec ts_of(uint64_t ns)
{
    return (struct timespec){(time_t)(ns / 1000000000), (long)(ns % 1000000000)};
}

static struct timeval tv_of(uint64_t ns)
{
    return (struct timeval){(time_t)(ns / 1000000000), (suseconds_t)(ns % 1000000000 / 1000)};
}

int timers_restore(struct restore *r, struct rproc *p, struct err *err)
{
    _cleanup_batch_ struct inj_batch b = {0};

    (void)r;
    if (inj_begin(&b, &p->inj, err) < 0)
        return -err->code;
    for (size_t i = 0; i < p->timers->n_posix; i++) {
        const PosixTimer *t = p->timers->posix[i];
        struct itimerspec its = {ts_of(t->interval_ns), ts_of(t->value_ns)};
        if (t->value_ns)
            inj_call(&b, BLOB_MUST, SYS_timer_settime, t->id, 0, inj_data(&b, &its, sizeof(its)), 0);
        if (run_full_batch(&b, "timers", err) < 0)
            return -err->code;
    }
    for (size_t i = 0; i < p->timers->n_itimers; i++) {
        const ITimer *t = p->timers->itimers[i];
        struct itimerval itv = {tv_of(t->interval_ns), tv_of(t->value_ns)};
        inj_call(&b, BLOB_MUST, SYS_setitimer, t->which, inj_data(&b, &itv, sizeof(itv)), 0);
    }
    return run_batch(&b, "timers", err);
}
