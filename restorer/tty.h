/*
 * Terminals in the order of a restart: pseudo-terminals must exist before the sessions that they control,
 * because a controlling terminal is taken by a session's leader (TIOCSCTTY) and reaches the others of the
 * session only by fork(2); foreground groups can be set once all groups exist.
 */
#ifndef RESTORER_TTY_H
#define RESTORER_TTY_H

#include "restorer/restore.h"

/* Make the pseudo-terminals of all images. Before the first process is made. Needs r->objects only. */
int tty_make_all(struct restore *r, struct err *err);

/*
 * `leader` has just called setsid(2) and has no children in its session yet: give it the controlling terminal
 * it had, if that is a pseudo-terminal of the tree. Nothing is done when it had none or one outside.
 */
int tty_acquire(struct restore *r, struct rproc *leader, struct err *err);

/* All sessions and groups exist: foreground groups, of the terminals inside and of dmtcp_restart's own. */
int tty_foreground(struct restore *r, struct err *err);

#endif
