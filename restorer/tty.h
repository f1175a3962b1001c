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

/*
 * In dmtcp_restart itself, before anything is made: what becomes of a session of the tree whose controlling
 * terminal was outside. If dmtcp_restart leads the session of its own terminal it gives that up, for
 * tty_acquire() to take. If a shell does, the terminal can't be had: then the processes of that session join
 * the shell's, where they have the terminal and job control, but are not led by their own leader. Changes the
 * sessions in r->procs for that.
 */
void terminal_plan(struct restore *r);

#endif
