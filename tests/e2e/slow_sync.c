/*
 * A disk that takes its time, for LD_PRELOAD: fsync(2) does not return while the file SLOW_SYNC exists. SLOW_SYNC.waits
 * is made when one waits.
 */
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int fsync(int fd)
{
    const char *slow = getenv("SLOW_SYNC");
    const struct timespec moment = {0, 2000000};
    char waits[PATH_MAX];
    int made;

    if (slow && access(slow, F_OK) == 0) {
        snprintf(waits, sizeof(waits), "%s.waits", slow);
        made = open(waits, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        if (made >= 0)
            close(made);
        while (access(slow, F_OK) == 0)
            nanosleep(&moment, NULL);
    }
    return (int)syscall(SYS_fsync, fd);
}
