/*
 * Interval timers and POSIX timers. A timer goes on with the time that it had left. POSIX timers must have their
 * ids: newer kernels let us choose (PR_TIMER_CREATE_RESTORE_IDS), older ones count up, so timers are made and removed
 * until the number is reached.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>

#include "base/util.h"
#include "restorer/core.h"

#ifndef PR_TIMER_CREATE_RESTORE_IDS
#define PR_TIMER_CREATE_RESTORE_IDS 77
#endif
#define TRIES_MAX 1000000 /* of counting up */
#define SECOND    1000000000ull

static struct timespec timespec_of(uint64_t ns)
{
    return (struct timespec){.tv_sec = (time_t)(ns / SECOND), .tv_nsec = (long)(ns % SECOND)};
}

static struct timeval timeval_of(uint64_t ns)
{
    /* Rounded up: a timer that was running must not be stopped by it. */
    uint64_t us = (ns + 999) / 1000;

    return (struct timeval){.tv_sec = (time_t)(us / 1000000), .tv_usec = (suseconds_t)(us % 1000000)};
}

static uint64_t event(const PosixTimer *t, struct inj_batch *b)
{
    struct {
        uint64_t value;
        int32_t signo, notify, tid, pad[11];
    } e = {.value = t->value, .signo = t->signo, .notify = (int32_t)t->notify, .tid = t->notify_tid};

    return inj_data(b, &e, sizeof(e));
}

/* Old kernels: the ids go up by one with each timer of the process. */
static int count_up(struct rproc *p, const PosixTimer *t, struct inj_batch *b, struct err *err)
{
    for (int tries = 0; tries < TRIES_MAX; tries++) {
        uint64_t id_at;
        int32_t id;
        uint32_t call;

        inj_reset(b);
        id_at = inj_data(b, NULL, sizeof(id));
        call = inj_call(b, 0, SYS_timer_create, t->clockid, event(t, b), id_at);
        if (inj_run(b, err) < 0)
            return -err->code;
        if (inj_failed(inj_ret(b, call)))
            return err_set(err, (int)-inj_ret(b, call), "process %d: timer %d: %s", p->pid, t->id,
                           strerror((int)-inj_ret(b, call)));
        memcpy(&id, inj_at(b, id_at), sizeof(id));
        inj_reset(b);
        if (id == t->id)
            return 0;
        inj_call(b, 0, SYS_timer_delete, id);
        if (inj_run(b, err) < 0)
            return -err->code;
        if (id > t->id)
            break;
    }
    return err_set(err, ENOTSUP, "process %d: timer %d: this kernel does not give that id again", p->pid, t->id);
}

static int by_id(const void *a, const void *b)
{
    const PosixTimer *x = *(PosixTimer *const *)a, *y = *(PosixTimer *const *)b;

    return x->id < y->id ? -1 : x->id > y->id;
}

/* Threads exist: a timer may be for one of them. */
int timers_create(struct restore *r, struct rproc *p, struct err *err)
{
    _cleanup_batch_ struct inj_batch b = {0};
    uint32_t choose;
    bool may_choose;

    if (!p->timers || !p->timers->n_posix)
        return 0;
    if (inj_begin(&b, &p->inj, err) < 0)
        return -err->code;
    choose = inj_call(&b, 0, SYS_prctl, PR_TIMER_CREATE_RESTORE_IDS, 1, 0, 0, 0);
    if (inj_run(&b, err) < 0)
        return -err->code;
    may_choose = inj_ret(&b, choose) == 0;
    inj_reset(&b);
    qsort(p->timers->posix, p->timers->n_posix, sizeof(*p->timers->posix), by_id);
    for (size_t i = 0; i < p->timers->n_posix; i++) {
        const PosixTimer *t = p->timers->posix[i];
        if (!may_choose && count_up(p, t, &b, err) < 0)
            return -err->code;
        if (may_choose)
            inj_call(&b, BLOB_MUST, SYS_timer_create, t->clockid, event(t, &b), inj_data(&b, &t->id, sizeof(t->id)));
        if (run_full_batch(&b, "timers", err) < 0)
            return -err->code;
    }
    if (may_choose)
        inj_call(&b, BLOB_MUST, SYS_prctl, PR_TIMER_CREATE_RESTORE_IDS, 0, 0, 0, 0);
    return run_batch(&b, "timers", err);
}

