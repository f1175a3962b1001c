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
#include "tracer/procfs.h"

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

static int wait_for_stop(struct thread *t, struct err *err)
{
    for (int ms = 0; ms < LET_OUT_MS; ms++) {
        if (waitpid(t->tid, &t->stop_status, __WALL | WNOHANG) == t->tid) {
            if (!WIFSTOPPED(t->stop_status))
                return err_set(err, ESRCH, "thread %d has ended", t->tid);
            if (t->stop_status >> 16 == PTRACE_EVENT_STOP)
                return 0;
            if (pt_interrupt(t->tid, err) < 0 || pt_cont(t->tid, WSTOPSIG(t->stop_status), err) < 0)
                return -err->code;
        }
        poll(NULL, 0, 1);
    }
    return err_set(err, EBUSY, "thread %d: its vfork(2) does not end", t->tid);
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
    t->stopped = true;
    return pt_set_sigmask(t->tid, ~0ull, err);
}

/* Not followed to its end: a dead leader that is traced could not be let go. */
static int end_first(struct thread *child, const struct user_regs_struct *at, struct err *err)
{
    struct user_regs_struct r = *at;

    r.rax = SYS_exit;
    r.rdi = 0;
    if (pt_set_regs(child->tid, &r, err) < 0 || pt_detach(child->tid, 0, err) < 0)
        return -err->code;
    child->gone = true;
    child->stopped = false;
    return 0;
}

/* A filter could forbid what is to be done there, and end the child for it. */
static int check_filter(pid_t tid, struct err *err)
{
    struct proc_status st;

    if (read_status(tid, tid, &st, err) < 0)
        return -err->code;
    proc_status_free(&st);
    return st.seccomp ? err_set(err, EBUSY, "which neither execs nor exits, and has a seccomp filter") : 0;
}

int vfork_release(struct thread *waiting, struct thread *child, struct thread *heir, struct err *err)
{
    struct user_regs_struct regs, at;
    uint64_t mask, page = 0, ip;
    struct err ignored;

    if (check_filter(child->tid, err) < 0 || pt_get_regs(child->tid, &regs, err) < 0 || pt_get_sigmask(child->tid, &mask, err) < 0 ||
        pt_find_syscall(child->tid, &ip, err) < 0)
        return -err->code;
    at = regs;
    pt_go_to(&at, ip);
    *heir = (struct thread){0};
    if (pt_set_sigmask(child->tid, ~0ull, err) < 0 || make_pages(child->tid, &at, &page, err) < 0 ||
        make_heir(heir, child->tid, &at, &regs, mask, page, err) < 0) {
        pt_set_sigmask(child->tid, mask, &ignored);
        pt_set_regs(child->tid, &regs, &ignored);
        return -err->code;
    }
    if (end_first(child, &at, err) < 0 || wait_for_stop(waiting, err) < 0)
        return -err->code;
    return wait_anew(waiting, page, err);
}
