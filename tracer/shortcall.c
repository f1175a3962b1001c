/* Calls that ended early: see shortcall.h. What exactly is left of each is in shortrest.c. */
#include "tracer/shortcall.h"

#include <elf.h>
#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>

#include "base/util.h"
#include "injector/guard.h"
#include "injector/ptrace.h"
#include "tracer/procfs.h"
#include "tracer/shortrest.h"

#define STUB_MAX   16u
#define COMMON_MAX 64u

/*
 * One thread's: the call, and what is needed when it ends. In memory that the process itself cannot write,
 * behind the end of the vDSO, one behind the other; highest is the code that all have in common.
 */
struct slot {
    uint8_t stub[STUB_MAX];
    uint64_t done;                            /* of the parts before */
    uint64_t rdi, rsi, rdx, r10, r8, r9, rip; /* as the program must find them */
    uint64_t rsp;
    uint32_t tid;
    uint32_t size;          /* of it all */
    struct short_data data; /* is there if the size says so */
};
#define SMALL offsetof(struct slot, data)

/* The call; lea SLOT(%rip), %rcx; jmp to the common part, whose distance is filled in. */
static const uint8_t stub_code[STUB_MAX] = {0x0f, 0x05, 0x48, 0x8d, 0x0d, 0xf7, 0xff, 0xff, 0xff, 0xe9};
#define STUB_JUMP 10u /* where the distance is, which is counted from STUB_JUMP + 4 */

/* The system call has kept all registers but these: rcx, r11 (the flags), rax. */
__asm__(".pushsection .rodata\n"
        "shortcall_code:\n"
        "    test %rax, %rax\n"
        "    jns 1f\n"
        "    xor %eax, %eax\n" /* what was transferred before counts more than why there is no more */
        "1:  add 16(%rcx), %rax\n"
        "    mov 24(%rcx), %rdi\n"
        "    mov 32(%rcx), %rsi\n"
        "    mov 40(%rcx), %rdx\n"
        "    mov 48(%rcx), %r10\n"
        "    mov 56(%rcx), %r8\n"
        "    mov 64(%rcx), %r9\n"
        "    lea -128(%rsp), %rsp\n"
        "    push %r11\n"
        "    popfq\n"
        "    lea 128(%rsp), %rsp\n"
        "    mov 72(%rcx), %rcx\n"
        "    jmp *%rcx\n"
        "    .org shortcall_code + 64, 0xcc\n"
        ".popsection\n");
extern const uint8_t shortcall_code[COMMON_MAX];

static_assert(offsetof(struct slot, done) == 16 && offsetof(struct slot, rip) == 72, "the code counts on it");

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

static bool is_after_syscall(pid_t tid, const struct user_regs_struct *r)
{
    uint8_t code[2];
    struct err ignored;

    return pt_read(tid, r->rip - 2, code, 2, &ignored) == 0 && code[0] == 0x0f && code[1] == 0x05;
}

/* --- where ------------------------------------------------------------------------------------------ */

/* The room behind the vDSO of a process: where slots begin, and where the common part is. */
struct room {
    uint64_t first, common;
};

static void make_stub(uint8_t stub[STUB_MAX], uint64_t at, const struct room *room)
{
    int32_t distance = (int32_t)(room->common - (at + STUB_JUMP + 4));

    memcpy(stub, stub_code, STUB_MAX);
    memcpy(stub + STUB_JUMP, &distance, sizeof(distance));
}

static bool is_slot(const struct slot *s, uint64_t at, const struct room *room)
{
    uint8_t stub[STUB_MAX];

    make_stub(stub, at, room);
    return !memcmp(s->stub, stub, STUB_MAX);
}

static bool is_zero(const struct slot *s, size_t n)
{
    static const struct slot zero;

    return !memcmp(s, &zero, n);
}

/*
 * Is what was put there over? Its thread has ended, or is somewhere else and not in a signal handler that
 * interrupted it (whose frame is below).
 */
static bool is_over(const struct slot *s, uint64_t at, const struct room *room, const struct thread *all,
                    size_t n)
{
    for (size_t i = 0; i < n; i++)
        if ((uint32_t)all[i].tid == s->tid)
            return all[i].regs.rip - at >= STUB_MAX && all[i].regs.rip - room->common >= COMMON_MAX &&
                   all[i].regs.rsp >= s->rsp;
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

/* The common part is put there if it is not there yet. */
static bool find_room(pid_t tid, struct room *room)
{
    static const uint8_t zero[COMMON_MAX];
    uint8_t now[COMMON_MAX];
    uint64_t start, end;
    struct err ignored;

    if (pt_find_vdso(tid, &start, &end, &ignored) < 0 || !start || !(room->first = image_end(tid, start)))
        return false;
    room->common = end - GUARD_SPACE - COMMON_MAX;
    if (room->common < room->first || room->common >= end ||
        pt_read(tid, room->common, now, sizeof(now), &ignored) < 0)
        return false;
    if (!memcmp(now, shortcall_code, COMMON_MAX))
        return true;
    return !memcmp(now, zero, COMMON_MAX) &&
           pt_poke(tid, room->common, shortcall_code, COMMON_MAX, &ignored) == 0;
}

/* The slot in which the thread is already, or a free one of at least this size (with no rip); 0: none. */
static uint64_t find_slot(const struct room *room, const struct thread *all, size_t n, const struct thread *t,
                          size_t size, struct slot *now)
{
    uint64_t at = room->first, free_at = 0;
    struct err ignored;
    struct slot s = {.size = 1}; /* not zero, if it can't be read */
    size_t whole = size;

    while (at + size <= room->common && pt_read(t->tid, at, &s, size, &ignored) == 0 &&
           is_slot(&s, at, room)) {
        *now = s;
        if (t->regs.rip - at < STUB_MAX)
            return s.size >= size ? at : 0;
        if (!free_at && s.size >= size && is_over(&s, at, room, all, n)) {
            free_at = at;
            whole = s.size;
        }
        if (s.size < SMALL || s.size > sizeof(s))
            return 0;
        at += s.size;
    }
    *now = (struct slot){.size = (uint32_t)whole};
    if (free_at || at + size > room->common)
        return free_at;
    return is_zero(&s, size) ? at : 0;
}

void finish_short_call(const struct thread *all, size_t n, struct thread *t)
{
    struct user_regs_struct r = t->regs;
    struct err ignored;
    struct room room;
    struct slot s = {0};
    uint64_t at;
    size_t size = short_needs_data(&r) ? sizeof(s) : SMALL;

    if (!short_possible(&r) || !is_after_syscall(t->tid, &r) || signal_waits(t->tid) ||
        !find_room(t->tid, &room) || !(at = find_slot(&room, all, n, t, size, &s)))
        return;
    if (!s.rip) {
        s = (struct slot){.rdi = r.rdi,
                          .rsi = r.rsi,
                          .rdx = r.rdx,
                          .r10 = r.r10,
                          .r8 = r.r8,
                          .r9 = r.r9,
                          .rip = r.rip,
                          .rsp = r.rsp,
                          .tid = (uint32_t)t->tid,
                          .size = s.size};
        make_stub(s.stub, at, &room);
    }
    if (!short_rest(t->tid, &r, &s.data, at + offsetof(struct slot, data)))
        return;
    s.done += t->regs.rax;
    if (pt_poke(t->tid, at, &s, size, &ignored) < 0)
        return;
    r.rax = r.orig_rax;
    r.orig_rax = (uint64_t)-1;
    r.rip = at;
    t->regs = r;
}
