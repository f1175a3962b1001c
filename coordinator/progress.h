/* The line that a waiting checkpoint shows on a terminal: processes, bytes, rate. */
#ifndef COORDINATOR_PROGRESS_H
#define COORDINATOR_PROGRESS_H

#include <stdint.h>

#include "coordinator/wire.pb-c.h"

struct progress {
    int active;         /* standard error is a terminal: set by the user */
    int shown;          /* there is a line to be cleared */
    int64_t started_ms; /* of the first byte */
    uint64_t start_bytes;
};

void progress_show(struct progress *p, const Wire__Progress *now);
void progress_end(struct progress *p); /* clears the line */

#endif
