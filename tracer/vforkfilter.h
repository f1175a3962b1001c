/* Would a seccomp filter of who waits in vfork(2) let it wait in our way? */
#ifndef TRACER_VFORKFILTER_H
#define TRACER_VFORKFILTER_H

#include "tracer/ckpt.h"

/* Of n waiting threads, one of which is the parent of `child`, which is stopped. -EBUSY: one would not. */
int vfork_check_filters(struct thread *const *waiting, size_t n, pid_t child, struct err *err);

#endif
