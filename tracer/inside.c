/*
 * What only the process itself can ask the kernel: signal dispositions, timers, the alternate stack and a few
 * attributes. One batch for the process, and one of four calls for each further thread, many threads side by side.
 */
#include <errno.h>
#include <inttypes.h>
#include <linux/keyctl.h>
#include <linux/prctl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>

#include "base/util.h"
#include "injector/ptrace.h"
#include "tracer/collect.h"

#define NSIGNALS 64
#define CHILDREN 128u /* that are asked about at the same time */
#define GUESTS   64u /* threads that are asked at the same time */

struct kernel_sigaction {
    uint64_t handler, flags, restorer, mask;
};

int enter_process(struct ckpt *c, struct proc *p, struct err *err)
{
    struct thread *host = &p->threads[0];
    uint32_t guests = p->nthreads <= GUESTS ? (uint32_t)p->nthreads - 1 : GUESTS;

    if (inj_enter(&p->inj, proc_task(p), host->tid, &host->regs, host->sigmask, guests, err) < 0)
        return err_wrap(err, "process %d (%s)", p->pid, p->process ? (char *)p->process->comm.data : "?");
    p->injected = true;
    p->pidfd = p->inj.pidfd;
    return 0;
}

int leave_process(struct ckpt *c, struct proc *p, struct err *err)
{
    int r = 0;

    for (size_t i = 0; i < p->nthreads; i++) {
        struct thread *t = &p->threads[i];
        struct err ignored;
        if (t->msg && t->msg->rseq_cs)
            pt_write(t->tid, t->msg->rseq + 8, &t->msg->rseq_cs, sizeof(uint64_t), &ignored);
        if (i && t->msg)
            pt_set_regs(t->tid, &t->regs, &ignored);
    }
    if (p->injected)
        r = inj_leave(&p->inj, err);
    else if (p->nthreads && p->threads[0].msg)
        r = pt_set_regs(p->threads[0].tid, &p->threads[0].regs, err);
    p->injected = false;
    inj_close(&p->inj);
    return r;
}

/* --- signal dispositions ------------------------------------------------------------------------- */

static void add_actions(struct ckpt *c, struct proc *p, struct inj_batch *b, uint64_t acts, uint32_t first)
{
    for (int sig = 1; sig <= NSIGNALS; sig++) {
        struct kernel_sigaction *a = inj_at(b, acts + (uint64_t)(sig - 1) * sizeof(*a));
        if (inj_failed(inj_ret(b, first + (uint32_t)sig - 1)) || (a->handler == 0 && a->flags == 0 && a->mask == 0))
            continue;
        SigAction *m = arena_alloc(c->arena, sizeof(*m));
        sig_action__init(m);
        m->signo = (uint32_t)sig;
        m->handler = a->handler;
        m->flags = a->flags;
        m->restorer = a->restorer;
        m->mask = a->mask;
        arena_push(c->arena, (void ***)&p->signals->actions, &p->signals->n_actions, m);
    }
}

/* --- timers ---------------------------------------------------------------------------------------- */

static uint64_t ns_of(int64_t sec, int64_t frac, int64_t unit)
{
    return (uint64_t)sec * 1000000000ull + (uint64_t)(frac * unit);
}

static void add_itimers(struct ckpt *c, struct proc *p, struct inj_batch *b, uint64_t at)
{
    for (uint32_t i = 0; i < 3; i++) {
        struct itimerval *v = inj_at(b, at + i * sizeof(*v));
        if (!v->it_value.tv_sec && !v->it_value.tv_usec)
            continue;
        ITimer *m = arena_alloc(c->arena, sizeof(*m));
        itimer__init(m);
        m->which = i;
        m->interval_ns = ns_of(v->it_interval.tv_sec, v->it_interval.tv_usec, 1000);
        m->value_ns = ns_of(v->it_value.tv_sec, v->it_value.tv_usec, 1000);
        arena_push(c->arena, (void ***)&p->timers->itimers, &p->timers->n_itimers, m);
    }
}

/* A timer of /proc/PID/timers: four lines, "ID:", "signal:", "notify:", "ClockID:" (fs/proc/base.c). */
static bool parse_timer(char **text, PosixTimer *m)
{
    char how[16], who[8];
    int id, sig, target, clock;
    uint64_t value;
    char *at = *text ? strstr(*text, "ID: ") : NULL;

    if (!at || sscanf(at, "ID: %d\nsignal: %d/%" SCNx64 "\nnotify: %15[^/]/%7[^.].%d\nClockID: %d", &id, &sig, &value, how,
                      who, &target, &clock) != 7)
        return false;
    m->id = id;
    m->signo = sig;
    m->value = value;
    m->notify = !strcmp(how, "none") ? SIGEV_NONE : !strcmp(how, "thread") ? SIGEV_THREAD : SIGEV_SIGNAL;
    if (!strcmp(who, "tid")) {
        m->notify |= 4; /* SIGEV_THREAD_ID */
        m->notify_tid = target;
    }
    m->clockid = clock;
    *text = strstr(at, "ClockID: ") + 9;
    return true;
}

