/*
 * System calls that the freeze interrupts. Most are restarted by the kernel itself when the thread goes on
 * (-ERESTARTSYS and its kin in rax). Some answer EINTR although no signal came (epoll_wait(2), sigtimedwait(2),
 * semtimedop(2): signal(7)); those are set back so that the program does not see it. For calls with a relative
 * timeout the time that is left is found, for the image and for going on.
 */
#ifndef TRACER_CALLS_H
#define TRACER_CALLS_H

#include "tracer/ckpt.h"
#include "tracer/deadline.h"

/* Before a thread is interrupted: what it is blocked in, and since when if that matters. */
void note_blocked_call(struct cpu_clocks *k, pid_t pid, struct thread *t);

/*
 * After it has stopped and t->regs were read: make t->regs such that going on with them continues the
 * call, and fill call_state and call_remaining_ns of t->msg. d may be NULL.
 */
void settle_call(struct deadlines *d, pid_t pid, struct thread *t);

/* For a thread that was stopped and is let go without more: so that it does not see that either. */
void go_on_with_call(struct ckpt *c, struct thread *t);

#endif
