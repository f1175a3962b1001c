/*
 * Stop every thread of the computation on this host, and let it go again. No signal is sent; a program cannot
 * tell. Nothing is written into a process here.
 */
#ifndef TRACER_FREEZE_H
#define TRACER_FREEZE_H

#include <sys/ptrace.h>

#include "base/err.h"
#include "tracer/ckpt.h"
#include "tracer/follow.h"

/* The ptrace options of every thread. */
#define FREEZE_OPTIONS \
    (PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC | PTRACE_O_TRACESYSGOOD)

/*
 * Freeze all members of f into c->procs (ascending by pid, zombies included). On failure everything runs
 * again. Fails by name when a process may not be traced or is being debugged.
 */
int freeze(struct ckpt *c, struct follow *f, struct err *err);

/* Freeze one process and what it forks meanwhile (for attaching to a running tree). */
int freeze_process(struct ckpt *c, struct follow *f, pid_t pid, struct err *err);

/*
 * Freeze one thread of a process, which goes on otherwise, into c->procs[0]: one that will stop at once, so
 * neither in vfork(2) nor in an uninterruptible wait.
 */
int freeze_thread(struct ckpt *c, struct follow *f, pid_t pid, struct err *err);

/* A wait(2) status of a seized thread: notes what it says and lets it go on if it is not the stop that was asked for. */
int freeze_on_stop(struct ckpt *c, struct follow *f, struct proc *p, struct thread *t, int status, struct err *err);

/* Let everyone go. Never fails: who is dead by now is dead. */
void thaw(struct ckpt *c);

/*
 * A thread that was asked to stop while it waited in vfork(2) stops when that is over, which may be after the
 * thaw: to be called on SIGCHLD whenever nothing is frozen.
 */
void thaw_late(void);

#endif
