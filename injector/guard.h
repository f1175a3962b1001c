/*
 * While the tracer runs a system call in a thread of the program, that thread has registers and a mask that are not
 * its own. If the tracer is killed just then, the thread must find its way by itself: the call is the first
 * instruction of the guard (blob/arch/x86_64/entry.S), and what follows puts everything back.
 *
 * The guard needs memory that is executable and nobody's: the zeros behind the end of the vDSO's last page. The page
 * becomes the process's own by that, and is zero again when nothing runs there.
 */
#ifndef INJECTOR_GUARD_H
#define INJECTOR_GUARD_H

#include "injector/inject.h"

#define GUARD_SPACE 320u /* at the end of the vDSO; what is before it is left alone */

/*
 * Find where calls can be made: inj->call gets the registers for it, in which only number and arguments are missing.
 * A process without a vDSO, or without room there, has its calls made at any syscall instruction and is not guarded.
 */
int guard_find(struct inj *inj, struct err *err);

/* Put the guard there, with the way home to inj->regs and inj->sigmask; and take it away. */
int guard_set(struct inj *inj, struct err *err);
void guard_clear(struct inj *inj);

/* What the registers must be for a thread that returns without the kernel's restart logic. */
void guard_home(struct blob_home *home, const struct user_regs_struct *regs, uint64_t sigmask);

#endif
