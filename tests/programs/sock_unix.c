/*
 * Unix sockets that are connected: pairs and connections through a listening socket, streams and packets, with
 * little or all that fits under way, half-closed, with a peer that is gone; names, sizes, options.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"
#include "tests/programs/sock.h"

/* ---- streams ---- */

static int pair[2], full[2], half[2], gone, reset, flags[2];
static size_t full_bytes;

static void make_streams(void)
{
    int p[2];

    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    MUST(send(pair[0], "there", 5, 0));
    MUST(send(pair[1], "and back", 8, 0));
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, full));
    full_bytes = sock_stuff(full[0], 1);
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, half));
    MUST(send(half[0], "last words", 10, 0));
    MUST(shutdown(half[0], SHUT_WR));
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, p));
    gone = p[0];
    MUST(send(p[1], "farewell", 8, 0));
    MUST(close(p[1]));
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, p));
    reset = p[0];
    MUST(send(reset, "unread", 6, 0));
    MUST(close(p[1]));
    MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, flags));
}

static void check_streams(void)
{
    char c;

    sock_expect(pair[1], "there", "a pair");
    sock_expect(pair[0], "and back", "a pair, the other way");
    sock_expect_nothing(pair[0], "a pair");
    check_num(EAGAIN, send(full[0], "x", 1, MSG_DONTWAIT) < 0 ? errno : 0, "errno of a full socket");
    sock_drain(full[1], full_bytes, 1, "a full pair");
    sock_expect_nothing(full[1], "a full pair");
    sock_expect(half[1], "last words", "a half-closed pair");
    sock_expect_end(half[1], "a half-closed pair");
    check_num(EPIPE, send(half[0], "x", 1, MSG_NOSIGNAL) < 0 ? errno : 0, "errno of writing after SHUT_WR");
    check_num(3, send(half[1], "yes", 3, 0), "bytes in the direction that is open");
    sock_expect(half[0], "yes", "the direction that is open");
    sock_expect(gone, "farewell", "the peer is gone");
    sock_expect_end(gone, "the peer is gone");
    check_num(EPIPE, send(gone, "x", 1, MSG_NOSIGNAL) < 0 ? errno : 0, "errno of writing to nobody");
    check_num(ECONNRESET, recv(reset, &c, 1, MSG_DONTWAIT) < 0 ? errno : 0, "errno after a reset");
    sock_expect_end(reset, "after the reset was reported");
    check_num(O_NONBLOCK, fcntl(flags[1], F_GETFL) & O_NONBLOCK, "O_NONBLOCK");
    check_num(FD_CLOEXEC, fcntl(flags[0], F_GETFD), "close-on-exec");
    check_num(0, fcntl(pair[0], F_GETFL) & O_NONBLOCK, "O_NONBLOCK of another");
    sock_expect_peer(pair[0], getpid(), "a pair");
}

/* ---- packets ---- */

static int packets[2], dgrams[2], ended[2];

static void make_packets(void)
{
    MUST(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, packets));
    MUST(send(packets[0], "one", 3, 0));
    MUST(send(packets[0], "twotwo", 6, 0));
    MUST(send(packets[0], "three", 5, 0));
    MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, dgrams));
    for (int i = 0; i < 20; i++) /* more than net.unix.max_dgram_qlen */
        MUST(send(dgrams[0], "0123456789abcdefghij", (size_t)i + 1, 0));
    MUST(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ended));
    MUST(send(ended[0], "before the end", 14, 0));
    MUST(shutdown(ended[0], SHUT_RDWR));
}

static void check_packets(void)
{
    char buf[64];

    check_num(3, recv(packets[1], buf, sizeof(buf), 0), "first packet");
    check_num(2, recv(packets[1], buf, 2, 0), "part of the second packet");
    check_num(5, recv(packets[1], buf, sizeof(buf), 0), "third packet");
    check_mem("three", buf, 5, "third packet");
    sock_expect_nothing(packets[1], "packets");
    for (int i = 0; i < 20; i++)
        check_num(i + 1, recv(dgrams[1], buf, sizeof(buf), MSG_DONTWAIT), "datagram %d", i);
    sock_expect_nothing(dgrams[1], "datagrams");
    check_num(14, recv(ended[1], buf, sizeof(buf), 0), "packet before the end");
    sock_expect_end(ended[1], "packets after SHUT_RDWR");
}

/* ---- through listening sockets ---- */

static int listener[3], client[3], server[3], closed_client, closed_server, many_listener, many[2][50];
static const char *names[3];

static void make_connections(void)
{
    int l;

    names[0] = check_path("stream.sock");
    names[1] = "@sock_unix check";
    names[2] = check_path("packet.sock");
    for (int i = 0; i < 3; i++) {
        int type = i == 2 ? SOCK_SEQPACKET : SOCK_STREAM;
        unlink(names[i]);
        listener[i] = sock_listener(type, names[i], 5);
        client[i] = sock_connected(type, names[i]);
        server[i] = (int)MUST(accept(listener[i], NULL, NULL));
        MUST(send(client[i], "question", 8, 0));
        MUST(send(server[i], "answer", 6, 0));
    }
    MUST(chmod(names[0], 0640));
    l = sock_listener(SOCK_STREAM, "@sock_unix closed", 5);
    closed_client = sock_connected(SOCK_STREAM, "@sock_unix closed");
    closed_server = (int)MUST(accept(l, NULL, NULL));
    MUST(close(l));
    many_listener = sock_listener(SOCK_STREAM, "@sock_unix many", 5);
    for (int i = 0; i < 50; i++) {
        many[0][i] = sock_connected(SOCK_STREAM, "@sock_unix many");
        many[1][i] = (int)MUST(accept(many_listener, NULL, NULL));
        MUST(send(many[i % 2][i], &i, sizeof(i), 0));
    }
}

