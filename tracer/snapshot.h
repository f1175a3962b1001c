/*
 * Copies of processes that hold their memory as it was, so that the processes go on while it is written.
 *
 * A snapshot is forked from the frozen process by its parasite and never runs a line of the program: it waits in the
 * parasite's loop until it is ended. It is a child without an exit signal, which wait(2) does not tell of
 * (but with __WALL or __WCLONE), holds none of the program's descriptors and shared memory, is in a session of its
 * own, and is the first that the kernel ends when memory is short. If the tracer dies so does it.
 */
#ifndef TRACER_SNAPSHOT_H
#define TRACER_SNAPSHOT_H

#include "tracer/ckpt.h"
#include "tracer/follow.h"

/*
 * Take snapshots of those processes that have much to write, while all are frozen with the parasite in: sets
 * proc.snapshot. Where it cannot be done, or is not worth it, there is none and nothing is said: the memory is then
 * to be written before the process goes on.
 */
void snapshots_take(struct ckpt *c, struct follow *f);

/* Must this address be read from the process itself, though it has a snapshot? *end: from where it may change. */
bool snapshot_lacks(const struct proc *p, uint64_t addr, uint64_t *end);

/*
 * End all snapshots and have their parents reap them, which stops one thread of each for a moment. Those that could
 * not be reaped stay hidden in f, and are tried again by the next call. After the thaw.
 */
void snapshots_end(struct ckpt *c, struct follow *f);

#endif
