/*
 * dmtcp_tracer: follows the trees of one computation on one host, and checkpoints them when the coordinator says so.
 * Started in the background by dmtcp_launch, dmtcp_command --attach, or by dmtcp_restart, which becomes it. It
 * holds no descriptor and no terminal of the program, and between checkpoints it does not touch it.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>

#include "base/log.h"
#include "base/util.h"
#include "tracer/check.h"
#include "tracer/freeze.h"
#include "tracer/tracer.h"

/* Watch one living member at a time: when it ends, it is time to see whether anyone is left. */
static void watch_someone(struct tracer *t)
{
    size_t n;
    const struct member *m;

    if (t->watch >= 0)
        return;
    m = follow_members(t->follow, &n);
    for (size_t i = 0; i < n && t->watch < 0; i++) {
        struct pollfd p = {.events = POLLIN};
        if (m[i].threads <= 0)
            continue;
        p.fd = (int)syscall(SYS_pidfd_open, m[i].pid, 0);
        if (p.fd >= 0 && poll(&p, 1, 0) == 0)
            t->watch = p.fd;
        else if (p.fd >= 0)
            close(p.fd);
    }
}

/* Returns 1 when the tracer is no longer needed. */
static int look_around(struct tracer *t, struct err *err)
{
    if (t->watch >= 0) {
        struct pollfd p = {.fd = t->watch, .events = POLLIN};
        if (poll(&p, 1, 0) == 1) {
            close(t->watch);
            t->watch = -1;
        }
    }
    if (follow_update(t->follow, err) < 0)
        return -err->code;
    watch_someone(t);
    if (t->watch < 0 && follow_alive(t->follow)) {
        /* All who count as alive are dead: what was counted of them was not all. */
        follow_recount(t->follow);
        watch_someone(t);
    }
    if (t->watch >= 0 || follow_alive(t->follow))
        return 0;
    return coord_leave(t->coord, err);
}

static int wait_for_work(struct tracer *t, struct err *err)
{
    struct pollfd fds[3];
    size_t k = 0;

    fds[k++] = (struct pollfd){.fd = coord_fd(t->coord), .events = POLLIN};
    fds[k++] = (struct pollfd){.fd = t->sigchld, .events = POLLIN};
    if (t->watch >= 0)
        fds[k++] = (struct pollfd){.fd = t->watch, .events = POLLIN};
    if (poll(fds, k, t->watch < 0 ? 50 : -1) < 0 && errno != EINTR)
        return err_errno(err, "poll");
    if (fds[1].revents && t->checkpoint.running) {
        struct signalfd_siginfo si;
        while (read(t->sigchld, &si, sizeof(si)) == sizeof(si))
            ;
        thaw_late();
    }
    return 0;
}

static int run(struct tracer *t, struct err *err)
{
    for (;;) {
        Wire__Msg *msg;
        int r;
        while ((r = coord_next(t->coord, &msg, err)) == 1) {
            r = tracer_serve(t, msg, err);
            coord_msg_free(msg);
            if (r < 0)
                return r;
        }
        if (r < 0)
            return r;
        r = look_around(t, err);
        if (r)
            return r;
        if (wait_for_work(t, err) < 0)
            return -err->code;
    }
}

int main(int argc, char **argv)
{
    static const struct option longopts[] = {{"config-fd", required_argument, NULL, 'c'},
                                             {"check", no_argument, NULL, 'k'}, {0}};
    struct tracer t = {.watch = -1, .status_fd = -1, .checkpoint = {.running = true}};
    struct err err = {0};
    int config_fd = -1, opt, r;

    log_init("dmtcp_tracer", 0);
    while ((opt = getopt_long(argc, argv, "", longopts, NULL)) != -1) {
        if (opt == 'k')
            return print_checks();
        if (opt == 'c')
            config_fd = atoi(optarg);
    }
    if (config_fd < 0) {
        fprintf(stderr, "dmtcp_tracer: is started by dmtcp_launch, dmtcp_command and dmtcp_restart, not by hand\n");
        return 99;
    }
    signal(SIGPIPE, SIG_IGN);
    signal(SIGCHLD, SIG_DFL); /* ignored, it would not tell of stops */
    sigset_t chld;
    sigemptyset(&chld);
    sigaddset(&chld, SIGCHLD);
    sigprocmask(SIG_BLOCK, &chld, NULL);
    t.sigchld = signalfd(-1, &chld, SFD_CLOEXEC | SFD_NONBLOCK);
    raise_open_files_limit();
    r = tracer_start(&t, config_fd, &err);
    if (r == 0)
        r = run(&t, &err);
    if (r < 0) {
        log_error("%s", err.msg);
        if (t.status_fd >= 0)
            dprintf(t.status_fd, "%s\n", err.msg);
    }
    tracer_end(&t);
    return r < 0;
}
