/* Interrupted system calls: see calls.h. Numbers are x86-64's. */
#include "tracer/calls.h"
#include "tracer/collect.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <time.h>

#include "base/util.h"
#include "injector/ptrace.h"
#include "tracer/procfs.h"
#include "tracer/shortcall.h"

#define ERESTARTSYS           512
#define ERESTARTNOINTR        513
#define ERESTARTNOHAND        514
#define ERESTART_RESTARTBLOCK 516

/* Calls that answer EINTR after a stop without a signal, and can be made again as they are. */
static bool again_after_eintr(long nr)
{
    switch (nr) {
    case SYS_epoll_wait:
    case SYS_epoll_pwait:
    case SYS_epoll_pwait2:
    case SYS_rt_sigtimedwait:
    case SYS_semop:
    case SYS_semtimedop:
    case SYS_io_getevents:
    case SYS_io_pgetevents:
    case SYS_io_uring_enter:
    case SYS_recvfrom:
    case SYS_recvmsg:
    case SYS_recvmmsg:
    case SYS_accept:
    case SYS_accept4:
    case SYS_connect:
    case SYS_sendto:
    case SYS_sendmsg:
    case SYS_read:
    case SYS_readv:
    case SYS_write:
    case SYS_writev:
        return true;
    default:
        return false;
    }
}

/* Calls with a relative timeout that the kernel or we must shorten. */
static bool timed(long nr)
{
    return nr == SYS_nanosleep || nr == SYS_clock_nanosleep || nr == SYS_poll || nr == SYS_futex ||
           nr == SYS_epoll_wait || nr == SYS_epoll_pwait || nr == SYS_epoll_pwait2 || nr == SYS_rt_sigtimedwait ||
           nr == SYS_semtimedop || nr == SYS_restart_syscall;
}

/* se.exec_start of /proc/PID/task/TID/sched, ns: when the thread last ran (kernel/sched/debug.c). */
static int64_t last_ran_ns(pid_t pid, pid_t tid)
{
    _cleanup_free_ char *text = NULL;
    struct err ignored;
    const char *p;
    double ms;

    if (read_proc(&text, NULL, &ignored, "%d/task/%d/sched", pid, tid) < 0)
        return -1;
    p = strstr(text, "se.exec_start");
    p = p ? strchr(p, ':') : NULL;
    if (!p || sscanf(p + 1, "%lf", &ms) != 1 || ms <= 0 || ms > 1e15) /* 0: it was moved to another CPU since (migrate_task_rq_fair) */
        return -1;
    return (int64_t)(ms * 1e6);
}

/*
 * The scheduler's clock is each CPU's own (it leaves out stolen and interrupt time). What it shows for us while we
 * run on that CPU, next to CLOCK_MONOTONIC, tells how far apart the two are there.
 */
static bool clock_offset(struct cpu_clocks *k, unsigned cpu, int64_t *offset)
{
    cpu_set_t one, before;

    if (cpu >= ARRAY_SIZE(k->offset) || sched_getaffinity(0, sizeof(before), &before) < 0)
        return false;
    if (!k->known[cpu]) {
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        if (sched_setaffinity(0, sizeof(one), &one) < 0)
            return false;
        int64_t ran = last_ran_ns(getpid(), getpid());
        k->offset[cpu] = monotonic_ns() - ran;
        k->known[cpu] = ran >= 0;
        sched_setaffinity(0, sizeof(before), &before);
    }
    *offset = k->offset[cpu];
    return k->known[cpu];
}

/*
 * A call that was interrupted before shows as restart_syscall(2). Where it sleeps in the kernel tells which one it
 * is (/proc/PID/wchan), and clock_nanosleep's first argument is a small number while nanosleep's is an address.
 */
static long restarted_call(pid_t pid, pid_t tid, const char *syscall_line)
{
    _cleanup_free_ char *where = NULL;
    struct err ignored;
    uint64_t a0 = 0;

    sscanf(syscall_line, "%*d %" SCNx64, &a0);
    if (read_proc(&where, NULL, &ignored, "%d/task/%d/wchan", pid, tid) < 0)
        return SYS_restart_syscall;
    if (strstr(where, "nanosleep"))
        return a0 < 64 ? SYS_clock_nanosleep : SYS_nanosleep;
    if (strstr(where, "futex"))
        return SYS_futex;
    return strstr(where, "poll") ? SYS_poll : SYS_restart_syscall;
}

