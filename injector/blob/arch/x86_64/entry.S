/*
 * The parasite's entry and the three things that C can't say: a raw system call, a clone that
 * shares memory, and the return to a saved set of registers. See blob.h for the structures.
 */
    .text
    .globl blob_entry, blob_syscall, blob_clone_vm, blob_return

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
 * void blob_return(const struct blob_regs *regs): iretq works between equal privilege levels and,
 * unlike rt_sigreturn, leaves the kernel's restart block alone (kernel/signal.c).
 */
blob_return:
    movq %rdi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    popq %r11
    popq %r10
    popq %r9
    popq %r8
    popq %rax
    popq %rcx
    popq %rdx
    popq %rsi
    popq %rdi
    iretq

    .section .note.GNU-stack, "", @progbits
