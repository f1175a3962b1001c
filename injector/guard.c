/* See guard.h. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>

#include "base/util.h"
#include "injector/blob_code.h"
#include "injector/guard.h"
#include "injector/ptrace.h"

#define ERESTARTSYS           512
#define ERESTARTNOINTR        513
#define ERESTARTNOHAND        514
#define ERESTART_RESTARTBLOCK 516

#define VDSO_MAX (64u << 10)

void guard_home(struct blob_home *home, const struct user_regs_struct *regs, uint64_t sigmask)
{
    *home = (struct blob_home){
        .r15 = regs->r15, .r14 = regs->r14, .r13 = regs->r13, .r12 = regs->r12, .rbp = regs->rbp, .r11 = regs->r11,
        .r10 = regs->r10, .r9 = regs->r9, .r8 = regs->r8, .rax = regs->rax, .rcx = regs->rcx, .rdx = regs->rdx,
        .rsi = regs->rsi, .rdi = regs->rdi, .rbx = regs->rbx, .rip = regs->rip, .rflags = regs->eflags,
        .rsp = regs->rsp, .sigmask = sigmask,
    };
    if ((int64_t)regs->orig_rax < 0)
        return;
    switch (-(int64_t)regs->rax) {
    case ERESTARTSYS:
    case ERESTARTNOINTR:
    case ERESTARTNOHAND:
        home->rax = regs->orig_rax;
        home->rip -= 2;
        break;
    case ERESTART_RESTARTBLOCK:
        home->rax = SYS_restart_syscall;
        home->rip -= 2;
        break;
    default:
        break;
    }
}

static uint64_t guard_size(void)
{
    return ((blob_guard_size + 15) & ~15ull) + sizeof(struct blob_home);
}

/* The zeros must be there, or a guard that a tracer left when it was killed. */
static uint64_t find_place(const struct inj *inj, uint64_t start, uint64_t end)
{
    uint64_t at = (end - guard_size()) & ~15ull;
    uint8_t now[GUARD_SPACE], zero[GUARD_SPACE] = {0};
    struct err ignored;

    if (end <= start || end - start > VDSO_MAX || at < start || end - at > sizeof(now) ||
        pt_read(inj->pid, at, now, end - at, &ignored) < 0)
        return 0;
    return !memcmp(now, zero, end - at) || !memcmp(now, blob_code + blob_guard_at, blob_guard_size) ? at : 0;
}

int guard_find(struct inj *inj, struct err *err)
{
    uint64_t start, end;

    if (pt_find_vdso(inj->pid, &start, &end, err) < 0)
        return -err->code;
    inj->guard = find_place(inj, start, end);
    inj->call = inj->regs;
    inj->call.rax = SYS_getpid;
    pt_go_to(&inj->call, inj->guard);
    if (inj->guard)
        inj->call.rsp = inj->guard + guard_size() - sizeof(struct blob_home);
    return inj->guard ? 0 : pt_find_syscall(inj->pid, (uint64_t *)&inj->call.rip, err);
}

int guard_set(struct inj *inj, struct err *err)
{
    uint8_t bytes[GUARD_SPACE] = {0};
    struct blob_home home;

    if (!inj->guard)
        return 0;
    guard_home(&home, &inj->regs, inj->sigmask);
    memcpy(bytes, blob_code + blob_guard_at, blob_guard_size);
    memcpy(bytes + guard_size() - sizeof(home), &home, sizeof(home));
    return pt_poke(inj->pid, inj->guard, bytes, guard_size(), err);
}

void guard_clear(struct inj *inj)
{
    const uint8_t zero[GUARD_SPACE] = {0};
    struct err ignored;

    if (inj->guard)
        pt_poke(inj->pid, inj->guard, zero, guard_size(), &ignored);
}