static void check_connections(void)
{
    struct stat st;

    for (int i = 0; i < 3; i++) {
        check_str(names[i], sock_name(listener[i], false), "name of the listening socket");
        check_str(names[i], sock_name(server[i], false), "name of the accepted socket");
        check_str(names[i], sock_name(client[i], true), "name of the peer");
        check_str("", sock_name(client[i], false), "name of the client");
        check_str("", sock_name(server[i], true), "name of the accepted socket's peer");
        sock_expect(server[i], "question", "connection");
        sock_expect(client[i], "answer", "connection, the other way");
        sock_expect_nothing(client[i], "connection");
        sock_expect_peer(client[i], getpid(), "client");
        sock_expect_peer(server[i], getpid(), "server");
        close(client[i]);
        client[i] = sock_connected(i == 2 ? SOCK_SEQPACKET : SOCK_STREAM, names[i]);
        check_true(accept(listener[i], NULL, NULL) >= 0, "a new connection is accepted");
    }
    MUST(stat(names[0], &st));
    check_num(0640, st.st_mode & 07777, "mode of the socket's file");
    check_str("@sock_unix closed", sock_name(closed_server, false), "name whose listening socket is closed");
    check_str("@sock_unix closed", sock_name(closed_client, true), "name of the peer, listening socket closed");
    close(sock_listener(SOCK_STREAM, "@sock_unix closed", 5)); /* the name is free */
    for (int i = 0; i < 50; i++) {
        int v = -1;
        check_num(4, recv(many[!(i % 2)][i], &v, sizeof(v), MSG_DONTWAIT), "one of many");
        check_num(i, v, "one of many");
    }
}

/* ---- options ---- */

static int sized[2];

static void make_options(void)
{
    struct linger l = {1, 7};
    struct timeval t = {3, 500000};
    int v = 50000, one = 1;

    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, sized));
    MUST(setsockopt(sized[0], SOL_SOCKET, SO_SNDBUF, &v, sizeof(v)));
    MUST(setsockopt(sized[1], SOL_SOCKET, SO_RCVBUF, &v, sizeof(v)));
    MUST(setsockopt(sized[0], SOL_SOCKET, SO_LINGER, &l, sizeof(l)));
    MUST(setsockopt(sized[0], SOL_SOCKET, SO_RCVTIMEO, &t, sizeof(t)));
    MUST(setsockopt(sized[1], SOL_SOCKET, SO_PASSCRED, &one, sizeof(one)));
    MUST(setsockopt(sized[1], SOL_SOCKET, SO_TIMESTAMP, &one, sizeof(one)));
    MUST(send(sized[0], "peeked at", 9, 0));
    v = 7;
    MUST(setsockopt(sized[1], SOL_SOCKET, SO_PEEK_OFF, &v, sizeof(v)));
}

static void check_options(void)
{
    struct linger l = {0};
    struct timeval t = {0};
    socklen_t n = sizeof(l);
    char buf[16] = "";

    check_num(100000, sock_int(sized[0], SOL_SOCKET, SO_SNDBUF), "SO_SNDBUF");
    check_num(100000, sock_int(sized[1], SOL_SOCKET, SO_RCVBUF), "SO_RCVBUF");
    MUST(getsockopt(sized[0], SOL_SOCKET, SO_LINGER, &l, &n));
    check_num(7, l.l_linger, "SO_LINGER");
    n = sizeof(t);
    MUST(getsockopt(sized[0], SOL_SOCKET, SO_RCVTIMEO, &t, &n));
    check_num(3500000, t.tv_sec * 1000000 + t.tv_usec, "SO_RCVTIMEO");
    check_num(1, sock_int(sized[1], SOL_SOCKET, SO_PASSCRED), "SO_PASSCRED");
    check_num(0, sock_int(sized[0], SOL_SOCKET, SO_PASSCRED), "SO_PASSCRED of the other");
    check_num(1, sock_int(sized[1], SOL_SOCKET, SO_TIMESTAMP), "SO_TIMESTAMP");
    check_num(7, sock_int(sized[1], SOL_SOCKET, SO_PEEK_OFF), "SO_PEEK_OFF");
    check_num(2, recv(sized[1], buf, sizeof(buf), MSG_PEEK), "bytes peeked at");
    check_mem("at", buf, 2, "bytes peeked at");
}

/* ---- not connected ---- */

static int fresh, bound;

int main(int argc, char **argv)
{
    check_init(argc, argv);
    make_streams();
    make_packets();
    make_connections();
    make_options();
    fresh = (int)MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    unlink(check_path("bound.sock"));
    bound = sock_bound(SOCK_STREAM, check_path("bound.sock"));

    check_wait();

    if (check_broken())
        sock_expect(pair[1], "t", "spoiled");
    check_streams();
    check_packets();
    check_connections();
    check_options();
    check_str("", sock_name(fresh, false), "name of a new socket");
    check_str(check_path("bound.sock"), sock_name(bound, false), "name of a bound socket");
    MUST(listen(bound, 1));
    sock_connect(fresh, check_path("bound.sock"));
    return check_end();
}
