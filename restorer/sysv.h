/* System V IPC in the order of a restart. */
#ifndef RESTORER_SYSV_H
#define RESTORER_SYSV_H

#include "restorer/restore.h"

/*
 * Make the shared memory, semaphores and message queues of all images, or find them again. Before the first
 * process is made, in the namespaces that it will be in: without root it enters an IPC namespace, since only
 * there ids can be chosen. Needs r->objects only.
 */
int sysv_make_all(struct restore *r, struct err *err);

/* Attach the segment that mapping v (VMA_SYSV) shows, or the part that it shows, at its address in p.
 * Protection is the caller's. */
int sysv_attach(struct restore *r, struct rproc *p, const Vma *v, struct err *err);

#endif
