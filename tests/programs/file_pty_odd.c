/*
 * Pseudo-terminals in the states that programs rarely leave them in: one whose slave nobody has opened yet,
 * with input typed already, locked; one whose slave was closed; one whose master is gone; input with
 * end-of-file characters and a quoted newline; output that was stopped; more input and output than the line
 * discipline holds; an exclusive one.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"

struct pty {
    int master, slave;
    char name[64];
};

static void make(struct pty *p, bool open_slave)
{
    p->master = (int)MUST(posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK));
    MUST(ptsname_r(p->master, p->name, sizeof(p->name)) ? -1 : 0);
    p->slave = -1;
    if (!open_slave)
        return;
    MUST(unlockpt(p->master));
    p->slave = (int)MUST(open(p->name, O_RDWR | O_NOCTTY | O_NONBLOCK));
}

static void set_raw(const struct pty *p)
{
    struct termios t;

    MUST(tcgetattr(p->slave, &t));
    cfmakeraw(&t);
    MUST(tcsetattr(p->slave, TCSANOW, &t));
}

static int events(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN | POLLOUT};

    poll(&p, 1, 0);
    return p.revents;
}

/* The kernel moves input along in its own time. */
static void wait_readable(int fd)
{
    for (int i = 0; i < 1000 && !(events(fd) & POLLIN); i++)
        check_sleep(0.002);
}

static void expect(int fd, const char *text, const char *what)
{
    char buf[200] = "";
    ssize_t n;

    wait_readable(fd);
    n = read(fd, buf, sizeof(buf) - 1);
    check_num((long long)strlen(text), n, "length of %s", what);
    check_str(text, buf, what);
}

/* All that there is, byte by byte a known pattern. */
static size_t drain(int fd, uint64_t seed, const char *what)
{
    static char got[40000], wanted[40000];
    size_t len = 0;
    ssize_t n;

    wait_readable(fd);
    while (len < sizeof(got) && ((n = read(fd, got + len, sizeof(got) - len)) > 0 || (events(fd) & POLLIN)))
        len += n > 0 ? (size_t)n : 0;
    check_fill(wanted, sizeof(wanted), seed);
    check_mem(wanted, got, len, what);
    return len;
}

static size_t stuff(int fd, uint64_t seed)
{
    static char bytes[40000];
    size_t len = 0;
    ssize_t n;

    check_fill(bytes, sizeof(bytes), seed);
    for (int tries = 0; tries < 20; tries++) {
        while (len < sizeof(bytes) && (n = write(fd, bytes + len, 500)) > 0)
            len += (size_t)n;
        check_sleep(0.005);
    }
    return len;
}

int main(int argc, char **argv)
{
    struct pty fresh, closed, hung, marks, stopped, full, exclusive;
    size_t in, out;
    char c;

    check_init(argc, argv);
    make(&fresh, false);
    MUST(write(fresh.master, "early\n", 6));
    make(&closed, true);
    MUST(write(closed.master, "left\n", 5));
    wait_readable(closed.slave);
    MUST(close(closed.slave));
    make(&hung, true);
    MUST(close(hung.master));
    make(&marks, true);
    MUST(write(marks.master, "line\nabc\004def\004\004par\026\ntial", 23));
    wait_readable(marks.slave);
    make(&stopped, true);
    set_raw(&stopped);
    {
        struct termios t;
        MUST(tcgetattr(stopped.slave, &t));
        t.c_iflag |= IXON;
        MUST(tcsetattr(stopped.slave, TCSANOW, &t));
    }
    MUST(write(stopped.master, "\023", 1));
    while (events(stopped.slave) & POLLOUT)
        check_sleep(0.001);
    make(&full, true);
    set_raw(&full);
    in = stuff(full.master, 1);
    out = stuff(full.slave, 2);
    make(&exclusive, true);
    MUST(ioctl(exclusive.slave, TIOCEXCL));
    MUST(write(exclusive.master, "typed", 5));
    check_note("%zu bytes of input and %zu of output fit in", in, out);

    check_wait();

    /* nobody has opened the slave: the master is not hung up, but locked */
    check_num(0, events(fresh.master) & POLLHUP, "hang-up of a fresh master");
    check_num(-1, open(fresh.name, O_RDWR | O_NOCTTY), "opening a locked slave");
    MUST(unlockpt(fresh.master));
    fresh.slave = (int)MUST(open(fresh.name, O_RDWR | O_NOCTTY | O_NONBLOCK));
    expect(fresh.slave, check_broken() ? "late\n" : "early\n", "early input");
    check_num(POLLHUP, events(closed.master) & POLLHUP, "hang-up of a master whose slave is closed");
    closed.slave = (int)MUST(open(closed.name, O_RDWR | O_NOCTTY | O_NONBLOCK));
    check_num(0, events(closed.master) & POLLHUP, "hang-up when it is open again");
    expect(closed.slave, "left\n", "input that was left");
    check_num(0, read(hung.slave, &c, 1), "read from a slave whose master is gone");
    check_num(-1, write(hung.slave, "x", 1), "write to it");
    check_num(EIO, errno, "errno of that");
    expect(marks.slave, "line\n", "a line");
    expect(marks.slave, "abc", "a line ended by the end-of-file character");
    expect(marks.slave, "def", "another");
    check_num(0, read(marks.slave, &c, 1), "an end of file by itself");
    MUST(write(marks.master, "!\n", 2));
    expect(marks.slave, "par\ntial!\n", "a line with a quoted newline in it");
    check_num(0, events(stopped.slave) & POLLOUT, "writing to a stopped terminal");
    MUST(write(stopped.master, "\021", 1));
    for (int i = 0; i < 1000 && !(events(stopped.slave) & POLLOUT); i++)
        check_sleep(0.002);
    check_num(POLLOUT, events(stopped.slave) & POLLOUT, "writing to it when it was started again");
    check_num((long long)in, (long long)drain(full.slave, 1, "input"), "bytes of input");
    check_num((long long)out, (long long)drain(full.master, 2, "output"), "bytes of output");
    check_num(0, events(exclusive.slave) & POLLIN, "reading an unfinished line");
    MUST(write(exclusive.master, "\n", 1));
    expect(exclusive.slave, "typed\n", "the line");
    {
        int yes = 0;
        MUST(ioctl(exclusive.slave, TIOCGEXCL, &yes));
        check_num(1, yes, "exclusive mode");
    }
    return check_end();
}
