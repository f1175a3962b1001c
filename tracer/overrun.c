/*
 * How often a periodic POSIX timer has expired since its signal began to wait. The kernel counts that where nobody can read
 * it, and says it when the signal is taken (kernel/time/posix-timers.c). So the signal is taken, and in the same
 * batch the timer is set such that it sends it again; then it is set as far into the past as the count says, and
 * the kernel counts up from there as it would have.
 *
 * That is done only where nothing shows it: the signal is the only one of its number that waits (so its place in the queue
 * does not matter), there is no count of an earlier signal that setting the timer would clear (timer_getoverrun(2)),
 * and an absolute time is the same as a relative one (not so for CLOCK_REALTIME, which can be set). Others begin
 * again with none after a restart.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>

#include "base/util.h"
#include "tracer/collect.h"

#define SECOND 1000000000ll

static size_t count_signo(SigInfo *const *list, size_t n, int signo, const PosixTimer *m, bool *ours)
{
    size_t found = 0;

    for (size_t i = 0; i < n; i++) {
        siginfo_t si;
        memcpy(&si, list[i]->info.data, sizeof(si));
        if (si.si_signo != signo)
            continue;
        found++;
        *ours |= si.si_code == SI_TIMER && si.si_timerid == m->id;
    }
    return found;
}

static bool may_be_asked(const struct proc *p, const PosixTimer *m)
{
    const Thread *host = p->threads[0].msg;
    bool ours = false;

    if (!m->interval_ns || m->overrun || (m->clockid != CLOCK_MONOTONIC && m->clockid != CLOCK_BOOTTIME) ||
        (m->notify != SIGEV_SIGNAL && !(m->notify == SIGEV_THREAD_ID && m->notify_tid == p->threads[0].tid)))
        return false;
    return count_signo(p->signals->pending, p->signals->n_pending, m->signo, m, &ours) +
                   count_signo(host->pending, host->n_pending, m->signo, m, &ours) == 1 && ours;
}

static struct timespec timespec_of(int64_t ns)
{
    return (struct timespec){.tv_sec = ns / SECOND, .tv_nsec = ns % SECOND};
}

static int64_t ns_of(const struct timespec *ts)
{
    return ts->tv_sec * SECOND + ts->tv_nsec;
}

/* The next time at which it expires, by its clock. */
static int64_t next_expiry(struct inj_batch *b, const PosixTimer *m, struct err *err)
{
    uint64_t left = inj_data(b, NULL, sizeof(struct itimerspec)), now = inj_data(b, NULL, sizeof(struct timespec));
    int64_t next;

    inj_call(b, BLOB_MUST, SYS_timer_gettime, m->id, left);
    inj_call(b, BLOB_MUST, SYS_clock_gettime, m->clockid, now);
    if (inj_run(b, err) < 0 || inj_check(b, err, "timers") < 0)
        return -err->code;
    next = ns_of(&((struct itimerspec *)inj_at(b, left))->it_value) + ns_of(inj_at(b, now));
    inj_reset(b);
    return next;
}

/* Take its signal, if it waits, and set it to have expired for the first time at `first`: *si is what was taken. */
static int take_and_set(struct inj_batch *b, const PosixTimer *m, int64_t first, uint32_t must, siginfo_t *si,
                        struct err *err)
{
    const struct timespec none = {0};
    const uint64_t set = 1ull << (m->signo - 1);
    struct itimerspec s = {timespec_of((int64_t)m->interval_ns), timespec_of(first > 0 ? first : 1)};
    uint64_t at = inj_data(b, NULL, sizeof(*si));
    uint32_t taken = inj_call(b, must, SYS_rt_sigtimedwait, inj_data(b, &set, sizeof(set)), at,
                              inj_data(b, &none, sizeof(none)), 8);

    inj_call(b, 0, SYS_timer_settime, m->id, TIMER_ABSTIME, inj_data(b, &s, sizeof(s)), 0);
    if (inj_run(b, err) < 0)
        return -err->code;
    memcpy(si, inj_at(b, at), sizeof(*si));
    taken = inj_ret(b, taken) == m->signo;
    inj_reset(b);
    return taken ? 1 : 0;
}

static int ask(struct inj_batch *b, PosixTimer *m, struct err *err)
{
    const int64_t interval = (int64_t)m->interval_ns;
    int64_t next = next_expiry(b, m, err);
    siginfo_t si, again;
    int r;

    if (next < 0)
        return (int)next;
    r = take_and_set(b, m, next - interval, BLOB_MUST, &si, err);
    if (r <= 0)
        return r;
    m->pending_overrun = si.si_overrun > 0 ? (uint64_t)si.si_overrun : 0;
    if (!m->pending_overrun)
        return 0;
    r = take_and_set(b, m, next - interval - (int64_t)m->pending_overrun * interval, 0, &again, err);
    return r < 0 ? r : 0;
}

int collect_overruns(struct ckpt *c, struct proc *p, struct err *err)
{
    _cleanup_batch_ struct inj_batch b = {0};

    for (size_t i = 0; i < p->timers->n_posix; i++) {
        if (!may_be_asked(p, p->timers->posix[i]))
            continue;
        if (!b.calls && inj_begin(&b, &p->inj, err) < 0)
            return -err->code;
        if (ask(&b, p->timers->posix[i], err) < 0)
            return err_wrap(err, "process %d: timer %d", p->pid, p->timers->posix[i]->id);
    }
    return 0;
}
