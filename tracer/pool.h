/* A few worker threads over a list of jobs, for reading and compressing memory. */
#ifndef TRACER_POOL_H
#define TRACER_POOL_H

#include <stddef.h>

#include "base/err.h"

/*
 * Run job(arg, worker, i) for i in 0..n-1 on as many threads as there are CPUs (at most 16). The first error ends
 * the work and is returned. `worker` numbers the thread, from 0; pool_workers() is how many there may be.
 */
typedef int (*pool_job)(void *arg, unsigned worker, size_t i, struct err *err);
unsigned pool_workers(void);
int pool_run(pool_job job, void *arg, size_t n, struct err *err);

#endif
