/*
 * Restarting in namespaces of our own: when a pid is taken or may not be chosen (pid namespace; a user namespace
 * too when we are not root), and when the clocks of this boot are behind (time namespace).
 *
 * Who is what: dmtcp_restart has forked us. We enter the namespaces and make two processes, both children of
 * dmtcp_restart: the first of the pid namespace (keeper() below), and the driver, which then has the same view of
 * pids and /proc as the processes that it rebuilds, and so has the tracer that it becomes. We end.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <dirent.h>

#include "base/util.h"
#include "restorer/core.h"

#define SECOND 1000000000ll

/* Of 64-bit kernels: include/linux/threads.h. */
#define PID_MAX_LIMIT (4 * 1024 * 1024)

static int write_text(const char *path, const char *text, struct err *err)
{
    _cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC);

    if (fd < 0 || write_full(fd, text, strlen(text)) < 0)
        return err_errno(err, "%s", path);
    return 0;
}

/* A user may map no other ids than the own ones, and no group may be dropped (user_namespaces(7)). */
static int enter_userns(struct err *err)
{
    uid_t uid = geteuid();
    gid_t gid = getegid();
    char line[64];

    if (unshare(CLONE_NEWUSER) < 0)
        return err_errno(err, "a restart without root needs a user namespace, which this system does not give");
    snprintf(line, sizeof(line), "%u %u 1", uid, uid);
    if (write_text("/proc/self/uid_map", line, err) < 0 || write_text("/proc/self/setgroups", "deny", err) < 0)
        return -err->code;
    snprintf(line, sizeof(line), "%u %u 1", gid, gid);
    return write_text("/proc/self/gid_map", line, err);
}

static int set_clocks(const struct restore *r, struct err *err)
{
    char text[128];

    snprintf(text, sizeof(text), "monotonic %lld %lld\nboottime %lld %lld\n",
             (long long)(r->monotonic_shift / SECOND), (long long)(r->monotonic_shift % SECOND),
             (long long)(r->boottime_shift / SECOND), (long long)(r->boottime_shift % SECOND));
    return write_text("/proc/self/timens_offsets", text, err);
}

/* --- the first process of a pid namespace --- */

/* Wait until one process of the namespace, whoever it is, ends. false: there is no other. */
static bool wait_for_somebody(void)
{
    DIR *d = opendir("/proc");
    struct dirent *e;
    struct pollfd p = {.fd = -1, .events = POLLIN};

    while (d && (e = readdir(d)) && p.fd < 0) {
        pid_t pid = atoi(e->d_name);
        if (pid > 1)
            p.fd = (int)syscall(SYS_pidfd_open, pid, 0);
    }
    if (d)
        closedir(d);
    if (p.fd < 0)
        return false;
    while (poll(&p, 1, -1) < 0 && errno == EINTR)
        ;
    close(p.fd);
    return true;
}

/*
 * Adopts the orphans of the namespace and ends when it is empty: its end would kill everybody in it. Holds
 * nothing of the caller's. `ready` ends when the driver is there and has mounted /proc.
 */
static void __attribute__((noreturn)) keeper(int ready)
{
    struct sigaction sa = {.sa_handler = SIG_DFL, .sa_flags = SA_NOCLDWAIT};
    char byte;

    prctl(PR_SET_NAME, "dmtcp_pidns", 0, 0, 0);
    setsid();
    sigaction(SIGCHLD, &sa, NULL);
    while (read(ready, &byte, 1) < 0 && errno == EINTR)
        ;
    if (chdir("/") < 0)
        _exit(1);
    close_range(0, ~0u, 0);
    do {
        while (waitpid(-1, NULL, WNOHANG | __WALL) > 0)
            ;
    } while (wait_for_somebody() || kill(-1, 0) == 0);
    _exit(0);
}

static pid_t make_child(uint64_t flags, pid_t pid)
{
    struct clone_args ca = {.flags = flags};

    if (pid) {
        ca.set_tid = (uint64_t)&pid;
        ca.set_tid_size = 1;
    }
    return (pid_t)syscall(SYS_clone3, &ca, sizeof(ca));
}

/* With a pid that no image has. A new pid namespace has pids up to PID_MAX_LIMIT since Linux 6.14, whatever others have. */
static pid_t make_driver(const struct restore *r)
{
    pid_t pid = make_child(CLONE_PARENT, plan_spare_pid(r, PID_MAX_LIMIT)), spare;

    if (pid >= 0 || errno != EINVAL)
        return pid;
    spare = plan_spare_pid(r, r->pid_max);
    if (spare)
        return make_child(CLONE_PARENT, spare);
    errno = ERANGE;
    return -1;
}

static int own_proc(struct err *err)
{
    if (mount("none", "/", NULL, MS_REC | MS_SLAVE, NULL) < 0)
        return err_errno(err, "mounts of a new mount namespace");
    if (mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
        return err_errno(err, "/proc of the new pid namespace");
    return 0;
}

/* In the process that is to be the driver. The keeper is there before: a namespace without its first is dead. */
static int enter_pidns(struct restore *r, struct err *err)
{
    int ready[2];
    pid_t pid;

    if (pipe2(ready, O_CLOEXEC) < 0)
        return err_errno(err, "pipe");
    pid = make_child(CLONE_PARENT, 0);
    if (pid == 0) {
        close(ready[1]);
        keeper(ready[0]);
    }
    close(ready[0]);
    if (pid < 0)
        return err_errno(err, "the first process of a new pid namespace");
    pid = make_driver(r);
    if (pid < 0)
        return err_errno(err, errno == ERANGE ? "pids above this kernel's kernel.pid_max" : "making the driver");
    if (pid > 0)
        _exit(0);
    if (own_proc(err) < 0)
        return -err->code;
    close(ready[1]);
    return 0;
}

int namespaces_enter(struct restore *r, struct err *err)
{
    int flags = (r->new_pidns ? CLONE_NEWPID | CLONE_NEWNS : 0) | (r->new_timens ? CLONE_NEWTIME : 0);

    if (!flags)
        return 0;
    if (r->new_userns && enter_userns(err) < 0)
        return -err->code;
    if (unshare(flags) < 0)
        return err_errno(err, "new namespaces");
    if (r->new_timens && set_clocks(r, err) < 0)
        return -err->code;
    return r->new_pidns ? enter_pidns(r, err) : 0;
}
