/* Descriptions that can be made only after every process has its fds: put in the place of what stood in. */
#ifndef RESTORER_PLACE_H
#define RESTORER_PLACE_H

#include "restorer/restore.h"

/*
 * Every fd of every process that the image says is description `ofd`, and that `chosen` (NULL: all) says yes
 * to, becomes `fd`, which is the driver's and stays so.
 */
int place_everywhere(struct restore *r, uint64_t ofd, int fd, bool (*chosen)(const Fd *f, void *arg),
                     void *arg, struct err *err);

/* Make process p's fd number `number` refer to the driver's `fd`. */
int place_fd(struct rproc *p, int fd, uint32_t number, bool cloexec, struct err *err);

/* A process that has the description, and the number there; NULL when there is none. */
struct rproc *place_holder(const struct restore *r, uint64_t ofd, uint32_t *number);

#endif
