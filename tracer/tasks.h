/* The processes and threads of a checkpoint while they are frozen, one after the other. */
#ifndef TRACER_TASKS_H
#define TRACER_TASKS_H

#include "tracer/ckpt.h"
#include "tracer/follow.h"

/* By number; NULL: not known. Unlike ckpt_find_proc() these do not need c->procs to be sorted. */
struct proc *tasks_find_proc(const struct ckpt *c, pid_t pid);
struct thread *tasks_find_thread(struct proc *p, pid_t tid);

/* A new one, or for a process the one that is known. NULL: no memory. Threads move in memory when one is added. */
struct proc *tasks_add_proc(struct ckpt *c, pid_t pid);
struct thread *tasks_add_thread(struct proc *p, pid_t tid);

/* Forget the threads that have ended, and the processes that have none left. */
void tasks_drop_gone(struct ckpt *c);

/* Dead members that their parent has not waited for yet. */
int tasks_add_zombies(struct ckpt *c, struct follow *f, struct err *err);

/* Registers and masks of all, which are stopped. Each leader is the first of its threads afterwards. */
int tasks_read_registers(struct ckpt *c, struct err *err);

/* By pid. */
void tasks_sort(struct ckpt *c);

#endif
