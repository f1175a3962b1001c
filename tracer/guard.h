/*
 * Work that takes something from a program and puts it back in more than one step (queued inotify events,
 * POSIX messages, a jammed terminal). It is done by a child of the tracer, which ends it even if the tracer
 * is killed meanwhile; and since the child inherits the control sockets of the parasites, the processes they
 * are in stay where they are until then. Their other threads do not: that is the window, as long as the work,
 * and only for a tracer that is killed in it.
 */
#ifndef TRACER_GUARD_H
#define TRACER_GUARD_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

/*
 * Call f(arg) in a child and wait for it. What f changes in memory is lost, except in memory from
 * guard_alloc(). Returns what f returned, with its err.
 */
int guarded(int (*f)(void *arg, struct err *err), void *arg, struct err *err);

/* Zeroed memory that parent and child share; NULL when there is none. Its pages cost nothing until touched.
 */
void *guard_alloc(size_t n);
void guard_free(void *p, size_t n);

#endif
