/*
 * The stand-in: after a restart dmtcp_restart stays in the foreground as what the shell and the terminal see of the
 * program. It passes on the signals that it gets, stops and goes on as the program does, and ends as it ends. What
 * the terminal itself sends reaches the program directly when both are in one process group.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/log.h"
#include "base/util.h"
#include "restorer/driver.h"

#define MAX_ROOTS 256u

struct root {
    int pidfd;
    bool own_group;
    bool ended;
    int status; /* as wait(2) */
};

struct standin {
    struct root root[MAX_ROOTS];
    size_t n;
    int tty; /* our terminal, -1: none */
};

static const int passed_on[] = {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH, SIGCONT, SIGALRM, SIGTSTP};

/* One report; *fd is what came with it or -1. Returns 0 at the end of the socket. */
static int receive(int sock, struct report *rep, int *fd)
{
    union {
        char buf[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } u = {0};
    struct iovec iov = {rep, sizeof(*rep)};
    struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = u.buf, .msg_controllen = sizeof(u.buf)};
    struct cmsghdr *c;
    ssize_t n;

    *fd = -1;
    do
        n = recvmsg(sock, &mh, MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    if (n != sizeof(*rep))
        return 0;
    c = CMSG_FIRSTHDR(&mh);
    if (c && c->cmsg_type == SCM_RIGHTS)
        memcpy(fd, CMSG_DATA(c), sizeof(*fd));
    rep->text[sizeof(rep->text) - 1] = '\0';
    return 1;
}

/* Returns 0 when everything runs. */
static int take_reports(struct standin *s, int sock)
{
    struct report rep;
    int fd;

    while (receive(sock, &rep, &fd)) {
        if (rep.op == REPORT_FAILED) {
            log_error("%s", rep.text);
            return -1;
        }
        if (rep.op == REPORT_NOTE)
            log_note("%s", rep.text);
        if (rep.op == REPORT_END)
            return 0;
        if (rep.op == REPORT_ROOT && fd >= 0 && s->n < MAX_ROOTS)
            s->root[s->n++] = (struct root){.pidfd = fd, .own_group = rep.own_group != 0};
    }
    log_error("the restart ended unexpectedly; nothing is left of it (DMTCP_LOG_LEVEL=trace with DMTCP_RESTART_LOG=FILE "
              "tells how far it got)");
    return -1;
}

/* The pid that a pidfd's process has for us (it may have another in a namespace of its own). */
static pid_t pid_of(int pidfd)
{
    char path[48];
    _cleanup_free_ char *text = NULL;
    const char *p;

    snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", pidfd);
    if (read_file(AT_FDCWD, path, &text, NULL) < 0 || !(p = strstr(text, "\nPid:")))
        return -1;
    return atoi(p + 5);
}

static void give_terminal(const struct standin *s, pid_t group)
{
    if (s->tty >= 0 && group > 0 && tcgetpgrp(s->tty) > 0)
        tcsetpgrp(s->tty, group);
}

/* The program has stopped: so do we, as the shell expects of a job, and go on together. */
static void stop_too(struct standin *s, struct root *root)
{
    pid_t pid = pid_of(root->pidfd);

    if (root->own_group)
        give_terminal(s, getpgrp());
    raise(SIGSTOP);
    if (root->own_group)
        give_terminal(s, pid);
    if (root->own_group && pid > 0)
        kill(-pid, SIGCONT);
    syscall(SYS_pidfd_send_signal, root->pidfd, SIGCONT, NULL, 0);
}

static void look_after(struct standin *s, struct root *root)
{
    siginfo_t si = {0};

    if (root->ended || waitid(P_PIDFD, (id_t)root->pidfd, &si, WEXITED | WSTOPPED | WNOHANG) < 0 || si.si_pid == 0)
        return;
    if (si.si_code == CLD_STOPPED || si.si_code == CLD_TRAPPED) {
        if (si.si_code == CLD_STOPPED && root == &s->root[0])
            stop_too(s, root);
        return;
    }
    root->ended = true;
    root->status = si.si_code == CLD_EXITED ? si.si_status << 8 : si.si_status;
}

/* A signal from kill(2) is for the program; one from the terminal has reached it if it is in our group. */
static void pass_on(const struct standin *s, const struct signalfd_siginfo *si)
{
    for (size_t i = 0; i < s->n; i++)
        if (!s->root[i].ended && (si->ssi_code != SI_KERNEL || s->root[i].own_group))
            syscall(SYS_pidfd_send_signal, s->root[i].pidfd, (int)si->ssi_signo, NULL, 0);
}

static bool all_ended(const struct standin *s)
{
    for (size_t i = 0; i < s->n; i++)
        if (!s->root[i].ended)
            return false;
    return true;
}

static int end_as(int status)
{
    if (!WIFSIGNALED(status))
        return WEXITSTATUS(status);
    setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
    signal(WTERMSIG(status), SIG_DFL);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, WTERMSIG(status));
    sigprocmask(SIG_UNBLOCK, &set, NULL);
    raise(WTERMSIG(status));
    return 128 + WTERMSIG(status);
}

int standin_run(int report, pid_t driver, int fail_rc)
{
    struct standin s = {.tty = open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY)};
    struct signalfd_siginfo si;
    sigset_t set;
    int sfd;

    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    for (size_t i = 0; i < ARRAY_SIZE(passed_on); i++)
        sigaddset(&set, passed_on[i]);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGTTOU, SIG_IGN);
    if (take_reports(&s, report) < 0) {
        waitpid(driver, NULL, __WALL);
        return fail_rc;
    }
    sfd = signalfd(-1, &set, SFD_CLOEXEC);
    for (;;) {
        for (size_t i = 0; i < s.n; i++)
            look_after(&s, &s.root[i]);
        while (waitpid(driver, NULL, WNOHANG | __WALL) > 0)
            driver = -2;
        if (all_ended(&s))
            break;
        if (read(sfd, &si, sizeof(si)) == sizeof(si) && si.ssi_signo != SIGCHLD)
            pass_on(&s, &si);
    }
    return s.n ? end_as(s.root[0].status) : 0;
}
