/* For the unit test of what only old kernels need. */
#ifndef TRACER_EVENTFD_H
#define TRACER_EVENTFD_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

/* Is the eventfd, whose count is below UINT64_MAX - 3, a semaphore? Its count is the same afterwards. */
int eventfd_is_semaphore(int fd, uint64_t count, bool *semaphore, struct err *err);

#endif
