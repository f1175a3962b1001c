/* Calls that ended early: see shortcall.h. */
#include "tracer/shortcall.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>

#include "base/util.h"
#include "injector/guard.h"
#include "injector/ptrace.h"
#include "tracer/procfs.h"

#define IOVS_MAX  3u
#define CODE_MAX  64u

/* One thread's: code, and what it needs. In memory that the process itself cannot write. */
struct slot {
    uint8_t code[CODE_MAX];
    uint64_t done;     /* bytes of the parts before */
    uint64_t rsi, rdx, r10, rip; /* as the program must find them */
    uint64_t rsp;
    uint64_t tid;
    struct iovec iov[IOVS_MAX];
};

/* Assembled here, copied as a whole; CODE_MAX is what the distances to the data are counted from. */
__asm__(".pushsection .rodata\n"
        "shortcall_code:\n"
        "    syscall\n"
        "    test %rax, %rax\n"
        "    jns 1f\n"
        "    xor %eax, %eax\n" /* what was transferred before counts more than why there is no more */
        "1:  add shortcall_code + 64(%rip), %rax\n"
        "    mov shortcall_code + 72(%rip), %rsi\n"
        "    mov shortcall_code + 80(%rip), %rdx\n"
        "    mov shortcall_code + 88(%rip), %r10\n"
        "    mov shortcall_code + 96(%rip), %rcx\n"
        "    lea -128(%rsp), %rsp\n"
        "    push %r11\n" /* the flags, where the system call left them */
        "    popfq\n"
        "    lea 128(%rsp), %rsp\n"
        "    jmp *%rcx\n"
        "    .org shortcall_code + 64, 0xcc\n"
        ".popsection\n");
extern const uint8_t shortcall_code[CODE_MAX];

static_assert(offsetof(struct slot, done) == 64 && offsetof(struct slot, rip) == 96, "the code counts on it");

/* --- which calls ------------------------------------------------------------------------------------ */

static bool is_tty(dev_t d)
{
    return major(d) == 4 || major(d) == 5 || (major(d) >= 136 && major(d) <= 143);
}

/* Is it something on which a transfer blocks until all is done? (sendfile(2) to a pipe does not.) */
static bool waits_for_all(pid_t tid, int fd, bool sockets_only)
{
    _cleanup_free_ char *text = NULL;
    struct err ignored;
    unsigned flags;
    char path[48];
    struct stat st;
    const char *at;

    snprintf(path, sizeof(path), "/proc/%d/fd/%d", tid, fd);
    if (stat(path, &st) < 0 || read_proc(&text, NULL, &ignored, "%d/fdinfo/%d", tid, fd) < 0)
        return false;
    at = strstr(text, "flags:");
    if (!at || sscanf(at + 6, "%o", &flags) != 1 || (flags & O_NONBLOCK))
        return false;
    if (S_ISSOCK(st.st_mode))
        return true;
    return !sockets_only && (S_ISFIFO(st.st_mode) || (S_ISCHR(st.st_mode) && is_tty(st.st_rdev)));
}

/* A signal that the call was right to end for, of the thread or of its process. */
static bool signal_waits(pid_t tid)
{
    struct proc_status st;
    struct err ignored;

    if (read_status(tid, tid, &st, &ignored) < 0)
        return true;
    proc_status_free(&st);
    return ((st.sig_pending | st.shared_pending) & ~st.sig_blocked) != 0;
}

/* Skip what has been transferred: the remaining pieces go into the slot. */
static bool skip_iov(pid_t tid, struct user_regs_struct *r, uint64_t n, uint64_t done, struct slot *s, uint64_t slot_at)
{
    struct iovec iov[IOVS_MAX + 8];
    size_t i = 0, left;
    struct err ignored;

    if (n == 0 || n > ARRAY_SIZE(iov) || pt_read(tid, r->rsi, iov, n * sizeof(*iov), &ignored) < 0)
        return false;
    while (i < n && done >= iov[i].iov_len)
        done -= iov[i++].iov_len;
    left = n - i;
    if (!left || left > IOVS_MAX)
        return false;
    iov[i].iov_base = (char *)iov[i].iov_base + done;
    iov[i].iov_len -= done;
    memcpy(s->iov, &iov[i], left * sizeof(*iov));
    r->rsi = slot_at + offsetof(struct slot, iov);
    r->rdx = left;
    return true;
}

