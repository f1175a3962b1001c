/*
 * Pseudo-terminals with both ends in the tree, as tmux, screen and script have them: content under way in
 * both directions (a finished line, an unfinished one, output not yet read), termios, window size, packet
 * mode; and a session whose controlling terminal one is: foreground group, ^C, hang-up.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"

struct pty {
    int master, slave;
    char name[64];
};

static volatile sig_atomic_t got_int, got_winch;

static void on_signal(int sig)
{
    if (sig == SIGINT)
        got_int++;
    else
        got_winch++;
}

static void make(struct pty *p)
{
    p->master = (int)MUST(posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC));
    MUST(grantpt(p->master));
    MUST(unlockpt(p->master));
    MUST(ptsname_r(p->master, p->name, sizeof(p->name)) ? -1 : 0);
    p->slave = (int)MUST(open(p->name, O_RDWR | O_NOCTTY));
}

static void expect(int fd, const char *text, const char *what)
{
    char buf[300] = "";
    size_t got = 0, len = strlen(text);
    ssize_t n;

    while (got < len && (n = read(fd, buf + got, sizeof(buf) - 1 - got)) > 0)
        got += (size_t)n;
    check_str(text, buf, what);
}

static void set_modes(const struct pty *p, struct termios *t, struct winsize *w)
{
    MUST(tcgetattr(p->slave, t));
    t->c_iflag |= IXANY | IUTF8;
    t->c_lflag &= ~(tcflag_t)ECHOK;
    t->c_cc[VINTR] = 5; /* ^E */
    t->c_cc[VEOL2] = '%';
    cfsetospeed(t, B19200);
    MUST(tcsetattr(p->slave, TCSANOW, t));
    MUST(tcgetattr(p->slave, t));
    *w = (struct winsize){37, 101, 11, 12};
    MUST(ioctl(p->slave, TIOCSWINSZ, w));
}

static void check_modes(const struct pty *p, const struct termios *t, const struct winsize *w)
{
    struct termios now;
    struct winsize size;

    MUST(tcgetattr(p->slave, &now));
    check_num(t->c_iflag, now.c_iflag, "termios c_iflag");
    check_num(t->c_oflag, now.c_oflag, "termios c_oflag");
    check_num(t->c_cflag, now.c_cflag, "termios c_cflag");
    check_num(t->c_lflag, now.c_lflag, "termios c_lflag");
    check_mem(t->c_cc, now.c_cc, NCCS, "termios c_cc");
    check_num(cfgetospeed(t), cfgetospeed(&now), "termios speed");
    MUST(ioctl(p->master, TIOCGWINSZ, &size));
    check_mem(w, &size, sizeof(size), "window size");
}

/* A session with the terminal as its controlling one; its only process is in the foreground. */
static int session(const struct pty *p, int up)
{
    struct sigaction sa = {.sa_handler = on_signal};
    pid_t background;
    int tty, i;

    MUST(setsid());
    MUST(ioctl(p->slave, TIOCSCTTY, 0));
    close(p->master);
    MUST(sigaction(SIGINT, &sa, NULL));
    MUST(sigaction(SIGWINCH, &sa, NULL));
    signal(SIGHUP, SIG_IGN);
    background = (pid_t)MUST(fork());
    if (background == 0) {
        MUST(setpgid(0, 0));
        got_int = 0;
        MUST(write(up, "x", 1));
        check_idle();
        while (access(check_path("done"), F_OK) < 0)
            check_sleep(0.002);
        check_num(0, got_int, "^C that a background group got");
        _exit(check_status());
    }
    MUST(write(up, "x", 1));
    check_idle();
    for (i = 0; i < 2000 && !(got_int && got_winch); i++)
        check_sleep(0.005);
    check_num(1, got_int, "interrupts typed at the controlling terminal");
    check_num(1, got_winch, "changes of the window size");
    check_num(getpgrp(), tcgetpgrp(p->slave), "foreground group");
    check_num(getsid(0), tcgetsid(p->slave), "session of the terminal");
    tty = open("/dev/tty", O_RDWR);
    check_true(tty >= 0, "/dev/tty can't be opened: %s", strerror(errno));
    check_num(6, write(tty, "to tty", 6), "write to /dev/tty");
    check_spit(check_path("done"), "x", 1);
    check_child(background, "background group");
    return check_status();
}

int main(int argc, char **argv)
{
    struct pty data, control, raw;
    struct winsize size, other = {50, 60, 0, 0};
    struct termios modes, rawmodes;
    char now[64], c;
    int up[2], on = 1, packet = 0, echoed = 0, peer, plain;
    pid_t pid;

    check_init(argc, argv);
    MUST(pipe(up));
    make(&data);
    make(&control);
    make(&raw);
    MUST(peer = ioctl(raw.master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC));
    MUST(plain = dup(peer));
    MUST(tcgetattr(raw.slave, &rawmodes));
    cfmakeraw(&rawmodes);
    MUST(tcsetattr(raw.slave, TCSANOW, &rawmodes));
    MUST(ioctl(raw.master, TIOCPKT, &on));
    MUST(write(raw.master, "raw input", 9));
    set_modes(&data, &modes, &size);
    pid = (pid_t)MUST(fork());
    if (pid == 0)
        return session(&control, up[1]);
    MUST(read(up[0], &c, 1));
    MUST(read(up[0], &c, 1));
    /* a finished line, an unfinished one (both echoed), then output: nothing is read before the checkpoint */
    MUST(write(data.master, "a line\nunfin", 12));
    while (ioctl(data.master, FIONREAD, &echoed) == 0 && echoed < 13) /* the kernel echoes in its own time */
        check_sleep(0.001);
    MUST(write(data.slave, "output\n", 7));

    check_wait();

    check_modes(&data, &modes, &size);
    check_num(0, fcntl(data.slave, F_GETFD), "close-on-exec of a slave");
    check_num(FD_CLOEXEC, fcntl(peer, F_GETFD), "close-on-exec of a slave that the master opened");
    check_num(0, fcntl(plain, F_GETFD), "close-on-exec of its copy");
    check_num(0, ptsname_r(data.master, now, sizeof(now)), "ptsname");
    check_str(data.name, now, "name of the terminal");
    if (check_broken())
        MUST(write(data.slave, "extra", 5));
    expect(data.slave, "a line\n", "line that was typed");
    MUST(write(data.master, "ished\n", 6));
    expect(data.slave, "unfinished\n", "line that was typed in two parts");
    expect(data.master, "a line\r\nunfinoutput\r\nished\r\n", "output and echo");
    expect(raw.slave, "raw input", "input of a raw terminal");
    MUST(ioctl(raw.master, TIOCGPKT, &packet));
    check_num(1, packet, "packet mode");
    MUST(write(control.master, "\3", 1));
    MUST(ioctl(control.master, TIOCSWINSZ, &other));
    expect(control.master, "^Cto tty", "output of the session");
    check_child(pid, "session");
    close(data.slave);
    check_num(-1, read(data.master, now, sizeof(now)), "read from a master whose slave is closed");
    check_num(EIO, errno, "errno of that");
    return check_end();
}
