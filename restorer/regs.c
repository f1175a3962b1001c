/*
 * The last that is done to a thread, with ptrace: system calls that were interrupted, the parasite's end,
 * seccomp filters, registers, extended state and signal mask. After it the thread is stopped as it was frozen, and
 * goes on from there when it is let go.
 */
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <elf.h>
#include <time.h>

#include "base/util.h"
#include "injector/ptrace.h"
#include "restorer/core.h"

#define ERESTART_RESTARTBLOCK 516
#define CALL_RESTART_BLOCK    2u /* Thread.call_state */
#define XSAVE_MIN             576u

#define SEIZE_OPTIONS (PTRACE_O_EXITKILL | PTRACE_O_TRACESYSGOOD)

int threads_seize(struct restore *r, struct rproc *p, struct err *err)
{
    int status;

    if (p->seized)
        return 0;
    p->seized = true;
    for (size_t i = 0; i < p->nthreads; i++)
        if (pt_seize(p->threads[i]->tid, SEIZE_OPTIONS, err) < 0)
            return -err->code;
    for (size_t i = 0; i < p->nthreads; i++)
        if (pt_interrupt(p->threads[i]->tid, err) < 0)
            return -err->code;
    for (size_t i = 0; i < p->nthreads; i++)
        if (pt_wait(p->threads[i]->tid, &status, err) < 0)
            return -err->code;
    return 0;
}

/* --- calls with a relative timeout ----------------------------------------------------------------- */

/* The arguments with which the call waits only for what was left. false: it cannot be made again. */
static bool call_again(const Thread *t, struct user_regs_struct *regs, uint64_t scratch, struct timespec *left)
{
    int64_t ns = t->call_remaining_ns;

    *left = (struct timespec){.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000};
    regs->rax = t->call_nr;
    regs->orig_rax = (uint64_t)-1;
    switch (t->call_nr) {
    case SYS_nanosleep:
        regs->rdi = ns < 0 ? regs->rdi : scratch;
        return true;
    case SYS_clock_nanosleep:
        regs->rdx = ns < 0 ? regs->rdx : scratch;
        return true;
    case SYS_futex:
        regs->r10 = ns < 0 ? regs->r10 : scratch;
        return true;
    case SYS_poll:
        regs->rdx = ns < 0 ? regs->rdx : (uint64_t)((ns + 999999) / 1000000);
        return true;
    default:
        return false;
    }
}

static int next_stop(pid_t tid, enum __ptrace_request how, struct err *err)
{
    int status;

    if (ptrace(how, tid, NULL, NULL) < 0)
        return err_errno(err, "thread %d: cannot be continued", tid);
    return pt_wait(tid, &status, err);
}

/*
 * The kernel keeps the deadline of such a call in the thread's restart block, which nobody can write. So the thread
 * makes the call once more; an interruption is due before it enters, so it does not wait, but leaves a
 * restart block with the right deadline, as the interruption of a real wait does.
 */
static int redo_call(const struct rproc *p, const Thread *t, uint64_t ip, struct user_regs_struct *final, int64_t *end,
                     struct err *err)
{
    struct user_regs_struct regs = *final;
    struct timespec left;
    uint64_t scratch = inj_slot_stack(&p->inj, 0) - 64;

    if (t->call_state != CALL_RESTART_BLOCK || (int64_t)final->rax != -ERESTART_RESTARTBLOCK)
        return 0;
    if (!call_again(t, &regs, scratch, &left)) {
        final->rax = (uint64_t)-EINTR;
        final->orig_rax = (uint64_t)-1;
        return 0;
    }
    regs.rip = ip;
    if (t->call_remaining_ns >= 0)
        *end = monotonic_ns() + t->call_remaining_ns;
    if (pt_write(p->inj.pid, scratch, &left, sizeof(left), err) < 0 || pt_set_regs(t->tid, &regs, err) < 0 ||
        next_stop(t->tid, PTRACE_SYSCALL, err) < 0 || pt_interrupt(t->tid, err) < 0 ||
        next_stop(t->tid, PTRACE_CONT, err) < 0 || pt_get_regs(t->tid, &regs, err) < 0)
        return err_wrap(err, "an interrupted system call");
    if ((int64_t)regs.rax == -ERESTART_RESTARTBLOCK)
        return 0;
    final->rax = regs.rax; /* it is over already */
    final->orig_rax = (uint64_t)-1;
    return 0;
}

/* --- seccomp ----------------------------------------------------------------------------------------- */

/*
 * The parasite is gone by now, and the filter may forbid everything else, so this is the last call of a thread.
 * The program text must be in its memory: below its stack pointer, behind the red zone, where whatever
 * is there is put back.
 */
static int install_filter(const struct rproc *p, const Thread *t, const SeccompFilter *f, uint64_t ip,
                          const struct user_regs_struct *final, struct err *err)
{
    size_t len = f->program.len + sizeof(struct sock_fprog);
    uint64_t at = (final->rsp - 128 - len) & ~15ull;
    struct sock_fprog prog = {.len = (unsigned short)(f->program.len / sizeof(struct sock_filter)),
                              .filter = (void *)(at + sizeof(prog))};
    _cleanup_free_ uint8_t *saved = malloc(len), *text = malloc(len);
    int64_t ret;

    if (!saved || !text)
        return err_set(err, ENOMEM, "out of memory");
    memcpy(text, &prog, sizeof(prog));
    memcpy(text + sizeof(prog), f->program.data, f->program.len);
    if (pt_read(p->inj.pid, at, saved, len, err) < 0 || pt_poke(p->inj.pid, at, text, len, err) < 0 ||
        pt_syscall(t->tid, ip, final, &ret, SYS_seccomp, (uint64_t[6]){SECCOMP_SET_MODE_FILTER, f->flags, at}, err) < 0 ||
        pt_poke(p->inj.pid, at, saved, len, err) < 0)
        return -err->code;
    return inj_failed(ret) ? err_set(err, (int)-ret, "its seccomp filter: %s", strerror((int)-ret)) : 0;
}

