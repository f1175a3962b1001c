/*
 * Which processes belong to the computation on this host, without touching them.
 *
 * A software "dummy" perf event has the kernel write a record of each fork and exit into a ring that the tracer maps
 * (kernel/events/core.c: perf_event_fork runs in copy_process before the child does). With CAP_PERFMON the events
 * are those of the CPUs and tell of everybody; else they are put on every thread of a tree, and all that is
 * ever forked from it inherits them (rings.c). So a daemon that forks twice and starts a session is known,
 * nothing shows in the program, a debugger can be used, signals cost nothing. Where perf events are not allowed
 * (kernel.perf_event_paranoid above 2) descendants are found by walking /proc, which misses a process whose
 * parent ended between two looks.
 */
#ifndef TRACER_FOLLOW_H
#define TRACER_FOLLOW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"

struct follow;

struct member {
    pid_t pid;
    int threads;  /* alive, by the records; a process with none is dead or a zombie */
    bool is_root; /* was named to follow_add */
    uint64_t start; /* when it began (/proc/PID/stat), 0: it was gone when it was first heard of */
};

int follow_new(struct follow **f, struct err *err);
void follow_free(struct follow *f);
bool follow_exact(const struct follow *f); /* perf works: nothing is missed */

/*
 * Take in a process. Its threads must not create others meanwhile: it is stopped, or single-threaded and
 * waiting for us. is_root: it was launched or attached by name.
 */
int follow_add(struct follow *f, pid_t pid, bool is_root, struct err *err);
void follow_remove(struct follow *f, pid_t pid);

/* Take in the records (and /proc, when perf does not work or records were lost). */
int follow_update(struct follow *f, struct err *err);

/* A process that is frozen has `threads` threads: what is known for certain replaces the count. */
void follow_correct(struct follow *f, pid_t pid, int threads);
void follow_found(struct follow *f, pid_t pid, int threads); /* a child seen by ptrace */

/*
 * A process that is forked from a member for our own purposes is none. It stays hidden until it is shown again,
 * which is when it has been reaped and follow_update() was called after that: then no record of it is unread.
 */
int follow_hide(struct follow *f, pid_t pid, struct err *err);
void follow_show(struct follow *f, pid_t pid);
const pid_t *follow_hidden(const struct follow *f, size_t *n);

/* The members, dead ones included until they are gone from /proc. Valid until the next call. */
const struct member *follow_members(const struct follow *f, size_t *n);
/* Ask /proc about each, when the count of somebody cannot be right. */
void follow_recount(struct follow *f);
bool follow_alive(struct follow *f); /* does any member still live? */

#endif