void note_blocked_call(struct cpu_clocks *k, pid_t pid, struct thread *t)
{
    _cleanup_free_ char *text = NULL;
    struct proc_stat st;
    struct err ignored;
    int64_t then, offset, since;

    t->call_nr = -1;
    t->call_since_ns = -1;
    if (read_proc(&text, NULL, &ignored, "%d/task/%d/syscall", pid, t->tid) < 0 ||
        sscanf(text, "%ld", &t->call_nr) != 1 || !timed(t->call_nr))
        return;
    if (t->call_nr == SYS_restart_syscall)
        t->call_nr = restarted_call(pid, t->tid, text);
    then = last_ran_ns(pid, t->tid);
    if (then < 0 || read_task_stat(pid, t->tid, &st, &ignored) < 0 || !clock_offset(k, st.cpu, &offset))
        return;
    since = monotonic_ns() - (then + offset);
    t->call_since_ns = since > 0 ? since : 0;
}

static bool read_timespec(pid_t pid, uint64_t addr, int64_t *ns)
{
    struct timespec ts;
    struct err ignored;

    if (!addr || pt_read(pid, addr, &ts, sizeof(ts), &ignored) < 0 || ts.tv_sec < 0 || ts.tv_nsec < 0 ||
        ts.tv_nsec >= 1000000000)
        return false;
    *ns = ts.tv_sec > INT64_MAX / 1000000000 - 1 ? INT64_MAX : ts.tv_sec * 1000000000ll + ts.tv_nsec;
    return true;
}

/*
 * The number of the call whose restart block is pending: after an earlier interruption orig_rax is
 * restart_syscall's, and the number stands in the instruction before the call (mov $nr, %eax).
 */
static long block_call_nr(pid_t pid, const struct thread *t)
{
    unsigned char code[7];
    struct err ignored;
    uint32_t nr;

    if (t->regs.orig_rax != SYS_restart_syscall)
        return (long)t->regs.orig_rax;
    if (t->call_nr > 0 && t->call_nr != SYS_restart_syscall)
        return t->call_nr;
    if (pt_read(pid, t->regs.rip - sizeof(code), code, sizeof(code), &ignored) < 0 || code[0] != 0xb8)
        return -1;
    memcpy(&nr, code + 1, sizeof(nr));
    return nr;
}

/* The whole relative timeout that the arguments ask for; -1: none or absolute. */
static int64_t asked_ns(pid_t pid, long nr, const struct user_regs_struct *r)
{
    int64_t ns = -1;

    switch (nr) {
    case SYS_nanosleep:
        return read_timespec(pid, r->rdi, &ns) ? ns : -1;
    case SYS_clock_nanosleep:
        return !(r->rsi & TIMER_ABSTIME) && read_timespec(pid, r->rdx, &ns) ? ns : -1;
    case SYS_poll:
        return (int32_t)r->rdx < 0 ? -1 : (int32_t)r->rdx * 1000000ll;
    case SYS_epoll_wait:
    case SYS_epoll_pwait:
        return (int32_t)r->r10 < 0 ? -1 : (int32_t)r->r10 * 1000000ll;
    case SYS_futex:
        return (r->rsi & FUTEX_CMD_MASK) == FUTEX_WAIT && read_timespec(pid, r->r10, &ns) ? ns : -1;
    case SYS_rt_sigtimedwait:
        return read_timespec(pid, r->rdx, &ns) ? ns : -1;
    case SYS_semtimedop:
    case SYS_epoll_pwait2:
        return read_timespec(pid, r->r10, &ns) ? ns : -1;
    default:
        return -1;
    }
}

static int64_t remaining_ns(pid_t pid, long nr, const struct thread *t)
{
    int64_t asked = asked_ns(pid, nr, &t->regs);

    if (asked < 0)
        return -1;
    /* nanosleep reports what is left itself when it was given a place for it (kernel/time/hrtimer.c). */
    int64_t left;
    uint64_t rem = nr == SYS_nanosleep ? t->regs.rsi : nr == SYS_clock_nanosleep ? t->regs.r10 : 0;
    if (rem && read_timespec(pid, rem, &left) && left <= asked)
        return left;
    if (t->call_since_ns < 0)
        return asked;
    return asked > t->call_since_ns ? asked - t->call_since_ns : 0;
}

/* Is a signal on its way that the call was right to end for? */
static bool signal_due(const struct thread *t)
{
    for (size_t i = 0; i < t->msg->n_pending; i++) {
        int32_t signo;
        memcpy(&signo, t->msg->pending[i]->info.data, sizeof(signo));
        if (signo > 0 && signo <= 64 && !(t->sigmask & (1ull << (signo - 1))))
            return true;
    }
    return false;
}

static bool after_syscall_insn(pid_t pid, uint64_t rip)
{
    unsigned char code[2];
    struct err ignored;

    return pt_read(pid, rip - 2, code, 2, &ignored) == 0 && code[0] == 0x0f && code[1] == 0x05;
}

/*
 * The call is made again, so its arguments must say what is left. A timeout behind a pointer is put below the red zone
 * of the stack, where nothing of the program can be; the kernel copies it when the call begins.
 */