/* --- arming --------------------------------------------------------------------------------------- */

static bool signal_of(const PosixTimer *t, const siginfo_t *si)
{
    return si->si_code == SI_TIMER && si->si_timerid == t->id && si->si_signo == t->signo;
}

bool timer_sends(const struct rproc *p, const siginfo_t *si)
{
    for (size_t i = 0; p->timers && i < p->timers->n_posix; i++)
        if (signal_of(p->timers->posix[i], si))
            return true;
    return false;
}

static bool waits_in(SigInfo *const *list, size_t n, const PosixTimer *t)
{
    for (size_t i = 0; i < n; i++) {
        siginfo_t si;
        memcpy(&si, list[i]->info.data, sizeof(si));
        if (signal_of(t, &si))
            return true;
    }
    return false;
}

/* Has it expired, with its signal waiting to be taken? */
static bool has_fired(const struct rproc *p, const PosixTimer *t)
{
    if (p->signals && waits_in(p->signals->pending, p->signals->n_pending, t))
        return true;
    for (size_t i = 0; i < p->nthreads; i++)
        if (waits_in(p->threads[i]->pending, p->threads[i]->n_pending, t))
            return true;
    return false;
}

/*
 * A periodic timer whose signal waits counts how often it expires until that is taken. So its last expiry is
 * put into the past, at its own pace: it fires at once, and the overruns are counted by the kernel.
 */
static int arm_in_past(struct rproc *p, const PosixTimer *t, struct inj_batch *b, struct err *err)
{
    struct itimerspec s = {timespec_of(t->interval_ns), timespec_of(1)};
    uint64_t now_at, now, since = t->interval_ns - t->value_ns % t->interval_ns;
    struct timespec ts;

    if (run_batch(b, "timers", err) < 0)
        return -err->code;
    now_at = inj_data(b, NULL, sizeof(ts));
    inj_call(b, BLOB_MUST, SYS_clock_gettime, t->clockid, now_at);
    if (inj_run(b, err) < 0 || inj_check(b, err, "timers") < 0)
        return -err->code;
    memcpy(&ts, inj_at(b, now_at), sizeof(ts));
    inj_reset(b);
    since += t->pending_overrun * t->interval_ns;
    now = (uint64_t)ts.tv_sec * SECOND + (uint64_t)ts.tv_nsec;
    if (now > since)
        s.it_value = timespec_of(now - since);
    inj_call(b, BLOB_MUST, SYS_timer_settime, t->id, now > since ? TIMER_ABSTIME : 0, inj_data(b, &s, sizeof(s)), 0);
    return 0;
}

static int arm(struct rproc *p, const PosixTimer *t, struct inj_batch *b, struct err *err)
{
    struct itimerspec s = {timespec_of(t->interval_ns), timespec_of(t->value_ns)};
    bool fired = has_fired(p, t);

    if (fired && t->interval_ns)
        return arm_in_past(p, t, b, err);
    if (fired)
        s.it_value = timespec_of(1);
    else if (!t->value_ns)
        return 0;
    inj_call(b, BLOB_MUST, SYS_timer_settime, t->id, 0, inj_data(b, &s, sizeof(s)), 0);
    return run_full_batch(b, "timers", err);
}

/* Start them: as late as can be. */
int timers_restore(struct restore *r, struct rproc *p, struct err *err)
{
    _cleanup_batch_ struct inj_batch b = {0};

    if (!p->timers || (!p->timers->n_posix && !p->timers->n_itimers))
        return 0;
    if (inj_begin(&b, &p->inj, err) < 0)
        return -err->code;
    for (size_t i = 0; i < p->timers->n_posix; i++)
        if (arm(p, p->timers->posix[i], &b, err) < 0)
            return -err->code;
    for (size_t i = 0; i < p->timers->n_itimers; i++) {
        const ITimer *t = p->timers->itimers[i];
        struct itimerval v = {timeval_of(t->interval_ns), timeval_of(t->value_ns)};
        inj_call(&b, BLOB_MUST, SYS_setitimer, t->which, inj_data(&b, &v, sizeof(v)), 0);
    }
    return run_batch(&b, "timers", err);
}
