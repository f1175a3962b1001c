/* Thin, checked wrappers around ptrace(2): see ptrace.h. */
#include "injector/ptrace.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "base/util.h"

int pt_seize(pid_t tid, unsigned long options, struct err *err)
{
    if (ptrace(PTRACE_SEIZE, tid, NULL, options) < 0)
        return err_errno(err, "thread %d: cannot be traced", tid);
    return 0;
}

int pt_interrupt(pid_t tid, struct err *err)
{
    if (ptrace(PTRACE_INTERRUPT, tid, NULL, NULL) < 0)
        return err_errno(err, "thread %d: cannot be interrupted", tid);
    return 0;
}

int pt_cont(pid_t tid, int sig, struct err *err)
{
    if (ptrace(PTRACE_CONT, tid, NULL, (long)sig) < 0)
        return err_errno(err, "thread %d: cannot be continued", tid);
    return 0;
}

int pt_detach(pid_t tid, int sig, struct err *err)
{
    if (ptrace(PTRACE_DETACH, tid, NULL, (long)sig) < 0)
        return err_errno(err, "thread %d: cannot be let go", tid);
    return 0;
}

/* The end of a thread is reported a little after it has given up its memory (do_exit() in kernel/exit.c). */
static bool is_dead_leader(pid_t tid)
{
    char byte;
    struct iovec l = {&byte, 1}, r = {NULL, 1};

    return process_vm_readv(tid, &l, 1, &r, 1, 0) < 0 && errno == ESRCH && tgkill(tid, tid, 0) == 0;
}

/*
 * waitpid(2), but for a dead leader 0 at once. Every stop and every end sends SIGCHLD to the tracer; only of its own
 * children those with another exit signal do not, which is why there is a bound.
 */
static pid_t wait_or_dead_leader(pid_t tid, int *status)
{
    const struct timespec bound = {.tv_nsec = 100000000};
    sigset_t chld, old;
    pid_t r;

    sigemptyset(&chld);
    sigaddset(&chld, SIGCHLD);
    sigprocmask(SIG_BLOCK, &chld, &old);
    while ((r = waitpid(tid, status, __WALL | WNOHANG)) == 0 && !is_dead_leader(tid))
        sigtimedwait(&chld, NULL, &bound);
    sigprocmask(SIG_SETMASK, &old, NULL);
    return r;
}

int pt_wait(pid_t tid, int *status, struct err *err)
{
    pid_t r = waitpid(tid, status, __WALL | WNOHANG);

    if (r == 0)
        r = wait_or_dead_leader(tid, status);
    if (r < 0)
        return err_errno(err, "thread %d: wait", tid);
    if (r == 0)
        *status = 0;
    if (!WIFSTOPPED(*status))
        return err_set(err, ESRCH, "thread %d has ended", tid);
    return 0;
}

int pt_get_regs(pid_t tid, struct user_regs_struct *regs, struct err *err)
{
    struct iovec iov = {regs, sizeof(*regs)};

    if (ptrace(PTRACE_GETREGSET, tid, (void *)NT_PRSTATUS, &iov) < 0)
        return err_errno(err, "thread %d: reading its registers", tid);
    if (iov.iov_len != sizeof(*regs))
        return err_set(err, ENOTSUP, "thread %d runs 32-bit code, which is not supported", tid);
    return 0;
}

int pt_set_regs(pid_t tid, const struct user_regs_struct *regs, struct err *err)
{
    struct iovec iov = {(void *)regs, sizeof(*regs)};

    if (ptrace(PTRACE_SETREGSET, tid, (void *)NT_PRSTATUS, &iov) < 0)
        return err_errno(err, "thread %d: setting its registers", tid);
    return 0;
}

#define EFLAGS_OFF 0x40500ull /* trap, direction, alignment check */

void pt_go_to(struct user_regs_struct *regs, uint64_t ip)
{
    regs->rip = ip;
    regs->orig_rax = (uint64_t)-1;
    regs->eflags &= ~EFLAGS_OFF;
}

int pt_get_xstate(pid_t tid, void **buf, size_t *len, struct err *err)
{
    struct iovec iov = {malloc(65536), 65536};

    if (!iov.iov_base)
        return err_set(err, ENOMEM, "out of memory");
    if (ptrace(PTRACE_GETREGSET, tid, (void *)NT_X86_XSTATE, &iov) < 0) {
        err_errno(err, "thread %d: reading its extended state", tid);
        free(iov.iov_base);
        return -err->code;
    }
    *buf = iov.iov_base;
    *len = iov.iov_len;
    return 0;
}

int pt_set_xstate(pid_t tid, const void *buf, size_t len, struct err *err)
{
    struct iovec iov = {(void *)buf, len};

    if (ptrace(PTRACE_SETREGSET, tid, (void *)NT_X86_XSTATE, &iov) < 0)
        return err_errno(err, "thread %d: setting its extended state", tid);
    return 0;
}

int pt_get_sigmask(pid_t tid, uint64_t *mask, struct err *err)
{
    if (ptrace(PTRACE_GETSIGMASK, tid, sizeof(*mask), mask) < 0)
        return err_errno(err, "thread %d: reading its signal mask", tid);
    return 0;
}

int pt_set_sigmask(pid_t tid, uint64_t mask, struct err *err)
{
    if (ptrace(PTRACE_SETSIGMASK, tid, sizeof(mask), &mask) < 0)
        return err_errno(err, "thread %d: setting its signal mask", tid);
    return 0;
}

