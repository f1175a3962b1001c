/*
 * The user's secret: 32 random bytes that the coordinator and all its clients share, made on first use.
 * Whoever can read the file can command the user's coordinators, so it is refused when others could have read
 * or written it. To work on several hosts without a shared home directory, copy it there.
 */
#ifndef COORDINATOR_KEY_H
#define COORDINATOR_KEY_H

#include "base/err.h"
#include "coordinator/wire.h"

/*
 * Which file: `given` if not NULL; $HOME/.dmtcp/key if HOME is ours and can be written; else
 * tmpdir/dmtcp-UID/key. The directory is made. In fresh memory; NULL: err says why.
 */
char *key_path(const char *given, const char *tmpdir, struct err *err);

/*
 * Read the key, or make it: then of several who start at once all get the same.
 * -EPERM: the file or its directory is not safely ours; -EBADMSG: not a key.
 */
int key_load(const char *path, unsigned char key[WIRE_KEY_SIZE], struct err *err);

/*
 * Wait for the user's lock on starting a coordinator (so that two launchers start one). Returns an fd:
 * closing it lets go. Where files can't be locked, an fd without a lock.
 */
int key_lock(const char *path, struct err *err);

#endif
