/* Waiting for a vfork child in another way: see vfork.h. */
#include "tracer/vfork.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/util.h"
#include "injector/ptrace.h"
#include "tracer/freeze.h"
#include "tracer/procfs.h"
#include "tracer/vforkfilter.h"

#define PAGE     4096u
#define CODE_MAX 256u
#define LET_OUT_MS 2000 /* the first thread's end lets the parent out at once, but the machine may be busy */
#define ERESTART_RESTARTBLOCK 516

/* The first page; the word is at the beginning of the second. */
struct wait_page {
    uint8_t code[CODE_MAX];
    uint64_t mask, rdi, rsi, rdx, r10, rax, flags, rip;
};

static_assert(offsetof(struct wait_page, mask) == 256 && offsetof(struct wait_page, rip) == 312, "the code counts on it");

__asm__(".pushsection .rodata\n"
        "vfork_code:\n"
        "1:  mov $202, %eax\n" /* futex(&word, FUTEX_WAIT, 1, NULL) */
        "    lea vfork_code + 4096(%rip), %rdi\n"
        "    xor %esi, %esi\n"
        "    mov $1, %edx\n"
        "    xor %r10d, %r10d\n"
        "    syscall\n"
        "    cmpl $0, vfork_code + 4096(%rip)\n"
        "    jne 1b\n"
        "    mov $14, %eax\n" /* rt_sigprocmask(SIG_SETMASK, &mask, NULL, 8): until now the child has had the stack */
        "    mov $2, %edi\n"
        "    lea vfork_code + 256(%rip), %rsi\n"
        "    xor %edx, %edx\n"
        "    mov $8, %r10d\n"
        "    syscall\n"
        "    mov vfork_code + 264(%rip), %rdi\n"
        "    mov vfork_code + 272(%rip), %rsi\n"
        "    mov vfork_code + 280(%rip), %rdx\n"
        "    mov vfork_code + 288(%rip), %r10\n"
        "    mov vfork_code + 296(%rip), %rax\n"
        "    mov vfork_code + 304(%rip), %r11\n"
        "    mov vfork_code + 312(%rip), %rcx\n"
        "    lea -128(%rsp), %rsp\n"
        "    push %r11\n"
        "    popfq\n"
        "    lea 128(%rsp), %rsp\n"
        "    jmp *%rcx\n"
        "    .org vfork_code + 256, 0xcc\n"
        ".popsection\n");
extern const uint8_t vfork_code[CODE_MAX];

static int call(pid_t tid, const struct user_regs_struct *at, int64_t *ret, struct err *err, const char *what, long nr,
                const uint64_t arg[6])
{
    if (pt_call(tid, at, ret, nr, arg, err) < 0)
        return -err->code;
    return *ret < 0 && *ret > -4096 ? err_set(err, (int)-*ret, "%s: %s", what, strerror((int)-*ret)) : 0;
}

static int make_pages(pid_t tid, const struct user_regs_struct *at, uint64_t *page, struct err *err)
{
    const uint32_t word = 1;
    int64_t ret;

    if (call(tid, at, &ret, err, "mapping two pages", SYS_mmap,
             (uint64_t[6]){0, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, ~0ull, 0}) < 0)
        return -err->code;
    *page = (uint64_t)ret;
    if (pt_write(tid, *page, vfork_code, CODE_MAX, err) < 0 || pt_write(tid, *page + PAGE, &word, sizeof(word), err) < 0)
        return -err->code;
    return call(tid, at, &ret, err, "protecting a page", SYS_mprotect, (uint64_t[6]){*page, PAGE, PROT_READ | PROT_EXEC});
}

/* A new thread has no restart block: a call that has one is made again. */
static void begin_again(struct user_regs_struct *r)
{
    if ((int64_t)r->orig_rax < 0 || (int64_t)r->rax != -ERESTART_RESTARTBLOCK)
        return;
    if (r->orig_rax == SYS_restart_syscall) {
        r->rax = (uint64_t)-EINTR;
    } else {
        r->rax = r->orig_rax;
        r->rip -= 2;
    }
    r->orig_rax = (uint64_t)-1;
}

/* The thread that goes on in place of the first: it is attached when it is made, and stops before it runs. */
static int make_heir(struct thread *heir, pid_t tid, const struct user_regs_struct *at, const struct user_regs_struct *regs,
                     uint64_t mask, uint64_t page, struct err *err)
{
    const uint64_t flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM |
                           CLONE_CHILD_CLEARTID;
    struct user_regs_struct r = *regs;
    int64_t ret;

    if (call(tid, at, &ret, err, "making a thread", SYS_clone, (uint64_t[6]){flags, 0, 0, page + PAGE, 0, 0}) < 0)
        return -err->code;
    *heir = (struct thread){.tid = (pid_t)ret, .seized = true, .call_nr = -1, .call_since_ns = -1};
    if (pt_wait(heir->tid, &heir->stop_status, err) < 0)
        return -err->code;
    heir->stopped = true;
    begin_again(&r);
    return pt_set_regs(heir->tid, &r, err) < 0 ? -err->code : pt_set_sigmask(heir->tid, mask, err);
}

