/* Contexts of io_setup(2), which show as mappings. */
#ifndef TRACER_AIO_H
#define TRACER_AIO_H

#include "tracer/ckpt.h"
#include "tracer/procfs.h"

/* The context whose ring mapping m of p is; NULL with err. */
struct object *aio_mapping_object(struct ckpt *c, struct proc *p, const struct map *m, struct err *err);

#endif
