/*
 * A process that waits in vfork(2) can neither be stopped nor looked at: the kernel lets it out only when the child
 * executes a program or ends (kernel/fork.c, wait_for_vfork_done). When that takes long the wait is replaced by one
 * that is as good and can be stopped: the child gets a second thread, which goes on in its place; the first one ends, for which
 * the kernel lets the parent out; and the parent waits for a word in the memory which they share, which
 * the kernel clears when the second thread executes a program or ends (CLONE_CHILD_CLEARTID).
 *
 * What shows of it: two pages stay mapped in the parent, and until the child executes a program its thread id is not
 * its process id. If the tracer is killed between the end of the first thread and the stop of the parent, the parent
 * goes on before its child is done.
 */
#ifndef TRACER_VFORK_H
#define TRACER_VFORK_H

#include "tracer/ckpt.h"

/*
 * waiting: the n threads of the parent that wait in vfork(2), seized and asked to stop. child: the first thread of a
 * process for which one of them waits, stopped like all threads of all such processes. It is gone afterwards; *heir is
 * the thread that replaces it, stopped, and so is the one of `waiting` that it has let out. -EBUSY when that can't be
 * done. heir->tid is 0 when nothing has been changed.
 */
int vfork_release(struct thread *const *waiting, size_t n, struct thread *child, struct thread *heir, struct err *err);

#endif
