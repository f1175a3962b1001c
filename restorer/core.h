/*
 * What the files of the restorer's core offer each other; the kinds only need restore.h.
 *
 * Two processes: dmtcp_restart itself opens and checks the images, makes the plan, and becomes the stand-in
 * (standin.h); the driver, its child, rebuilds everything and in the end becomes the tracer.
 */
#ifndef RESTORER_CORE_H
#define RESTORER_CORE_H

#include <signal.h>
#include <stddef.h>

#include "restorer/restore.h"

#define PAGE 4096ull
#define USER_TOP 0x7ffffffff000ull /* end of user addresses with four levels of page tables */

/* kept.c: all that restore_alloc() gave */
void restore_free_kept(struct restore *r);

/* --- images.c --- */

/* Open all that the arguments name (images, directories, manifests) into r->procs; checks each one whole. */
int images_open(struct restore *r, char *const *names, size_t n, struct err *err);
void images_close(struct restore *r);
/* Check the contents of every chunk too (--verify). */
int images_verify(struct restore *r, struct err *err);

/* --- check.c: do the images fit together, and this machine? Nothing is touched. --- */
int check_images(struct restore *r, struct err *err);
int check_process(const struct restore *r, const struct rproc *p, struct err *err);
int check_machine(const struct restore *r, struct err *err);
int check_rights(const struct restore *r, struct err *err);

/* --- plan.c --- */

/* A temporary address in no image and not in this process; 0: none. */
uint64_t plan_free_range(const struct restore *r, uint64_t size);
int plan_area(struct restore *r, struct err *err);
int plan_fds(struct restore *r, struct err *err);
/* The highest pid below limit that no image has; 0 if one has a higher. For the driver in a new pid namespace. */
pid_t plan_spare_pid(const struct restore *r, pid_t limit);
/* Same pids here, or a pid namespace of its own; same clocks, or a time namespace. */
int plan_namespaces(struct restore *r, struct err *err);
/* In the driver: a coordinator that was started for this, and the driver, have got pids since. */
int plan_pids_again(struct restore *r, struct err *err);

/* --- session.c: in which order processes are made (see there) --- */

enum step_kind {
    STEP_SPAWN,  /* proc (or a helper with pid) as child of the stand-in */
    STEP_FORK,   /* proc (or a helper with pid) as child of from */
    STEP_SETSID, /* proc */
    STEP_BUILD,  /* memory of proc */
    STEP_EXIT,   /* a helper ends; its children go to whoever adopts orphans */
    STEP_ADOPTS, /* proc becomes a subreaper */
};

struct step {
    enum step_kind kind;
    size_t proc; /* index into the actors */
    size_t from; /* STEP_FORK; for STEP_EXIT the helper's parent, SIZE_MAX: the driver */
};

/* Who is made: first the processes in the order of restore.procs, then helpers. */
struct actor {
    pid_t pid;  /* helper: of the dead leader it stands in for, 0: any */
    bool helper;
};

struct steps {
    struct step *step;
    size_t n, cap;
    struct actor *actor;
    size_t n_actors, cap_actors;
};

int plan_steps(const struct restore *r, struct steps *s, struct err *err);
void steps_free(struct steps *s);
/* The session of the roots' terminal, which the stand-in's own replaces; 0: none. */
pid_t outside_session(const struct restore *r);
pid_t outside_group(const struct restore *r);

/* --- namespace.c --- */

/* Enter the namespaces of the plan; returns in the process that is to be the driver (others do not return). */
int namespaces_enter(struct restore *r, struct err *err);

/* pidwait.c: a number was free when the plan was made and is not now. Wait for a moment; true: try again. */
bool pid_wait_free(pid_t pid, int *tries);

/* --- tree.c --- */
int tree_create(struct restore *r, struct err *err);
int tree_groups(struct restore *r, struct err *err);
int tree_zombies(struct restore *r, struct err *err);
int cgroups_restore(struct restore *r, struct err *err); /* cgroup.c */

/* --- mm.c, mmfinal.c, fill.c, vdso.c: memory --- */
int mm_clear(struct restore *r, struct rproc *p, struct err *err);   /* a new skeleton: nothing but area and vDSO */
int mm_build(struct restore *r, struct rproc *p, struct err *err);   /* mappings and contents, still writable */
int mm_finish(struct restore *r, struct rproc *p, struct err *err);  /* protections, advice, brk, argv, vDSO */
int mm_copy_inherited(struct restore *r, struct rproc *p, struct err *err);
int fill_private(struct restore *r, struct rproc *p, struct err *err);

/* This kernel's vDSO, as it is in this process: before plan_area(). */
int vdso_locate(struct restore *r, struct err *err);
uint64_t vdso_size(const struct restore *r);                                     /* with its data pages */
void vdso_park(const struct restore *r, struct rproc *p, struct inj_batch *b);   /* a new root: to r->vdso_home */
/* To its address in the image; adds to the batch. */
int vdso_place(struct restore *r, struct rproc *p, struct inj_batch *b, struct err *err);
/* Where in process p a syscall instruction is. */
int vdso_syscall(const struct restore *r, const struct rproc *p, uint64_t *ip, struct err *err);

/* Run what is in the batch, check it, begin anew. */
int run_batch(struct inj_batch *b, const char *what, struct err *err);
/* The same when it is nearly full. */
int run_full_batch(struct inj_batch *b, const char *what, struct err *err);

struct rproc *mm_source(const struct restore *r, const struct rproc *p); /* whose pages it shares by fork; NULL */

/* --- process state --- */
int creds_init(struct restore *r, struct err *err);
void creds_add(const struct restore *r, const struct rproc *p, struct inj_batch *b); /* one thread's own */
int process_setup(struct restore *r, struct rproc *p, struct err *err);  /* root, cwd, umask, personality and the like */
void process_add_limits(const struct rproc *p, struct inj_batch *b);
/* SIGCHLD of children that became zombies or stopped while they were made: the program has had those. */
void signals_add_drain(struct inj_batch *b);
/* Limits, handlers, pending signals: nothing else is made after that. */
int signals_restore(struct restore *r, struct rproc *p, struct err *err);
int timers_restore(struct restore *r, struct rproc *p, struct err *err);
/* Is it the signal of a timer of p, which the timer itself will send again? */
bool timer_sends(const struct rproc *p, const siginfo_t *si);
int timers_create(struct restore *r, struct rproc *p, struct err *err);

/* --- thread.c, regs.c --- */
int threads_create(struct restore *r, struct rproc *p, struct err *err); /* all but the first */
int thread_host(struct restore *r, struct rproc *p, struct err *err);    /* the first's own attributes, credentials last */
int threads_seize(struct restore *r, struct rproc *p, struct err *err);
int threads_finish(struct restore *r, struct rproc *p, struct err *err);

/* stopped.c: stop again who was stopped, and seize its threads; the others' parasites are still there. */
int stop_processes(struct restore *r, struct err *err);
/* Those whose parents have still to be told that they went on: before anything waits for SIGCHLD. */
int continue_processes(struct restore *r, struct err *err);
/* The SIGSTOPs that were on their way, when all is done. */
void send_stops(const struct restore *r);

/* --- driver.c --- */

/* Everything, in order. On success all threads are in ptrace-stops of this process. */
int restore_all(struct restore *r, struct err *err);
void restore_abort(struct restore *r);

#endif
