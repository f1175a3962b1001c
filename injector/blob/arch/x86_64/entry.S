/*
 * The parasite's entry and the three things that C can't say: a raw system call, a clone that
 * shares memory, and the return to a saved set of registers. See blob.h for the structures.
 */
    .text
    .globl blob_entry, blob_syscall, blob_clone_vm, blob_go_home, blob_guard, blob_guard_end

/* rdi: slot. First byte of the blob: the linker script puts .text.entry in front. */
    .section .text.entry, "ax"
blob_entry:
    cld
    andq $-16, %rsp
    call blob_main
    ud2

    .text
/* int64_t blob_syscall(int64_t nr, const uint64_t arg[6]) */
blob_syscall:
    movq %rdi, %rax
    movq %rsi, %r11
    movq 0(%r11), %rdi
    movq 8(%r11), %rsi
    movq 16(%r11), %rdx
    movq 24(%r11), %r10
    movq 32(%r11), %r8
    movq 40(%r11), %r9
    syscall
    ret

/* The same for a clone with CLONE_VM: the child has a new stack with its slot's address on top. */
blob_clone_vm:
    movq %rdi, %rax
    movq %rsi, %r11
    movq 0(%r11), %rdi
    movq 8(%r11), %rsi
    movq 16(%r11), %rdx
    movq 24(%r11), %r10
    movq 32(%r11), %r8
    movq 40(%r11), %r9
    syscall
    testq %rax, %rax
    jz 1f
    ret
1:  popq %rdi
    jmp blob_entry

/*
 * The guard: one system call for the tracer, which sees its end. If the tracer is gone by then, the thread goes on
 * here and goes home; the stack pointer leads to its struct blob_home. Copied as a whole to where it is needed
 * (guard.c), so nothing in it may depend on its place.
 */
blob_guard:
    syscall
    movq %rsp, %rdi
/*
 * void blob_go_home(const struct blob_home *home): everything as it was, from a home that may be read-only. Signals
 * may come as soon as the mask is back: from then on the stack is the program's, below its red zone. Unlike
 * rt_sigreturn this leaves extended state and the kernel's restart block alone (kernel/signal.c).
 */
blob_go_home:
    movq %rdi, %rbx
    movq 136(%rbx), %rsp
    movl $14, %eax              /* rt_sigprocmask(SIG_SETMASK, &home->sigmask, NULL, 8) */
    movl $2, %edi
    leaq 144(%rbx), %rsi
    xorl %edx, %edx
    movl $8, %r10d
    syscall
    leaq -128(%rsp), %rsp
    pushq 120(%rbx)             /* rip */
    pushq 128(%rbx)             /* rflags */
    movq 0(%rbx), %r15
    movq 8(%rbx), %r14
    movq 16(%rbx), %r13
    movq 24(%rbx), %r12
    movq 32(%rbx), %rbp
    movq 40(%rbx), %r11
    movq 48(%rbx), %r10
    movq 56(%rbx), %r9
    movq 64(%rbx), %r8
    movq 72(%rbx), %rax
    movq 80(%rbx), %rcx
    movq 88(%rbx), %rdx
    movq 96(%rbx), %rsi
    movq 104(%rbx), %rdi
    movq 112(%rbx), %rbx
    popfq
    ret $128
blob_guard_end:

    .section .note.GNU-stack, "", @progbits