/* Has it stopped as it was asked to? 1, 0: not yet. */
static int has_stopped(struct thread *t, struct err *err)
{
    if (t->stopped || waitpid(t->tid, &t->stop_status, __WALL | WNOHANG) != t->tid)
        return 0;
    if (!WIFSTOPPED(t->stop_status))
        return err_set(err, ESRCH, "thread %d has ended", t->tid);
    t->stopped = t->stop_status >> 16 == PTRACE_EVENT_STOP;
    if (t->stopped)
        return 1;
    return pt_interrupt(t->tid, err) < 0 || pt_cont(t->tid, WSTOPSIG(t->stop_status), err) < 0 ? -err->code : 0;
}

/* Whose child it was shows in who comes out: no other child is allowed to run. */
static struct thread *wait_for_parent(struct thread *const *waiting, size_t n, struct err *err)
{
    for (int ms = 0; ms < LET_OUT_MS; ms++) {
        for (size_t i = 0; i < n; i++) {
            int r = has_stopped(waiting[i], err);
            if (r)
                return r > 0 ? waiting[i] : NULL;
        }
        poll(NULL, 0, 1);
    }
    err_set(err, EBUSY, "the vfork(2) does not end");
    return NULL;
}

/* It has its child's pid as a result by now; that is what it returns with when the word is cleared. */
static int wait_anew(struct thread *t, uint64_t page, struct err *err)
{
    struct user_regs_struct r;
    struct wait_page w;
    uint64_t mask;

    if (pt_get_regs(t->tid, &r, err) < 0 || pt_get_sigmask(t->tid, &mask, err) < 0)
        return -err->code;
    memcpy(w.code, vfork_code, CODE_MAX);
    w.mask = mask;
    w.rdi = r.rdi;
    w.rsi = r.rsi;
    w.rdx = r.rdx;
    w.r10 = r.r10;
    w.rax = r.rax;
    w.flags = r.eflags;
    w.rip = r.rip;
    r.rip = page;
    r.orig_rax = (uint64_t)-1;
    if (pt_poke(t->tid, page, &w, sizeof(w), err) < 0 || pt_set_regs(t->tid, &r, err) < 0)
        return -err->code;
    return pt_set_sigmask(t->tid, ~0ull, err);
}

/*
 * Seen until it is on its way out, where no filter is asked any more, but not to its end: a dead leader that is traced
 * could not be let go.
 */
static int end_first(struct thread *child, const struct user_regs_struct *at, unsigned long options, struct err *err)
{
    struct user_regs_struct r = *at;
    int status, sig = 0;

    r.rax = SYS_exit;
    r.rdi = 0;
    if (pt_set_regs(child->tid, &r, err) < 0)
        return -err->code;
    if (ptrace(PTRACE_SETOPTIONS, child->tid, NULL, options | PTRACE_O_TRACEEXIT) < 0)
        return err_errno(err, "thread %d: its options", child->tid);
    do {
        if (pt_cont(child->tid, sig, err) < 0 || pt_wait(child->tid, &status, err) < 0)
            return -err->code;
        sig = pt_sigstop(status);
    } while (status >> 16 != PTRACE_EVENT_EXIT);
    if (pt_detach(child->tid, 0, err) < 0)
        return -err->code;
    child->gone = true;
    child->stopped = false;
    return 0;
}

/* A filter could forbid what is to be done there, and end the child for it: it is lifted meanwhile. */
static int lift_filter(const struct thread *child, unsigned long *options, struct err *err)
{
    struct proc_status st;

    *options = FREEZE_OPTIONS;
    if (read_status(child->tid, child->tid, &st, err) < 0)
        return -err->code;
    proc_status_free(&st);
    if (!st.seccomp)
        return 0;
    *options |= PTRACE_O_SUSPEND_SECCOMP;
    if (ptrace(PTRACE_SETOPTIONS, child->tid, NULL, *options) < 0)
        return err_set(err, EBUSY, "which neither execs nor exits, and has a seccomp filter, which only root "
                       "(CAP_SYS_ADMIN) may lift for a checkpoint");
    return 0;
}

int vfork_release(struct thread *const *waiting, size_t n, struct thread *child, struct thread *heir, struct err *err)
{
    struct user_regs_struct regs, at;
    uint64_t mask, page = 0, ip;
    unsigned long options;
    struct thread *parent = NULL;
    struct err ignored;

    *heir = (struct thread){0};
    if (vfork_check_filters(waiting, n, child->tid, err) < 0 || pt_get_regs(child->tid, &regs, err) < 0 ||
        pt_get_sigmask(child->tid, &mask, err) < 0 || pt_find_syscall(child->tid, &ip, err) < 0 ||
        lift_filter(child, &options, err) < 0)
        return -err->code;
    at = regs;
    pt_go_to(&at, ip);
    if (pt_set_sigmask(child->tid, ~0ull, err) < 0 || make_pages(child->tid, &at, &page, err) < 0 ||
        make_heir(heir, child->tid, &at, &regs, mask, page, err) < 0) {
        pt_set_sigmask(child->tid, mask, &ignored);
        pt_set_regs(child->tid, &regs, &ignored);
        ptrace(PTRACE_SETOPTIONS, child->tid, NULL, FREEZE_OPTIONS);
        return -err->code;
    }
    ptrace(PTRACE_SETOPTIONS, heir->tid, NULL, FREEZE_OPTIONS);
    if (end_first(child, &at, options, err) == 0)
        parent = wait_for_parent(waiting, n, err);
    return parent ? wait_anew(parent, page, err) : -err->code;
}