static int list_timers(struct ckpt *c, struct proc *p, struct err *err)
{
    _cleanup_free_ char *text = NULL;
    char *at;

    if (read_proc(&text, NULL, err, "%d/timers", proc_task(p)) < 0)
        return err->code == ENOENT ? 0 : -err->code; /* a kernel without CONFIG_CHECKPOINT_RESTORE */
    at = text;
    for (;;) {
        PosixTimer *m = arena_alloc(c->arena, sizeof(*m));
        posix_timer__init(m);
        if (!parse_timer(&at, m))
            return 0;
        arena_push(c->arena, (void ***)&p->timers->posix, &p->timers->n_posix, m);
    }
}

/* --- one batch ---------------------------------------------------------------------------------------- */

struct inside {
    uint64_t acts, itimers, timers, altstack, pdeath, tid_addr, clocks, subreaper;
    uint32_t first_act, first_timer, first_overrun, dumpable, securebits, keepcaps, thp, slack, brk, alt, keys;
};

static void ask(struct proc *p, struct inj_batch *b, struct inside *in)
{
    in->acts = inj_data(b, NULL, NSIGNALS * sizeof(struct kernel_sigaction));
    in->first_act = b->ncalls;
    for (uint64_t sig = 1; sig <= NSIGNALS; sig++)
        inj_call(b, 0, SYS_rt_sigaction, sig, 0, in->acts + (sig - 1) * sizeof(struct kernel_sigaction), 8);
    in->itimers = inj_data(b, NULL, 3 * sizeof(struct itimerval));
    for (uint64_t i = 0; i < 3; i++)
        inj_call(b, 0, SYS_getitimer, i, in->itimers + i * sizeof(struct itimerval));
    in->timers = inj_data(b, NULL, p->timers->n_posix * sizeof(struct itimerspec) + 16);
    in->first_timer = b->ncalls;
    for (size_t i = 0; i < p->timers->n_posix; i++)
        inj_call(b, 0, SYS_timer_gettime, p->timers->posix[i]->id, in->timers + i * sizeof(struct itimerspec));
    in->first_overrun = b->ncalls;
    for (size_t i = 0; i < p->timers->n_posix; i++)
        inj_call(b, 0, SYS_timer_getoverrun, p->timers->posix[i]->id);
    in->clocks = inj_data(b, NULL, 3 * sizeof(struct timespec));
    inj_call(b, 0, SYS_clock_gettime, CLOCK_MONOTONIC, in->clocks);
    inj_call(b, 0, SYS_clock_gettime, CLOCK_BOOTTIME, in->clocks + sizeof(struct timespec));
    inj_call(b, 0, SYS_clock_gettime, CLOCK_REALTIME, in->clocks + 2 * sizeof(struct timespec));
    in->subreaper = inj_data(b, NULL, 16);
    inj_call(b, 0, SYS_prctl, PR_GET_CHILD_SUBREAPER, in->subreaper);
    in->dumpable = inj_call(b, 0, SYS_prctl, PR_GET_DUMPABLE);
    in->securebits = inj_call(b, 0, SYS_prctl, PR_GET_SECUREBITS);
    in->keepcaps = inj_call(b, 0, SYS_prctl, PR_GET_KEEPCAPS);
    in->thp = inj_call(b, 0, SYS_prctl, PR_GET_THP_DISABLE);
    in->slack = inj_call(b, 0, SYS_prctl, PR_GET_TIMERSLACK);
    in->brk = inj_call(b, 0, SYS_brk, 0);
    in->keys = inj_call(b, 0, SYS_keyctl, KEYCTL_READ, KEY_SPEC_PROCESS_KEYRING, 0, 0);
    inj_call(b, 0, SYS_keyctl, KEYCTL_READ, KEY_SPEC_THREAD_KEYRING, 0, 0);
    in->altstack = inj_data(b, NULL, sizeof(stack_t));
    in->alt = inj_call(b, 0, SYS_sigaltstack, 0, in->altstack);
    in->pdeath = inj_data(b, NULL, 16);
    inj_call(b, 0, SYS_prctl, PR_GET_PDEATHSIG, in->pdeath);
    in->tid_addr = inj_data(b, NULL, 16);
    inj_call(b, 0, SYS_prctl, PR_GET_TID_ADDRESS, in->tid_addr);
}