static void shorten(pid_t pid, struct user_regs_struct *r, int64_t left)
{
    struct timespec ts = {left / 1000000000, left % 1000000000};
    uint64_t at = (r->rsp - 128 - 64) & ~15ull;
    struct err ignored;

    switch (r->orig_rax) {
    case SYS_poll:
        r->rdx = (uint64_t)((left + 999999) / 1000000);
        break;
    case SYS_epoll_wait:
    case SYS_epoll_pwait:
        r->r10 = (uint64_t)((left + 999999) / 1000000);
        break;
    case SYS_nanosleep:
        if (pt_write(pid, at, &ts, sizeof(ts), &ignored) == 0)
            r->rdi = at;
        break;
    case SYS_clock_nanosleep:
    case SYS_rt_sigtimedwait:
        if (pt_write(pid, at, &ts, sizeof(ts), &ignored) == 0)
            r->rdx = at;
        break;
    case SYS_futex:
    case SYS_semtimedop:
    case SYS_epoll_pwait2:
        if (pt_write(pid, at, &ts, sizeof(ts), &ignored) == 0)
            r->r10 = at;
        break;
    default:
        break;
    }
}

/* The kernel will go on with it from its own restart block. */
static void note_restart_block(struct deadlines *d, pid_t pid, struct thread *t)
{
    long nr = -1;
    int64_t left = -1;

    if (t->regs.orig_rax != SYS_restart_syscall || !d || !deadline_find(d, t->tid, &t->regs, &nr, &left)) {
        nr = block_call_nr(pid, t);
        left = remaining_ns(pid, nr, t);
    }
    t->msg->call_state = 2;
    t->msg->call_nr = (uint32_t)nr;
    t->msg->call_remaining_ns = left;
    if (d)
        deadline_note(d, t->tid, nr, &t->regs, left);
}

static void begin_again(pid_t pid, struct thread *t)
{
    struct user_regs_struct *r = &t->regs;
    int64_t left = remaining_ns(pid, (long)r->orig_rax, t);

    t->msg->call_state = 3;
    t->msg->call_nr = (uint32_t)r->orig_rax;
    t->msg->call_remaining_ns = left;
    if (left >= 0)
        shorten(pid, r, left);
    r->rax = r->orig_rax;
    r->orig_rax = (uint64_t)-1;
    r->rip -= 2;
}

/*
 * From its restart block a call goes on by restart_syscall(2), which a seccomp filter can forbid: sshd's and others kill
 * the process for it. The call itself they let pass before.
 */
static bool may_forbid_restart(const struct thread *t)
{
    return t->msg->seccomp_mode != 0 && t->regs.orig_rax != SYS_restart_syscall;
}

void settle_call(struct deadlines *d, pid_t pid, struct thread *t)
{
    struct user_regs_struct *r = &t->regs;
    int64_t result = (int64_t)r->rax;

    t->msg->call_state = 0;
    t->msg->call_remaining_ns = -1;
    if ((int64_t)r->orig_rax < 0)
        return;
    if (result == -ERESTARTSYS || result == -ERESTARTNOINTR || result == -ERESTARTNOHAND) {
        t->msg->call_state = 1;
    } else if (result == -ERESTART_RESTARTBLOCK && !may_forbid_restart(t)) {
        note_restart_block(d, pid, t);
    } else if (result == -ERESTART_RESTARTBLOCK || (result == -EINTR && again_after_eintr((long)r->orig_rax) &&
                                                    !signal_due(t) && after_syscall_insn(pid, r->rip))) {
        begin_again(pid, t);
    }
}

/* Of a thread that has been stopped: -EINTR, or a restart block in a thread with a filter. */
static bool must_begin_again(struct thread *t)
{
    struct proc_status st;
    struct err ignored;

    if ((int64_t)t->regs.rax == -EINTR)
        return true;
    if ((int64_t)t->regs.rax != -ERESTART_RESTARTBLOCK || read_status(t->tid, t->tid, &st, &ignored) < 0)
        return false;
    proc_status_free(&st);
    t->msg->seccomp_mode = st.seccomp;
    return st.seccomp != 0;
}

void go_on_with_call(struct ckpt *c, struct thread *t)
{
    Thread msg = THREAD__INIT;
    struct user_regs_struct before;
    struct err ignored;

    if (t->msg || pt_get_regs(t->tid, &t->regs, &ignored) < 0)
        return; /* with a message it was looked at, and leave_process() set its registers */
    before = t->regs;
    t->msg = &msg;
    if ((int64_t)t->regs.rax > 0)
        finish_short_call(NULL, 0, t);
    else if (must_begin_again(t) && pt_get_sigmask(t->tid, &t->sigmask, &ignored) == 0 &&
        peek_signals(c, t->tid, 0, &msg.pending, &msg.n_pending, &ignored) == 0)
        settle_call(NULL, t->tid, t);
    t->msg = NULL;
    if (memcmp(&before, &t->regs, sizeof(before)) != 0)
        pt_set_regs(t->tid, &t->regs, &ignored);
}
