/*
 * All registers of threads that run in a loop of machine code without a system call: the 15 general ones,
 * x87, MXCSR, SSE, AVX and AVX-512 with its mask registers, FS and GS base. Each thread loads known values,
 * spins until it is told to stop, and stores what it then has.
 */
#include <asm/prctl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"

struct regs {
    uint64_t gpr[15]; /* rax rbx rcx rdx rbp rsi rdi r8-r15 */
    uint32_t mxcsr;
    uint16_t fcw, pad;
    uint8_t x87[8][16];  /* 10 bytes each; x87[0] is the top */
    uint8_t vec[32][64]; /* xmm, ymm or zmm */
    uint64_t mask[8];
};

_Static_assert(offsetof(struct regs, mxcsr) == 120 && offsetof(struct regs, x87) == 128 &&
                   offsetof(struct regs, vec) == 256 && offsetof(struct regs, mask) == 2304,
               "the offsets in the assembly below");

static const char *const gpr_names[15] = {"rax", "rbx", "rcx", "rdx", "rbp", "rsi", "rdi", "r8",
                                          "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};

atomic_int regs_stop;

void spin_sse(const struct regs *in, struct regs *out);
void spin_avx(const struct regs *in, struct regs *out);
void spin_avx512(const struct regs *in, struct regs *out);

/*
 * One routine for each size of vector registers. Callee-saved registers and `out` go to the stack; then
 * everything is loaded, rdi last; after the loop the general registers go to the stack first, because
 * nothing is free to address memory with.
 */
#define FIRST_16 "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15"
#define LAST_16  "16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31"
#define FIRST_8  "0, 1, 2, 3, 4, 5, 6, 7"
#define EACH(list, instruction) ".irp i, " list "\n " instruction "\n .endr\n"
/* what only exists together with 512-bit registers */
#define IF_512(text) ".if \\all\n " text " .endif\n"

__asm__(".macro SPIN name, mov, reg, all\n"
        ".globl \\name\n.type \\name, @function\n\\name:\n"
        "push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
        "sub $8, %rsp; stmxcsr (%rsp); fnstcw 4(%rsp); push %rsi\n"
        "fninit; fldcw 124(%rdi); ldmxcsr 120(%rdi)\n"
        EACH("7, 6, 5, 4, 3, 2, 1, 0", "fldt 128+16*\\i(%rdi)")
        EACH(FIRST_16, "\\mov 256+64*\\i(%rdi), %\\reg\\i")
        IF_512(EACH(LAST_16, "\\mov 256+64*\\i(%rdi), %\\reg\\i") EACH(FIRST_8, "kmovq 2304+8*\\i(%rdi), %k\\i"))
        "mov (%rdi), %rax; mov 8(%rdi), %rbx; mov 16(%rdi), %rcx; mov 24(%rdi), %rdx; mov 32(%rdi), %rbp\n"
        "mov 40(%rdi), %rsi; mov 56(%rdi), %r8; mov 64(%rdi), %r9; mov 72(%rdi), %r10; mov 80(%rdi), %r11\n"
        "mov 88(%rdi), %r12; mov 96(%rdi), %r13; mov 104(%rdi), %r14; mov 112(%rdi), %r15; mov 48(%rdi), %rdi\n"
        "77: cmpl $0, regs_stop(%rip); je 77b\n"
        "push %r15; push %r14; push %r13; push %r12; push %r11; push %r10; push %r9; push %r8\n"
        "push %rdi; push %rsi; push %rbp; push %rdx; push %rcx; push %rbx; push %rax\n"
        "mov 120(%rsp), %rdi\n"
        EACH(FIRST_8 ", 8, 9, 10, 11, 12, 13, 14", "popq 8*\\i(%rdi)")
        "stmxcsr 120(%rdi); fnstcw 124(%rdi)\n"
        EACH(FIRST_8, "fstpt 128+16*\\i(%rdi)")
        EACH(FIRST_16, "\\mov %\\reg\\i, 256+64*\\i(%rdi)")
        IF_512(EACH(LAST_16, "\\mov %\\reg\\i, 256+64*\\i(%rdi)") EACH(FIRST_8, "kmovq %k\\i, 2304+8*\\i(%rdi)"))
        "pop %rsi; fninit; ldmxcsr (%rsp); fldcw 4(%rsp); add $8, %rsp\n"
        "pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx; ret\n"
        ".endm\n"
        "SPIN spin_sse, movups, xmm, 0\n"
        "SPIN spin_avx, vmovups, ymm, 0\n"
        "SPIN spin_avx512, vmovups, zmm, 1\n");

struct job {
    const char *name;
    void (*spin)(const struct regs *, struct regs *);
    int vectors, vector_size;
    bool masks, have;
    uint64_t seed;
    pthread_t thread;
};

static void make_values(const struct job *job, struct regs *in)
{
    int i;

    memset(in, 0, sizeof(*in));
    check_fill(in->gpr, sizeof(in->gpr), job->seed);
    in->mxcsr = 0x1f80 | (job->seed & 3) << 13; /* all exceptions masked, a rounding mode of its own */
    in->fcw = (uint16_t)(0x037f | (job->seed & 3) << 10);
    for (i = 0; i < 8; i++) {
        long double v = 1.25L * (long double)(i + 1) + (long double)job->seed;

        memcpy(in->x87[i], &v, 10);
    }
    for (i = 0; i < job->vectors; i++)
        check_fill(in->vec[i], (size_t)job->vector_size, job->seed * 100 + (uint64_t)i);
    if (job->masks)
        check_fill(in->mask, sizeof(in->mask), job->seed + 77);
}

static void compare(const struct job *job, const struct regs *in, const struct regs *out)
{
    int i;

    for (i = 0; i < 15; i++)
        check_num((long long)in->gpr[i], (long long)out->gpr[i], "%s: %s", job->name, gpr_names[i]);
    check_num(in->mxcsr, out->mxcsr, "%s: mxcsr", job->name);
    check_num(in->fcw, out->fcw, "%s: x87 control word", job->name);
    check_mem(in->x87, out->x87, sizeof(in->x87), "x87 registers");
    for (i = 0; i < job->vectors; i++) {
        char what[64];

        snprintf(what, sizeof(what), "%s register %d", job->name, i);
        check_mem(in->vec[i], out->vec[i], (size_t)job->vector_size, what);
    }
    for (i = 0; i < 8; i++)
        check_num((long long)in->mask[i], (long long)out->mask[i], "%s: k%d", job->name, i);
}

static void *spinner(void *arg)
{
    const struct job *job = arg;
    unsigned long fs, gs, fs_after = 0, gs_after = 0;
    struct regs in, out;

    memset(&out, 0, sizeof(out));
    make_values(job, &in);
    MUST(syscall(SYS_arch_prctl, ARCH_SET_GS, 0x123456789000 + job->seed * 4096));
    MUST(syscall(SYS_arch_prctl, ARCH_GET_FS, &fs));
    MUST(syscall(SYS_arch_prctl, ARCH_GET_GS, &gs));
    job->spin(&in, &out);
    MUST(syscall(SYS_arch_prctl, ARCH_GET_FS, &fs_after));
    MUST(syscall(SYS_arch_prctl, ARCH_GET_GS, &gs_after));
    if (check_broken())
        out.vec[7][3] ^= 1;
    compare(job, &in, &out);
    check_num((long long)fs, (long long)fs_after, "%s: FS base", job->name);
    check_num((long long)gs, (long long)gs_after, "%s: GS base", job->name);
    return NULL;
}

int main(int argc, char **argv)
{
    struct job jobs[] = {
        {"xmm", spin_sse, 16, 16, false, true, 1, 0},
        {"ymm", spin_avx, 16, 32, false, __builtin_cpu_supports("avx"), 2, 0},
        {"zmm", spin_avx512, 32, 64, true, __builtin_cpu_supports("avx512bw"), 3, 0},
    };
    unsigned i;

    check_init(argc, argv);
    for (i = 0; i < 3; i++) {
        if (jobs[i].have)
            pthread_create(&jobs[i].thread, NULL, spinner, &jobs[i]);
        else
            check_note("the CPU has no %s registers", jobs[i].name);
    }

    check_wait();

    atomic_store(&regs_stop, 1);
    for (i = 0; i < 3; i++)
        if (jobs[i].have)
            pthread_join(jobs[i].thread, NULL);
    return check_end();
}
