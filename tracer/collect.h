/*
 * What a checkpoint collects of each process itself; one file per subject. All run with every process frozen;
 * those that say "inside" need the parasite in it.
 */
#ifndef TRACER_COLLECT_H
#define TRACER_COLLECT_H

#include "tracer/ckpt.h"

int collect_process(struct ckpt *c, struct proc *p, struct err *err);  /* process.c: from /proc */
int refuse_namespaces(struct ckpt *c, struct err *err);                /* ownns.c: after collect_process of all */
int collect_sharing(struct ckpt *c, struct err *err);                  /* process.c: CLONE_VM, CLONE_FILES, … */
int prepare_threads(struct ckpt *c, struct proc *p, struct err *err);  /* thread.c: before anything is injected */
/* thread.c: signals queued for a thread, or with PTRACE_PEEKSIGINFO_SHARED for its process, in order. */
int peek_signals(struct ckpt *c, pid_t tid, uint32_t flags, SigInfo ***out, size_t *n, struct err *err);
int collect_threads(struct ckpt *c, struct proc *p, struct err *err);  /* thread.c: from outside */
int enter_process(struct ckpt *c, struct proc *p, struct err *err);    /* inside.c: puts the parasite in */
int collect_inside(struct ckpt *c, struct proc *p, struct err *err);   /* inside.c: what only the process can ask */
int collect_overruns(struct ckpt *c, struct proc *p, struct err *err); /* overrun.c: after collect_inside */
int leave_process(struct ckpt *c, struct proc *p, struct err *err);    /* inside.c: takes it out, sets registers back */
int collect_mm(struct ckpt *c, struct proc *p, struct err *err);       /* mm.c: the mappings */

/* memory.c: which pages are to be stored (after collect_mm); then the contents, by several threads at once. */
int collect_pages(struct ckpt *c, struct proc *p, struct err *err);
int collect_inherited(struct ckpt *c, struct proc *p, struct err *err); /* inherit.c: pages shared with the parent */
struct page_run { uint64_t addr, len; };
const struct page_run *page_runs(const struct proc *p, size_t *n, uint64_t *bytes);
void free_pages(struct proc *p);

#endif