int pt_read(pid_t pid, uint64_t addr, void *buf, size_t len, struct err *err)
{
    for (size_t done = 0; done < len;) {
        struct iovec l = {(char *)buf + done, len - done}, r = {(void *)(addr + done), len - done};
        ssize_t n = process_vm_readv(pid, &l, 1, &r, 1, 0);

        if (n <= 0)
            return err_errno(err, "process %d: reading %zu bytes at %#" PRIx64, pid, len - done, addr + done);
        done += (size_t)n;
    }
    return 0;
}

int pt_write(pid_t pid, uint64_t addr, const void *buf, size_t len, struct err *err)
{
    for (size_t done = 0; done < len;) {
        struct iovec l = {(char *)buf + done, len - done}, r = {(void *)(addr + done), len - done};
        ssize_t n = process_vm_writev(pid, &l, 1, &r, 1, 0);

        if (n <= 0)
            return err_errno(err, "process %d: writing %zu bytes at %#" PRIx64, pid, len - done, addr + done);
        done += (size_t)n;
    }
    return 0;
}

int pt_poke(pid_t pid, uint64_t addr, const void *buf, size_t len, struct err *err)
{
    char path[40];
    int r;

    snprintf(path, sizeof(path), "/proc/%d/mem", pid);
    _cleanup_close_ int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return err_errno(err, "%s", path);
    r = pwrite_full(fd, buf, len, (off_t)addr);
    if (r < 0)
        return err_set(err, -r, "%s: writing %zu bytes at %#" PRIx64 ": %s", path, len, addr, strerror(-r));
    return 0;
}

int pt_sigstop(int status)
{
    return status >> 16 == 0 && WSTOPSIG(status) == SIGSTOP ? SIGSTOP : 0;
}

/* To the next stop for a system call. Others can come first (SIGSTOP, and the group-stop that it leads to). */
static int to_call_stop(pid_t tid, struct err *err)
{
    int status, sig = 0;

    do {
        if (ptrace(PTRACE_SYSCALL, tid, NULL, (long)sig) < 0)
            return err_errno(err, "thread %d: cannot be continued", tid);
        if (pt_wait(tid, &status, err) < 0)
            return -err->code;
        sig = pt_sigstop(status);
    } while (status >> 16 || WSTOPSIG(status) != (SIGTRAP | 0x80));
    return 0;
}

int pt_call(pid_t tid, const struct user_regs_struct *at, int64_t *ret, long nr, const uint64_t arg[6],
            struct err *err)
{
    struct user_regs_struct regs = *at;

    pt_go_to(&regs, at->rip);
    regs.rax = (uint64_t)nr;
    regs.rdi = arg[0];
    regs.rsi = arg[1];
    regs.rdx = arg[2];
    regs.r10 = arg[3];
    regs.r8 = arg[4];
    regs.r9 = arg[5];
    if (pt_set_regs(tid, &regs, err) < 0 || to_call_stop(tid, err) < 0 || to_call_stop(tid, err) < 0 ||
        pt_get_regs(tid, &regs, err) < 0)
        return -err->code;
    *ret = (int64_t)regs.rax;
    return 0;
}

int pt_syscall(pid_t tid, uint64_t ip, const struct user_regs_struct *orig, int64_t *ret, long nr,
               const uint64_t arg[6], struct err *err)
{
    struct user_regs_struct at = *orig;

    at.rip = ip;
    return pt_call(tid, &at, ret, nr, arg, err) < 0 ? -err->code : pt_set_regs(tid, orig, err);
}

int pt_find_vdso(pid_t pid, uint64_t *start, uint64_t *end, struct err *err)
{
    _cleanup_free_ char *maps = NULL;
    char *line;

    *start = *end = 0;
    if (read_proc(&maps, NULL, err, "%d/maps", pid) < 0)
        return -err->code;
    line = strstr(maps, "[vdso]\n");
    while (line && line > maps && line[-1] != '\n')
        line--;
    if (line && sscanf(line, "%" SCNx64 "-%" SCNx64 " r-xp", start, end) != 2)
        *start = *end = 0;
    return 0;
}

static int find_in(pid_t pid, uint64_t start, uint64_t end, uint64_t *ip)
{
    static const unsigned char insn[] = {0x0f, 0x05};
    unsigned char buf[4096];
    struct err ignored;

    for (uint64_t a = start; a < end; a += sizeof(buf)) {
        if (pt_read(pid, a, buf, sizeof(buf), &ignored) < 0)
            return 0;
        unsigned char *p = memmem(buf, sizeof(buf), insn, sizeof(insn));
        if (p) {
            *ip = a + (uint64_t)(p - buf);
            return 1;
        }
    }
    return 0;
}

int pt_find_syscall(pid_t pid, uint64_t *ip, struct err *err)
{
    _cleanup_free_ char *maps = NULL;
    uint64_t start, end;

    if (pt_find_vdso(pid, &start, &end, err) < 0)
        return -err->code;
    if (start && find_in(pid, start, end, ip))
        return 0;
    if (read_proc(&maps, NULL, err, "%d/maps", pid) < 0)
        return -err->code;
    for (char *line = maps, *eol; line && *line; line = eol ? eol + 1 : NULL) {
        char perms[5] = "";

        eol = strchr(line, '\n');
        if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s", &start, &end, perms) == 3 && perms[2] == 'x' &&
            !memmem(line, (size_t)(strchrnul(line, '\n') - line), "[vsyscall]", 10) && find_in(pid, start, end, ip))
            return 0;
    }
    return err_set(err, ENOTSUP, "process %d: no system call instruction in its memory", pid);
}
