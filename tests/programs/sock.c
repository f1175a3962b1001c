/* See sock.h. */
#include "tests/programs/sock.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"

socklen_t sock_unix(struct sockaddr_un *a, const char *name)
{
    size_t n = strlen(name);

    *a = (struct sockaddr_un){.sun_family = AF_UNIX};
    memcpy(a->sun_path, name, n);
    if (name[0] == '@') {
        a->sun_path[0] = '\0';
        return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n);
    }
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n + 1);
}

int sock_bound(int type, const char *name)
{
    int fd = (int)MUST(socket(AF_UNIX, type, 0));
    struct sockaddr_un a;
    socklen_t n = sock_unix(&a, name);

    if (name[0])
        MUST(bind(fd, (void *)&a, n));
    return fd;
}

int sock_listener(int type, const char *name, int backlog)
{
    int fd = sock_bound(type, name);

    MUST(listen(fd, backlog));
    return fd;
}

void sock_connect(int fd, const char *name)
{
    struct sockaddr_un a;
    socklen_t n = sock_unix(&a, name);

    MUST(connect(fd, (void *)&a, n));
}

int sock_connected(int type, const char *name)
{
    int fd = (int)MUST(socket(AF_UNIX, type, 0));

    sock_connect(fd, name);
    return fd;
}

size_t sock_stuff(int fd, unsigned seed)
{
    static unsigned char pattern[1 << 16];
    size_t total = 0;
    ssize_t n;

    check_fill(pattern, sizeof(pattern), seed);
    for (;;) {
        size_t at = total % sizeof(pattern);
        n = send(fd, pattern + at, sizeof(pattern) - at, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0)
            break;
        total += (size_t)n;
    }
    if (errno != EAGAIN)
        MUST(-1);
    return total;
}

void sock_drain(int fd, size_t bytes, unsigned seed, const char *what)
{
    static unsigned char pattern[1 << 16], buf[1 << 16];
    size_t got = 0;

    check_fill(pattern, sizeof(pattern), seed);
    while (got < bytes) {
        size_t at = got % sizeof(pattern), want = sizeof(pattern) - at;
        ssize_t n = recv(fd, buf, want < bytes - got ? want : bytes - got, 0);
        if (n <= 0) {
            check_fail("%s: %zu of %zu bytes came, then %s", what, got, bytes, n ? strerror(errno) : "the end");
            return;
        }
        if (!check_mem(pattern + at, buf, (size_t)n, what))
            return;
        got += (size_t)n;
    }
}

void sock_expect(int fd, const char *text, const char *what)
{
    char buf[4096];
    size_t got = 0, len = strlen(text);
    ssize_t n = 0;

    /* The other end may be another process, which goes on a moment later. */
    while (got < len && poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, 2000) > 0 &&
           (n = recv(fd, buf + got, len - got, MSG_DONTWAIT)) > 0)
        got += (size_t)n;
    buf[got] = '\0';
    check_str(text, buf, what);
}

void sock_expect_nothing(int fd, const char *what)
{
    char c;
    ssize_t n = recv(fd, &c, 1, MSG_DONTWAIT);

    check_num(EAGAIN, n < 0 ? errno : 0, "%s: errno when all is read", what);
}

void sock_expect_end(int fd, const char *what)
{
    char c;

    check_num(0, recv(fd, &c, 1, MSG_DONTWAIT), "%s: end of file", what);
}

const char *sock_name(int fd, bool peer)
{
    static char text[4][128];
    static unsigned next;
    char *t = text[next++ % 4];
    struct sockaddr_un a = {0};
    socklen_t n = sizeof(a);
    size_t len;

    if ((peer ? getpeername(fd, (void *)&a, &n) : getsockname(fd, (void *)&a, &n)) < 0)
        return strerror(errno);
    len = n - offsetof(struct sockaddr_un, sun_path);
    memset(t, 0, 128);
    memcpy(t, a.sun_path, len);
    if (len && !t[0])
        t[0] = '@';
    return t;
}

void sock_expect_peer(int fd, pid_t pid, const char *what)
{
    struct ucred u = {0};
    socklen_t n = sizeof(u);

    MUST(getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &u, &n));
    check_num(pid, u.pid, "%s: SO_PEERCRED pid", what);
    check_num(geteuid(), u.uid, "%s: SO_PEERCRED uid", what);
    check_num(getegid(), u.gid, "%s: SO_PEERCRED gid", what);
}

int sock_int(int fd, int level, int option)
{
    int v = 0;
    socklen_t n = sizeof(v);

    MUST(getsockopt(fd, level, option, &v, &n));
    return v;
}
