/*
 * Pipes and FIFOs: content (a little, much, in packets), size, flags, ends in different processes, ends that
 * are closed; a reader must get exactly what was written, then end of file or EAGAIN or a wait.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"

#define BIG (256 * 1024)

static unsigned char buf[BIG], expected[BIG];

static void expect(int fd, const void *text, size_t len, const char *what)
{
    size_t got = 0;
    ssize_t n;

    while (got < len && (n = read(fd, buf + got, len - got)) > 0)
        got += (size_t)n;
    check_num((long long)len, (long long)got, "%s: bytes", what);
    check_mem(text, buf, got, what);
}

static void expect_empty(int fd, int error, const char *what)
{
    ssize_t n = read(fd, buf, sizeof(buf));

    if (error)
        check_num(error, n < 0 ? errno : 0, "%s: errno when it is empty", what);
    else
        check_num(0, n, "%s: bytes after the end", what);
}

/* Packet mode: one read gets one packet, whatever its size. */
static void check_packets(int fd, int writer)
{
    check_num(O_DIRECT, fcntl(writer, F_GETFL) & O_DIRECT, "packet mode");
    check_num(3, read(fd, buf, sizeof(buf)), "first packet");
    check_num(1, read(fd, buf, 1), "part of the second packet");
    check_num(5, read(fd, buf, sizeof(buf)), "third packet: the rest of the second is gone");
    check_mem("three", buf, 5, "third packet");
    check_num(4096, read(fd, buf, sizeof(buf)), "fourth packet");
    check_filled(buf, 4096, 4, "fourth packet");
}

static void fill_packets(int fd)
{
    MUST(write(fd, "one", 3));
    MUST(write(fd, "two", 3));
    MUST(write(fd, "three", 5));
    check_fill(buf, 4096, 4);
    MUST(write(fd, buf, 4096));
}

/* A child has the writing end of one pipe and the reading end of another, and nobody else has. */
static int child(int from, int to)
{
    check_idle();
    expect(from, "to the child", 12, "pipe to a child");
    MUST(write(to, " and more", 9));
    return check_status();
}

static int open_fifo(int flags)
{
    return (int)MUST(open(check_path("fifo"), flags));
}

int main(int argc, char **argv)
{
    int small[2], big[2], packets[2], closed[2], broken[2], to[2], from[2], fifo_r, fifo_w;
    pid_t pid;

    check_init(argc, argv);
    signal(SIGPIPE, SIG_IGN);
    MUST(pipe(small));
    MUST(write(small[1], "some text", 9));
    MUST(pipe2(big, O_NONBLOCK | O_CLOEXEC));
    MUST(fcntl(big[1], F_SETPIPE_SZ, BIG));
    check_fill(expected, BIG, 9);
    MUST(write(big[1], expected, BIG));
    /* not at a page's boundary any more */
    expect(big[0], expected, 1000, "big pipe");
    MUST(pipe2(packets, O_DIRECT));
    fill_packets(packets[1]);
    MUST(pipe(closed));
    MUST(write(closed[1], "last words", 10));
    close(closed[1]);
    MUST(pipe(broken));
    close(broken[0]);
    MUST(pipe(to));
    MUST(pipe(from));
    pid = (pid_t)MUST(fork());
    if (pid == 0) {
        close(to[1]);
        close(from[0]);
        return child(to[0], from[1]);
    }
    close(to[0]);
    close(from[1]);
    MUST(write(to[1], "to the child", 12));
    MUST(mkfifo(check_path("fifo"), 0600));
    fifo_r = open_fifo(O_RDONLY | O_NONBLOCK);
    fifo_w = open_fifo(O_WRONLY);
    MUST(write(fifo_w, "in the fifo", 11));
    check_fill(expected, BIG, 9);

    check_wait();

    if (check_broken())
        MUST(write(small[1], "!", 1));
    check_num(BIG, fcntl(big[0], F_GETPIPE_SZ), "size of the big pipe");
    check_num(65536, fcntl(small[0], F_GETPIPE_SZ), "size of an ordinary pipe");
    expect(small[0], "some text", 9, "pipe");
    check_num(0, fcntl(small[0], F_GETFL) & O_NONBLOCK, "pipe: O_NONBLOCK");
    fcntl(small[0], F_SETFL, O_NONBLOCK);
    expect_empty(small[0], EAGAIN, "pipe");
    check_num(FD_CLOEXEC, fcntl(big[0], F_GETFD), "big pipe: close-on-exec");
    expect(big[0], expected + 1000, BIG - 1000, "big pipe");
    expect_empty(big[0], EAGAIN, "big pipe");
    check_packets(packets[0], packets[1]);
    expect(closed[0], "last words", 10, "pipe whose writer is gone");
    expect_empty(closed[0], 0, "pipe whose writer is gone");
    check_num(-1, write(broken[1], "x", 1), "write to a pipe whose reader is gone");
    check_num(EPIPE, errno, "errno of that");
    expect(from[0], " and more", 9, "pipe from a child");
    expect_empty(from[0], 0, "pipe from a child that is gone");
    expect(fifo_r, "in the fifo", 11, "FIFO");
    MUST(write(fifo_w, "more", 4));
    expect(fifo_r, "more", 4, "FIFO");
    close(fifo_w);
    expect_empty(fifo_r, 0, "FIFO whose writer is gone");
    check_child(pid, "child");
    return check_end();
}
