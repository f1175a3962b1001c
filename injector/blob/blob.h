/*
 * What the injector and the parasite (blob.c) agree on. The parasite is freestanding, so this
 * header uses fixed-width types only.
 *
 * The area is one anonymous mapping in the target:
 *
 *   0            text, read and execute
 *   BLOB_SLOTS   struct blob_slot, one for each thread that enters; slot 0 is the host
 *   ...          stacks, calls, data: placed by the injector (see inject.c)
 */
#ifndef INJECTOR_BLOB_H
#define INJECTOR_BLOB_H

#include <stdint.h>

#define BLOB_TEXT_SIZE 8192 /* the linker script checks that the code fits */

/* A system call to run. */
struct blob_call {
    int64_t nr;
    uint64_t arg[6];
    int64_t ret;    /* as the kernel returns it: a value or -errno */
    uint32_t flags; /* BLOB_* below */
    uint32_t pad;
};

#define BLOB_ARG_RET(k) (1u << (k)) /* arg[k] is the number of an earlier call: use its result */
#define BLOB_MUST       (1u << 8)   /* when it fails, do not run the rest of the batch */
#define BLOB_FORK       (1u << 9)   /* a fork: the child goes on in the loop, with ctl = (int)pad */
#define BLOB_FORK_REST  (1u << 11)  /* a fork: the child alone runs the rest of the batch, the parent is through */
#define BLOB_CLONE_VM   (1u << 10)  /* shares memory: the child pops its slot's address from its stack */
#define BLOB_NOT_RUN    (1u << 31)  /* set by the parasite when a BLOB_MUST call before it failed */

/* With what a thread returns by itself when the tracer is gone. entry.S knows the order. */
struct blob_home {
    uint64_t r15, r14, r13, r12, rbp, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi, rbx;
    uint64_t rip, rflags, rsp;
    uint64_t sigmask;
};

struct blob_slot {
    uint64_t calls;    /* address of the first batch, 0: none */
    uint32_t ncalls;
    uint32_t flags;    /* BLOB_SLOT_* */
    int32_t ctl;       /* control socket */
    uint32_t index;
    uint32_t park;     /* futex: non-zero tells a parked thread to return by itself */
    uint32_t nslots;   /* slot 0: how many there are with it */
    struct blob_home home;
};

#define BLOB_SLOT_HOST  1u /* takes further batches from its control socket */
#define BLOB_SLOT_HEALS 2u /* home is valid: when the tracer is gone return, do not exit */

/* Messages on the control socket (SOCK_SEQPACKET). */
struct blob_msg {
    uint32_t op;
    uint32_t n;     /* RUN: number of calls; DONE: slot */
    uint64_t calls; /* RUN: address */
};

#define BLOB_RUN   1u
#define BLOB_DONE  2u
#define BLOB_HELLO 3u /* a forked child is in its loop, or where a batch has it say so */

#endif
