/* Mappings that the kernel lets nobody choose the address of. */
#ifndef RESTORER_MAPAT_H
#define RESTORER_MAPAT_H

#include "restorer/restore.h"

/*
 * Map [start, end) of the process's fd `number` there, though mmap(2) refuses an address (io_uring). The
 * range must be free. Everything that is free otherwise is taken for the moment.
 */
int map_at(struct rproc *p, uint64_t start, uint64_t end, uint32_t prot, int number, uint64_t offset,
           struct err *err);

#endif
