/*
 * File locks, as fdinfo shows them: POSIX locks belong to a descriptor table, flock(2) and OFD locks and leases to
 * an open file description.
 */
#ifndef TRACER_LOCK_H
#define TRACER_LOCK_H

#include "tracer/ckpt.h"

/*
 * Add the locks that fi->fdinfo lists to `table` (POSIX) and to d->msg->locks (the others). To be called for
 * every fd of every descriptor table; a lock that is seen again through another fd of the same description
 * is added once.
 */
int collect_locks(struct ckpt *c, const struct fd_info *fi, struct ofd *d, FdTable *table, struct err *err);

#endif
