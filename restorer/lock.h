/* File locks: taken again by the processes that held them. */
#ifndef RESTORER_LOCK_H
#define RESTORER_LOCK_H

#include "restorer/restore.h"

/*
 * Take all locks of all FdTable and Ofd records. To be called once every process has its fds at their numbers and
 * closes none any more (a close would drop its POSIX locks), with the owners of F_SETOWN not yet needed:
 * breaking a lease anew must not signal them. A lock that somebody else holds is an error that names the file.
 */
int restore_locks(struct restore *r, struct err *err);

#endif
