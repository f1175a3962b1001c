/*
 * Objects that are mapped: files, and memory that is shared between mappings (anonymous, memfd, deleted
 * files), whose content is saved once for all processes that have it.
 */
#ifndef TRACER_SHM_H
#define TRACER_SHM_H

#include "tracer/ckpt.h"
#include "tracer/procfs.h"

/*
 * The object that mapping m of p shows: a File or a Shm. `via` is /proc/PID/map_files/START-END, which need
 * not be permitted. It must be called for every such mapping, since the content of what has no name may be
 * readable only there. NULL and err on failure; it lives as long as the checkpoint.
 */
struct object *ckpt_mapping_object(struct ckpt *c, struct proc *p, const char *via, const struct map *m,
                                   struct err *err);

#endif
