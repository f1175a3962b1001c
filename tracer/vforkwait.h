/* Parents that wait in vfork(2) while everybody is frozen: they cannot stop before their child is done. */
#ifndef TRACER_VFORKWAIT_H
#define TRACER_VFORKWAIT_H

#include "tracer/ckpt.h"
#include "tracer/follow.h"

/* Is this thread the parent of a vfork(2) in progress? */
bool is_in_vfork(pid_t pid, pid_t tid);

/*
 * Let the children run for whom somebody waits. Returns one process of which threads wait, 0: nobody does. If its
 * children wait for children of their own these are who must be helped first, so it is the innermost of a chain.
 */
pid_t vfork_help(struct ckpt *c);

/* Make all its waiting threads wait in another way (vfork.h). 0 also when it has resolved itself meanwhile; -EBUSY. */
int vfork_end(struct ckpt *c, struct follow *f, pid_t waiting, struct err *err);

#endif