/* The arguments for the rest of the call, of which `done` bytes were transferred. false: that is no short count. */
static bool rest_of(pid_t tid, struct user_regs_struct *r, uint64_t done, struct slot *s, uint64_t slot_at)
{
    switch (r->orig_rax) {
    case SYS_recvfrom:
    case SYS_sendto:
        if ((r->r10 & MSG_DONTWAIT) || (r->orig_rax == SYS_recvfrom && (!(r->r10 & MSG_WAITALL) || (r->r10 & MSG_PEEK))))
            return false;
        /* fall through */
    case SYS_write:
        if (done >= r->rdx)
            return false;
        r->rsi += done;
        r->rdx -= done;
        return true;
    case SYS_writev:
        return skip_iov(tid, r, r->rdx, done, s, slot_at);
    case SYS_sendfile:
        if (done >= r->r10)
            return false;
        r->r10 -= done;
        return true;
    default:
        return false;
    }
}

static bool could_be_short(pid_t tid, const struct user_regs_struct *r)
{
    int64_t done = (int64_t)r->rax;
    uint8_t code[2];
    struct err ignored;

    if (done <= 0)
        return false;
    switch ((int64_t)r->orig_rax) {
    case SYS_write:
    case SYS_sendto:
    case SYS_recvfrom:
        if ((uint64_t)done >= r->rdx)
            return false;
        break;
    case SYS_writev:
    case SYS_sendfile:
        break;
    default:
        return false;
    }
    return pt_read(tid, r->rip - 2, code, 2, &ignored) == 0 && code[0] == 0x0f && code[1] == 0x05;
}

/* --- where ------------------------------------------------------------------------------------------ */

static bool is_slot(const struct slot *s)
{
    return !memcmp(s->code, shortcall_code, CODE_MAX);
}

static bool is_zero(const struct slot *s)
{
    static const struct slot zero;

    return !memcmp(s, &zero, sizeof(zero));
}

/*
 * Is what was put there over? Its thread has ended, or is somewhere else and not in a signal handler that interrupted it
 * (whose frame is below).
 */
static bool is_over(const struct slot *s, uint64_t at, const struct thread *all, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if ((uint64_t)all[i].tid == s->tid)
            return all[i].regs.rip - at >= sizeof(*s) && all[i].regs.rsp >= s->rsp;
    return kill((pid_t)s->tid, 0) < 0 && errno == ESRCH;
}

/* Where the kernel's image in it ends, rounded up; what is behind is nobody's. 0: there is no telling. */
static uint64_t image_end(pid_t tid, uint64_t start)
{
    struct err ignored;
    Elf64_Ehdr e;

    if (pt_read(tid, start, &e, sizeof(e), &ignored) < 0 || !e.e_shoff)
        return 0;
    return start + ((e.e_shoff + (uint64_t)e.e_shnum * e.e_shentsize + 15) & ~15ull);
}

/* The slot in which the thread is already, or a free one; 0: none. */
static uint64_t find_slot(const struct thread *all, size_t n, const struct thread *t, struct slot *now)
{
    uint64_t start, end, first, free_at = 0;
    struct err ignored;

    *now = (struct slot){0};
    if (pt_find_vdso(t->tid, &start, &end, &ignored) < 0 || !start || !(first = image_end(t->tid, start)))
        return 0;
    for (uint64_t at = end - GUARD_SPACE - sizeof(*now); at >= first && at < end; at -= sizeof(*now)) {
        struct slot s;
        if (pt_read(t->tid, at, &s, sizeof(s), &ignored) < 0 || (!is_slot(&s) && !is_zero(&s)))
            break;
        if (is_slot(&s) && t->regs.rip - at < sizeof(s)) {
            *now = s;
            return at;
        }
        if (!free_at && (is_zero(&s) || is_over(&s, at, all, n)))
            free_at = at;
    }
    return free_at;
}

void finish_short_call(const struct thread *all, size_t n, struct thread *t)
{
    struct user_regs_struct r = t->regs;
    uint64_t done = r.rax, at;
    struct err ignored;
    struct slot s;

    if (!could_be_short(t->tid, &r) || !waits_for_all(t->tid, (int)r.rdi, r.orig_rax == SYS_sendfile) ||
        signal_waits(t->tid) || !(at = find_slot(all, n, t, &s)))
        return;
    if (!s.rip) {
        s = (struct slot){.rsi = r.rsi, .rdx = r.rdx, .r10 = r.r10, .rip = r.rip, .rsp = r.rsp, .tid = (uint64_t)t->tid};
        memcpy(s.code, shortcall_code, CODE_MAX);
    }
    if (!rest_of(t->tid, &r, done, &s, at))
        return;
    s.done += done;
    if (pt_poke(t->tid, at, &s, sizeof(s), &ignored) < 0)
        return;
    r.rax = r.orig_rax;
    r.orig_rax = (uint64_t)-1;
    r.rip = at;
    t->regs = r;
}
