/* Where descriptors that arrive in a process go (fdmove.c), apart from how they get there. */
#ifndef RESTORER_FDMOVE_H
#define RESTORER_FDMOVE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

struct fd_move {
    int from; /* the number under which it arrived, close-on-exec */
    int to;   /* where it belongs */
    bool cloexec;
};

/*
 * n descriptors were received, ascending (`received`), that belong at `wanted` (ascending, different): the
 * moves in an order in which no one lands on a number that is still in use. A move with from == to needs no
 * dup3(2). -EPROTO when the numbers are not what a table without anything else in it gives.
 */
int fd_moves(const int *received, const int *wanted, const bool *cloexec, uint32_t n, struct fd_move *moves,
             struct err *err);

#endif
