/*
 * Reading the kernel's memory, for what no system call tells and what may not be taken to be looked at. It is read by a BPF
 * program, which can do nothing but that, and which cannot fail badly: an address that is none is an error. Takes CAP_BPF and
 * CAP_PERFMON.
 */
#ifndef TRACER_KERNELMEM_H
#define TRACER_KERNELMEM_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct kernelmem {
    int map, prog;
    uint8_t *window; /* what the program has read */
};

int kernelmem_open(struct kernelmem *k, struct err *err); /* -EPERM, … */
void kernelmem_close(struct kernelmem *k);                /* also of one that is all zero */

/* n bytes at an address of the kernel's. */
int kernelmem_read(struct kernelmem *k, uint64_t addr, void *to, size_t n, struct err *err);

/* The task_struct of the caller. */
int kernelmem_current(struct kernelmem *k, uint64_t *addr, struct err *err);

#endif
