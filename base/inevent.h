/* What inqueue.c (the queue) and inevent.c (one event) share. */
#ifndef BASE_INEVENT_H
#define BASE_INEVENT_H

#include <stdbool.h>

#include "base/inqueue.h"

struct scratch {
    int fd;  /* the instance */
    int dir; /* the scratch directory, -1 */
    char path[64];
    int filler[2]; /* files whose mode is changed to fill the queue */
    int filler_wd[2];
    unsigned fills;
    int queued; /* fillers at the head of the queue */
};

#define SCRATCH(inotify)                                                                                     \
    {                                                                                                        \
        .fd = (inotify), .dir = -1, .filler = {-1, -1}, .filler_wd = { -1, -1 }                              \
    }
#define _cleanup_scratch_ __attribute__((cleanup(scratch_end)))

int scratch_make(struct scratch *s, struct err *err);
void scratch_end(struct scratch *s);

/* All that is wanted of the instance. */
struct wanted {
    const struct inqueue_watch *w;
    size_t nw;
    const struct inqueue_event *e;
    size_t ne;
};

/* Watch dir/name (dir itself with name NULL) under this number; one that is there (is_new false) gets a new
 * mask. */
int scratch_watch(int fd, int dir, const char *name, int wd, uint32_t mask, bool is_new, struct err *err);
int scratch_next_wd(int fd, int wd, struct err *err);

/* Generate events [from, to). */
int scratch_events(struct scratch *s, const struct wanted *q, size_t from, size_t to, struct err *err);

#endif
