/*
 * A blocking write(2) to a pipe, say, that has transferred a part is ended by the freeze, with the number of bytes so far.
 * Without a signal the program would never see such a count. So the call goes on with what is left, and when
 * it ends the parts are added up: by a few instructions of ours in the zeros behind the end of the vDSO, where the
 * injector's guard has its place too (injector/guard.h). They need no tracer, and are part of an image like
 * the rest of the vDSO.
 */
#ifndef TRACER_SHORTCALL_H
#define TRACER_SHORTCALL_H

#include "tracer/ckpt.h"

/*
 * all: the n stopped threads of the process, t among them, with their registers; t->regs are changed if its call is to
 * go on. A call of which nothing can be told, or for which there is no room, keeps its short count.
 */
void finish_short_call(const struct thread *all, size_t n, struct thread *t);

#endif
