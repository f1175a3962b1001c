/*
 * A storm of bytes: connections over TCP and a unix socket, each with a writer and a reader in processes of their own.
 * The writers write as much as goes in, in pieces of any size; one reader takes all at once, another naps between
 * bursts, so that buffers, which the kernel makes larger meanwhile, are full again and again. Each byte is told by
 * its position.
 */
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/programs/check.h"

#define STREAMS 4
#define PIECE   (1u << 18)

struct stream {
    const char *what;
    int family;
    unsigned burst_kib; /* what the reader takes before it naps; 0: it never does */
};

static const struct stream streams[STREAMS] = {
    {"IPv4, read at once", AF_INET, 0},
    {"IPv4, read in bursts", AF_INET, 4096},
    {"IPv6, read in bursts", AF_INET6, 1024},
    {"unix, read in bursts", AF_UNIX, 1024},
};

static uint32_t next(uint32_t *random)
{
    *random ^= *random << 13;
    *random ^= *random >> 17;
    *random ^= *random << 5;
    return *random;
}

/* What belongs at a position: eight bytes at a time, told by the number of the eight. */
static void pattern(uint8_t *to, uint64_t position, size_t n)
{
    while (n > 0) {
        uint64_t x = (position >> 3) * 0x9e3779b97f4a7c15u, skip = position & 7, part = 8 - skip < n ? 8 - skip : n;
        uint8_t bytes[8];

        x = (x ^ x >> 32) * 0xd6e8feb86659fd93u;
        x ^= x >> 29;
        memcpy(bytes, &x, 8);
        memcpy(to, bytes + skip, part);
        to += part;
        position += part;
        n -= part;
    }
}

static void over_tcp(int family, int ends[2])
{
    struct sockaddr_in6 a = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    struct sockaddr_in b = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct sockaddr *sa = family == AF_INET ? (void *)&b : (void *)&a;
    socklen_t len = family == AF_INET ? sizeof(b) : sizeof(a);
    int listener = (int)MUST(socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));

    MUST(bind(listener, sa, len));
    MUST(listen(listener, 1));
    MUST(getsockname(listener, sa, &len));
    ends[0] = (int)MUST(socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    MUST(connect(ends[0], sa, len));
    ends[1] = (int)MUST(accept4(listener, NULL, NULL, SOCK_CLOEXEC));
    close(listener);
}

static void write_stream(const struct stream *s, int fd)
{
    static uint8_t piece[PIECE];
    uint32_t random = 2463534242u;
    uint64_t position = 0;

    while (!check_go()) {
        size_t len = 1 + next(&random) % PIECE, done = 0;
        pattern(piece, position, len);
        while (done < len) {
            ssize_t n = write(fd, piece + done, len - done);
            if (n <= 0)
                check_die("%s: write: %m", s->what);
            done += (size_t)n;
        }
        position += len;
    }
    if (check_broken())
        MUST(write(fd, piece, 1));
    close(fd);
}

/* Where the bytes found at a position belong: how many are lost (negative: doubled) before it; 0: nowhere. */
static long long displaced(const uint8_t *bytes, size_t n, uint64_t position)
{
    const int64_t most = 64 << 20;

    for (int64_t d = position < (uint64_t)most ? -(int64_t)position : -most; n >= 16 && d < most; d++) {
        uint8_t there[16];
        pattern(there, position + (uint64_t)d, sizeof(there));
        if (!memcmp(there, bytes, sizeof(there)))
            return d;
    }
    return 0;
}

static bool compare(const struct stream *s, const uint8_t *got, uint64_t position, size_t n)
{
    static uint8_t want[PIECE];
    size_t i = 0;

    pattern(want, position, n);
    if (!memcmp(got, want, n))
        return true;
    while (got[i] == want[i])
        i++;
    check_fail("%s: byte %llu: before %02x, after %02x (displaced by %lld)", s->what, (unsigned long long)position + i,
               want[i], got[i], displaced(got + i, n - i, position + i));
    return false;
}

static void read_stream(const struct stream *s, int fd)
{
    static uint8_t piece[PIECE];
    uint32_t random = 88675123u;
    uint64_t position = 0, nap_at = s->burst_kib * 1024ull;
    ssize_t n;

    while ((n = read(fd, piece, 1 + next(&random) % PIECE)) > 0) {
        if (!compare(s, piece, position, (size_t)n))
            return;
        position += (uint64_t)n;
        if (nap_at && position > nap_at) {
            nap_at = position + s->burst_kib * 1024ull;
            usleep(next(&random) % 30000);
        }
    }
    check_true(n == 0, "%s: read: %m", s->what);
    check_true(position > 1000000, "%s: only %llu bytes", s->what, (unsigned long long)position);
}

/* One process an end. */
static void start(const struct stream *s, pid_t pid[2])
{
    int ends[2];

    if (s->family == AF_UNIX)
        MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends));
    else
        over_tcp(s->family, ends);
    for (int i = 0; i < 2; i++) {
        pid[i] = (pid_t)MUST(fork());
        if (pid[i])
            continue;
        close(ends[!i]);
        (i ? read_stream : write_stream)(s, ends[i]);
        _exit(check_status());
    }
    close(ends[0]);
    close(ends[1]);
}

int main(int argc, char **argv)
{
    pid_t pid[STREAMS][2];

    check_init(argc, argv);
    for (int i = 0; i < STREAMS; i++)
        start(&streams[i], pid[i]);
    check_ready();
    for (int i = 0; i < STREAMS; i++) {
        check_child(pid[i][0], "writer");
        check_child(pid[i][1], "reader");
    }
    return check_end();
}
