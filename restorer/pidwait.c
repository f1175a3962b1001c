/*
 * Between the look whether all numbers are free (plan.c) and their use somebody else can be given one of them. Most
 * processes are short: it is waited for.
 */
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/syscall.h>

#include "base/util.h"
#include "restorer/core.h"

#define TRIES   100
#define WAIT_MS 20 /* for its end, or for its parent to take note of that */

bool pid_wait_free(pid_t pid, int *tries)
{
    _cleanup_close_ int fd = (int)syscall(SYS_pidfd_open, pid, O_EXCL); /* PIDFD_THREAD; before Linux 6.9 only time helps */
    struct pollfd p = {.fd = fd, .events = POLLIN};
    char path[32];

    if ((*tries)++ >= TRIES)
        return false;
    if (poll(&p, 1, WAIT_MS) <= 0)
        return true;
    snprintf(path, sizeof(path), "/proc/%d", pid);
    if (access(path, F_OK) == 0)
        poll(NULL, 0, WAIT_MS);
    return true;
}
