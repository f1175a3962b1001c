/*
 * A process that has nothing open but what was moved to its place already gets its further descriptors in
 * ascending order. The kernel gives each the lowest free number. Let w[0] < w[1] < … be where they belong,
 * all above those that are in place: below w[i] there are at least i free numbers besides the ones in place,
 * so number i arrives at or below w[i]. If the last is moved first, everything at or above its target has
 * left already, and w[i] itself can only be in use by itself.
 */
#include "restorer/fdmove.h"

#include <errno.h>

int fd_moves(const int *received, const int *wanted, const bool *cloexec, uint32_t n, struct fd_move *moves,
             struct err *err)
{
    for (uint32_t i = 0; i < n; i++) {
        if (received[i] > wanted[i] || (i && (received[i] <= received[i - 1] || wanted[i] <= wanted[i - 1])))
            return err_set(err, EPROTO, "fd %d arrived as %d: something else is open there", wanted[i],
                           received[i]);
        moves[n - 1 - i] = (struct fd_move){received[i], wanted[i], cloexec[i]};
    }
    return 0;
}
