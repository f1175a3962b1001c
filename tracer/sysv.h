/*
 * System V IPC. No descriptor leads to these objects, so the tree's are found by their mappings, and by who
 * made and used them.
 */
#ifndef TRACER_SYSV_H
#define TRACER_SYSV_H

#include "image/sysv.pb-c.h"
#include "tracer/ckpt.h"
#include "tracer/procfs.h"

/* The object behind a mapping "/SYSV… (deleted)"; NULL with err. To be called for every such mapping. */
struct object *sysv_mapping_object(struct ckpt *c, struct proc *p, const struct map *m, struct err *err);

/*
 * After the mappings: find all others, and save values and messages. An object belongs to the tree if one of
 * its processes made or last used it; or if it is younger than the tree, its owner is the tree's, and nobody
 * else alive has used it (a process of the tree that is gone).
 */
int collect_sysv(struct ckpt *c, struct err *err);

/* sysvsem.c: SEM_UNDO adjustments of all processes, added to the sets in c that they are for. */
int collect_sem_undo(struct ckpt *c, struct err *err);
struct object *sysv_add(struct ckpt *c, uint32_t type, int ipc_id, struct err *err);

#endif
