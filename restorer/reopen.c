/* Opening again what is open already, with the flags that an image asks for: wishes, like everything in it. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

#include "restorer/fd.h"

#define O_LARGEFILE_ 0100000u  /* glibc defines it as 0 here */
#define O_SYNC_BIT   04000000u /* __O_SYNC of asm-generic/fcntl.h */

uint32_t open_flags(const Ofd *m)
{
    if (m->flags & O_PATH)
        return m->flags & (uint32_t)(O_PATH | O_DIRECTORY | O_NOFOLLOW);
    return m->flags & ((uint32_t)(O_ACCMODE | O_APPEND | O_NONBLOCK | O_DSYNC | O_DIRECT | O_DIRECTORY |
                                  O_NOFOLLOW | O_NOATIME) |
                       O_SYNC_BIT | O_LARGEFILE_);
}

int reopen(int fd, uint32_t flags)
{
    char path[40];
    int copy;

    /* The link in /proc would be what O_NOFOLLOW stops at. */
    flags = (flags & ~(uint32_t)O_NOFOLLOW) | O_CLOEXEC | O_NOCTTY;
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    copy = open(path, (int)flags);
    if (copy < 0 && errno == EPERM && (flags & O_NOATIME))
        copy = open(path, (int)(flags & ~(uint32_t)O_NOATIME));
    return copy < 0 ? -errno : copy;
}
