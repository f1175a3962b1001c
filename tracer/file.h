/* What file.c and shm.c share about files. */
#ifndef TRACER_FILE_H
#define TRACER_FILE_H

#include "tracer/ckpt.h"
#include "tracer/content.h"

extern const struct kind_ops file_ops, shm_ops;

/* What /proc appends to the name of a file that has lost it. Returns the length without it, 0 when it is not
 * there. */
size_t deleted_suffix(const char *link);

/* A name in the same directory that the file of `link` still has (the stat's device and inode count), or NULL. */
const char *file_other_name(struct ckpt *c, const struct stat *st, const char *link);

/*
 * The object of the file with this stat, made if it is new. `via`: a path through which it can be opened,
 * NULL when that is not permitted: then the stat's size is not believed.
 */
struct object *file_object(struct ckpt *c, struct proc *p, const char *via, const struct stat *st,
                           const char *link, struct err *err);

/* The same of shared memory, which shm_ops.probe() tells by its name; huge: its page size if known to be huge. */
struct object *shm_object(struct ckpt *c, struct proc *p, const char *via, const struct stat *st,
                          const char *link, uint64_t huge, struct err *err);

/* A mapping of the file: shared and writable or not. */
int file_mapped(struct ckpt *c, struct object *o, struct proc *p, const char *via, const struct extent *e,
                bool write, struct err *err);

#endif
