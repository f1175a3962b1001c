/* See sockbuf.h. */
#include "base/sockbuf.h"

#include <limits.h>
#include <stdlib.h>

#include "base/util.h"

static int get(int fd, int option)
{
    int v = 0;
    socklen_t n = sizeof(v);

    return getsockopt(fd, SOL_SOCKET, option, &v, &n) < 0 ? 0 : v;
}

int sockbuf_set(int fd, int option, uint32_t size)
{
    int half = (int)(size / 2); /* the kernel doubles what it is asked for */
    int force = option == SO_SNDBUF ? SO_SNDBUFFORCE : SO_RCVBUFFORCE;

    if (setsockopt(fd, SOL_SOCKET, force, &half, sizeof(half)) == 0)
        return 0;
    return setsockopt(fd, SOL_SOCKET, option, &half, sizeof(half));
}

static int rmem_max(void)
{
    _cleanup_free_ char *text = NULL;
    size_t n;

    return read_file(-1, "/proc/sys/net/core/rmem_max", &text, &n) < 0 ? 0 : atoi(text);
}

/*
 * A reader that waits for so much at a time needs a buffer for it: the kernel makes one, up to its own limit, if the
 * size was not chosen by the program (tcp_set_rcvlowat() in net/ipv4/tcp.c).
 */
static void by_low_water(int fd)
{
    int before = get(fd, SO_RCVLOWAT), most = INT_MAX, unlocked = 0;

    setsockopt(fd, SOL_SOCKET, SO_BUF_LOCK, &unlocked, sizeof(unlocked));
    if (setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &most, sizeof(most)) == 0)
        setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &before, sizeof(before));
}

int sockbuf_widen_receive(int fd, int want)
{
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &want, sizeof(want)) < 0) {
        if (rmem_max() * 2ll > get(fd, SO_RCVBUF))
            setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &want, sizeof(want));
        by_low_water(fd);
    }
    return get(fd, SO_RCVBUF);
}
