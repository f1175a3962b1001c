/*
 * Starting our own programs in the background, so that nothing of the caller stays open in them and the
 * caller (which may be about to become somebody else's program by execve) does not get a child, a signal or a
 * zombie.
 */
#ifndef COORDINATOR_SPAWN_H
#define COORDINATOR_SPAWN_H

#include <sys/types.h>

#include "base/err.h"

#define SPAWN_FIRST_FD 3

/*
 * Run path with argv: a session leader, child of nobody here, / as directory, signals as a fresh program has
 * them, /dev/null as its standard streams, fds[i] as fd SPAWN_FIRST_FD + i, and no other. When it can't be
 * executed, a text about it is written to the last of the fds (so that is to be a pipe that the caller
 * reads).
 */
int spawn_detached(const char *path, char *const argv[], const int *fds, int n, struct err *err);

/* All that comes from fd until its end (or until the buffer is full), NUL-terminated; the length, or -errno.
 */
ssize_t spawn_read(int fd, char *text, size_t size);

#endif