static void set_altstack(Thread *t, const stack_t *s)
{
    t->altstack_sp = (uint64_t)s->ss_sp;
    t->altstack_size = s->ss_size;
    t->altstack_flags = (uint32_t)s->ss_flags & ~(uint32_t)SS_ONSTACK;
}

static uint64_t positive(int64_t v)
{
    return v > 0 ? (uint64_t)v : 0;
}

static void take(struct ckpt *c, struct proc *p, struct inj_batch *b, const struct inside *in)
{
    const struct timespec *clk = inj_at(b, in->clocks);
    Thread *t = p->threads[0].msg;

    add_actions(c, p, b, in->acts, in->first_act);
    add_itimers(c, p, b, in->itimers);
    for (size_t i = 0; i < p->timers->n_posix; i++) {
        const struct itimerspec *s = inj_at(b, in->timers + i * sizeof(*s));
        p->timers->posix[i]->value_ns = ns_of(s->it_value.tv_sec, s->it_value.tv_nsec, 1);
        p->timers->posix[i]->interval_ns = ns_of(s->it_interval.tv_sec, s->it_interval.tv_nsec, 1);
        p->timers->posix[i]->overrun = positive(inj_ret(b, in->first_overrun + (uint32_t)i));
    }
    p->timers->monotonic_ns = (int64_t)ns_of(clk[0].tv_sec, clk[0].tv_nsec, 1);
    p->timers->boottime_ns = (int64_t)ns_of(clk[1].tv_sec, clk[1].tv_nsec, 1);
    p->timers->realtime_ns = (int64_t)ns_of(clk[2].tv_sec, clk[2].tv_nsec, 1);
    p->process->child_subreaper = *(int *)inj_at(b, in->subreaper) != 0;
    p->process->dumpable = (uint32_t)positive(inj_ret(b, in->dumpable));
    p->process->securebits = (uint32_t)positive(inj_ret(b, in->securebits));
    p->process->keepcaps = inj_ret(b, in->keepcaps) == 1;
    p->process->thp_disable = (uint32_t)positive(inj_ret(b, in->thp));
    p->mm->brk = (uint64_t)inj_ret(b, in->brk);
    t->timer_slack_ns = positive(inj_ret(b, in->slack));
    set_altstack(t, inj_at(b, in->altstack));
    t->pdeathsig = *(uint32_t *)inj_at(b, in->pdeath);
    t->clear_child_tid = *(uint64_t *)inj_at(b, in->tid_addr);
}

/* Keys have numbers that nobody can choose, and those of a process's own go with it. The answer is the size of the list. */
static int refuse_keys(const struct proc *p, const struct inj_batch *b, const struct inside *in, struct err *err)
{
    for (uint32_t i = 0; i < 2; i++)
        if (!inj_failed(inj_ret(b, in->keys + i)) && inj_ret(b, in->keys + i) > 0)
            return err_set(err, EOPNOTSUPP, "process %d: its %s keyring has keys, which cannot be saved", p->pid,
                           i ? "thread" : "process");
    return 0;
}

/* --- further threads ------------------------------------------------------------------------------------ */

enum { ASK_ALTSTACK, ASK_PDEATHSIG, ASK_TID_ADDRESS, ASK_SLACK, ASKED };

struct answers { /* of a thread, in the parasite's data, which no batch uses meanwhile */
    stack_t altstack;
    uint32_t pdeathsig, pad;
    uint64_t clear_child_tid;
};

static void make_calls(struct blob_call calls[ASKED], uint64_t at)
{
    calls[ASK_ALTSTACK] = (struct blob_call){.nr = SYS_sigaltstack, .arg = {0, at + offsetof(struct answers, altstack)}};
    calls[ASK_PDEATHSIG] =
        (struct blob_call){.nr = SYS_prctl, .arg = {PR_GET_PDEATHSIG, at + offsetof(struct answers, pdeathsig)}};
    calls[ASK_TID_ADDRESS] =
        (struct blob_call){.nr = SYS_prctl, .arg = {PR_GET_TID_ADDRESS, at + offsetof(struct answers, clear_child_tid)}};
    calls[ASK_SLACK] = (struct blob_call){.nr = SYS_prctl, .arg = {PR_GET_TIMERSLACK}};
}