static int install_filters(const struct rproc *p, const Thread *t, uint64_t ip, const struct user_regs_struct *final,
                           struct err *err)
{
    int64_t ret;

    /* One filter may forbid to install the next. Who may not have them lifted can still be lucky. */
    if (t->n_seccomp > 1)
        ptrace(PTRACE_SETOPTIONS, t->tid, NULL, SEIZE_OPTIONS | PTRACE_O_SUSPEND_SECCOMP);
    for (size_t i = 0; i < t->n_seccomp; i++)
        if (install_filter(p, t, t->seccomp[i], ip, final, err) < 0)
            return -err->code;
    if (t->seccomp_mode != SECCOMP_MODE_STRICT)
        return 0;
    if (pt_syscall(t->tid, ip, final, &ret, SYS_prctl, (uint64_t[6]){PR_SET_SECCOMP, SECCOMP_MODE_STRICT}, err) < 0)
        return -err->code;
    return inj_failed(ret) ? err_set(err, (int)-ret, "strict seccomp: %s", strerror((int)-ret)) : 0;
}

/* --- registers ----------------------------------------------------------------------------------------- */

/* The XSAVE area must have this CPU's size; components that are not in use may be missing at its end. */
static int set_xstate(const Thread *t, size_t size, struct err *err)
{
    _cleanup_free_ uint8_t *buf = NULL;

    if (size == t->xstate.len)
        return pt_set_xstate(t->tid, t->xstate.data, size, err);
    buf = calloc(1, size);
    if (!buf)
        return err_set(err, ENOMEM, "out of memory");
    memcpy(buf, t->xstate.data, size < t->xstate.len ? size : t->xstate.len);
    return pt_set_xstate(t->tid, buf, size, err);
}

static int xstate_size(struct restore *r, pid_t tid, struct err *err)
{
    void *buf;

    if (r->xstate_size)
        return 0;
    if (pt_get_xstate(tid, &buf, &r->xstate_size, err) < 0)
        return -err->code;
    free(buf);
    return r->xstate_size < XSAVE_MIN
               ? err_set(err, ENOTSUP, "this CPU's extended state has %zu bytes", r->xstate_size)
               : 0;
}

/* Stepped calls of the first thread: after them nothing of ours is in the process. */
static int remove_parasite(const struct rproc *p, uint64_t ip, const struct user_regs_struct *final, struct err *err)
{
    pid_t tid = p->threads[0]->tid;
    int64_t ret = 0;

    if (pt_syscall(tid, ip, final, &ret, SYS_close, (uint64_t[6]){(uint64_t)p->inj.remote_ctl}, err) < 0)
        return -err->code;
    if (p->own_mm)
        return 0;
    if (pt_syscall(tid, ip, final, &ret, SYS_munmap, (uint64_t[6]){p->inj.base, p->inj.size}, err) < 0)
        return -err->code;
    return inj_failed(ret) ? err_set(err, (int)-ret, "unmapping the parasite: %s", strerror((int)-ret)) : 0;
}

static int finish_thread(const struct rproc *p, const Thread *t, uint64_t ip, struct user_regs_struct *final,
                         size_t xsize, struct err *err)
{
    const uint64_t at = t->rseq + 8; /* offsetof(struct rseq, rseq_cs) */

    if (install_filters(p, t, ip, final, err) < 0 || set_xstate(t, xsize, err) < 0)
        return -err->code;
    if (t->rseq && t->rseq_cs && pt_write(p->inj.pid, at, &t->rseq_cs, sizeof(t->rseq_cs), err) < 0)
        return -err->code;
    if (t->exited) {
        /* A leader that has ended while others go on: it ends by itself when it is let go. */
        final->rip = ip;
        final->rax = SYS_exit;
        final->rdi = 0;
        final->orig_rax = (uint64_t)-1;
        return pt_set_regs(t->tid, final, err);
    }
    if (pt_set_sigmask(t->tid, t->sigmask, err) < 0)
        return -err->code;
    return pt_set_regs(t->tid, final, err);
}

int threads_finish(struct restore *r, struct rproc *p, struct err *err)
{
    _cleanup_free_ struct user_regs_struct *regs = calloc(p->nthreads, sizeof(*regs));
    uint64_t ip;

    p->call_ends = restore_alloc(r, p->nthreads * sizeof(*p->call_ends));
    if (!regs || !p->call_ends)
        return err_set(err, ENOMEM, "out of memory");
    if (vdso_syscall(r, p, &ip, err) < 0 || xstate_size(r, p->threads[0]->tid, err) < 0)
        return err_wrap(err, "process %d", p->pid);
    for (size_t i = 0; i < p->nthreads; i++) {
        memcpy(&regs[i], p->threads[i]->regs.data, sizeof(regs[i]));
        if (redo_call(p, p->threads[i], ip, &regs[i], &p->call_ends[i], err) < 0 ||
            pt_set_sigmask(p->threads[i]->tid, ~0ull, err) < 0)
            return err_wrap(err, "process %d", p->pid);
    }
    if (remove_parasite(p, ip, &regs[0], err) < 0)
        return err_wrap(err, "process %d", p->pid);
    for (size_t i = 0; i < p->nthreads; i++)
        if (finish_thread(p, p->threads[i], ip, &regs[i], r->xstate_size, err) < 0)
            return err_wrap(err, "process %d: thread %d", p->pid, p->threads[i]->tid);
    return 0;
}
