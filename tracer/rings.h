/*
 * What perf events tell of forks and exits, added up by process. A thread of its own empties the rings that the kernel
 * writes, since whoever asks may be busy for seconds (writing, waiting for the disk) while the program forks on, and a
 * ring that is full loses records.
 */
#ifndef TRACER_RINGS_H
#define TRACER_RINGS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/err.h"

struct rings;

/* By how much the threads of a process have become more. */
struct change {
    pid_t pid;
    int delta;
};

int rings_new(struct rings **r, struct err *err);
void rings_free(struct rings *r);

/*
 * Tell from now on of a process that has these threads, which neither fork nor end meanwhile, and of all that descends
 * from it. 0 or -errno.
 */
int rings_watch(struct rings *r, pid_t pid, const pid_t *tids, size_t n);

/*
 * All changes since the last time, malloc'ed, one for each process at most; none for those that have come and gone. Adds
 * true to *lost when records may be missing.
 */
struct change *rings_take(struct rings *r, size_t *n, bool *lost);

/* Is there such a process, be it dead? */
bool in_proc(pid_t pid);

#endif