/* Up to GUESTS threads side by side. */
static int ask_wave(struct proc *p, struct thread *t, uint32_t n, struct err *err)
{
    struct inj_guest guest[GUESTS];
    struct blob_call calls[GUESTS][ASKED];
    struct answers answers[GUESTS] = {0};
    const uint64_t at = inj_scratch(&p->inj);

    for (uint32_t i = 0; i < n; i++) {
        make_calls(calls[i], at + i * sizeof(*answers));
        guest[i] = (struct inj_guest){.tid = t[i].tid, .regs = &t[i].regs, .sigmask = t[i].sigmask, .calls = calls[i],
                                      .ncalls = ASKED};
    }
    if (pt_write(proc_task(p), at, answers, n * sizeof(*answers), err) < 0 ||
        inj_run_guests(&p->inj, guest, n, err) < 0 || pt_read(proc_task(p), at, answers, n * sizeof(*answers), err) < 0)
        return -err->code;
    for (uint32_t i = 0; i < n; i++) {
        set_altstack(t[i].msg, &answers[i].altstack);
        t[i].msg->pdeathsig = answers[i].pdeathsig;
        t[i].msg->clear_child_tid = answers[i].clear_child_tid;
        t[i].msg->timer_slack_ns = positive(calls[i][ASK_SLACK].ret);
    }
    return 0;
}

static int ask_threads(struct proc *p, struct err *err)
{
    for (size_t i = 1; i < p->nthreads; i += GUESTS) {
        size_t n = p->nthreads - i < GUESTS ? p->nthreads - i : GUESTS;
        if (ask_wave(p, &p->threads[i], (uint32_t)n, err) < 0)
            return -err->code;
    }
    return 0;
}

/*
 * Only their parent can tell of stopped and continued processes whether it has waited for the report of that. One call
 * asks for both, as there is at most one of them (signal_set_stop_flags() in include/linux/sched/signal.h).
 */
static int take_reports(struct proc **children, uint32_t n, struct inj_batch *b, uint64_t at, struct err *err)
{
    if (inj_run(b, err) < 0)
        return -err->code;
    for (uint32_t i = 0; i < n; i++) {
        const siginfo_t *si = inj_at(b, at + i * sizeof(*si));
        Process *m = children[i]->process;
        if (inj_ret(b, i) != 0)
            continue;
        m->stop_told = m->state == 2 && si->si_pid == 0;
        m->continue_untold = m->state == 0 && si->si_pid != 0 && si->si_code == CLD_CONTINUED;
    }
    return 0;
}

static int ask_of_children(struct ckpt *c, struct proc *p, struct err *err)
{
    _cleanup_batch_ struct inj_batch b = {0};
    struct proc *children[CHILDREN];
    uint32_t n = 0;
    uint64_t at = 0;

    for (size_t i = 0; i < c->nprocs; i++) {
        if (c->procs[i]->parent != p || c->procs[i]->zombie)
            continue;
        if (!n) {
            inj_end(&b);
            if (inj_begin(&b, &p->inj, err) < 0)
                return -err->code;
            at = inj_data(&b, NULL, CHILDREN * sizeof(siginfo_t));
        }
        inj_call(&b, 0, SYS_waitid, P_PID, c->procs[i]->pid, at + n * sizeof(siginfo_t),
                 WSTOPPED | WCONTINUED | WNOHANG | WNOWAIT | __WALL, 0);
        children[n++] = c->procs[i];
        if (n == CHILDREN) {
            if (take_reports(children, n, &b, at, err) < 0)
                return -err->code;
            n = 0;
        }
    }
    return n ? take_reports(children, n, &b, at, err) : 0;
}

int collect_inside(struct ckpt *c, struct proc *p, struct err *err)
{
    _cleanup_batch_ struct inj_batch b = {0};
    struct inside in;

    p->timers = arena_alloc(c->arena, sizeof(*p->timers));
    timers__init(p->timers);
    if (list_timers(c, p, err) < 0 || inj_begin(&b, &p->inj, err) < 0)
        return -err->code;
    ask(p, &b, &in);
    if (inj_run(&b, err) < 0)
        return err_wrap(err, "process %d", p->pid);
    if (refuse_keys(p, &b, &in, err) < 0)
        return -err->code;
    take(c, p, &b, &in);
    if (collect_overruns(c, p, err) < 0)
        return -err->code;
    if (p->nthreads > 1 && ask_threads(p, err) < 0)
        return err_wrap(err, "process %d", p->pid);
    if (ask_of_children(c, p, err) < 0)
        return err_wrap(err, "process %d: its children", p->pid);
    return 0;
}
