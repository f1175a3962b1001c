/* Page contents into images: used by write.c, and by kinds whose objects have pages (shm.c, file.c). */
#ifndef TRACER_MEMORY_H
#define TRACER_MEMORY_H

#include "tracer/ckpt.h"

/* Store the private pages of all processes (their writers are open); progress may be called by several threads. */
int store_pages(struct ckpt *c, void (*progress)(void *arg, uint64_t bytes), void *arg, struct err *err);

/* Put len bytes (whole pages) at addr of space, leaving out pages that are zero. Thread-safe. */
int put_pages(struct image_writer *w, uint64_t space, uint64_t addr, const void *data, uint32_t len, struct err *err);

/* Read a process's memory whatever its protection says. */
int read_memory(pid_t pid, uint64_t addr, void *buf, uint32_t len, struct err *err);

#endif
