/* Seizing the threads of a process, also while it executes a program. */
#ifndef TRACER_SEIZE_H
#define TRACER_SEIZE_H

#include <signal.h>
#include <stdbool.h>
#include <time.h>

#include "tracer/ckpt.h"

/* While a process with threads is seized: see seize.c. */
struct seizing {
    bool ready;
    struct sigaction action;
    sigset_t mask;
};

int seizing_begin(struct seizing *s, pid_t pid, struct err *err);
bool seizing_end(struct seizing *s); /* was any thread found dead, and waited for, meanwhile? */

/*
 * PTRACE_SEIZE. Sets t->seized, or t->gone when the thread has ended. Fails by name when it may not be traced or has a
 * debugger.
 */
int seize_thread(const struct seizing *s, const struct proc *p, struct thread *t, unsigned long options, struct err *err);

/* Wait for a thread that we trace and that has ended; false when it has not. */
bool bury_task(pid_t tid);

/* Is the thread being traced by this process? */
bool seized_by_us(pid_t pid, pid_t tid);

/* Is there a thread with this number that has not ended? */
bool task_exists(pid_t pid, pid_t tid);

#endif
