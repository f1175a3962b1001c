/*
 * The course of a checkpoint, in the order of its steps. What it is made of is struct checkpoint in server.h;
 * none of these waits.
 */
#ifndef COORDINATOR_CHECKPOINT_H
#define COORDINATOR_CHECKPOINT_H

#include "coordinator/server.h"

/* checkpoint.c: forget what belongs to this one; the requests for the next one stay. */
void checkpoint_reset(struct server *s);

/* phases.c: begin a phase. The last one leads to checkpoint_commit(), a failure to checkpoint_abort(). */
void phase_send(struct server *s, Wire__Phase__Id id);

/* outcome.c: note the reason (of several the first); from NULL: our own. Then either of the next two. */
void checkpoint_fail(struct server *s, const struct peer *from, int code, const char *text);
void checkpoint_abort(struct server *s);  /* everybody runs again, then it has failed */
void checkpoint_failed(struct server *s); /* at once: nobody was asked for anything yet */
void checkpoint_commit(struct server *s); /* goes on with checkpoint_committed(), see server.h */

#endif
