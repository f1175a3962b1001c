/* Kernel features, each tried out on ourselves or on a child: see check.h. */
#include "tracer/check.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/perf_event.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/capability.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/util.h"
#include "injector/inject.h"
#include "injector/ptrace.h"

static pid_t sleeper(void)
{
    pid_t pid = fork();

    if (pid == 0) {
        for (;;)
            pause();
    }
    return pid;
}

static void end_child(pid_t pid)
{
    if (pid > 0) {
        kill(pid, SIGKILL);
        waitpid(pid, NULL, __WALL);
    }
}

static bool can_inject(char *why, size_t size)
{
    pid_t pid = sleeper();
    struct err err = {.msg = "fork"};
    struct user_regs_struct regs;
    struct inj inj = {.ctl = -1, .pidfd = -1};
    uint64_t mask;
    int64_t ret = 0;
    int status;
    bool ok = pid > 0 && pt_seize(pid, PTRACE_O_TRACESYSGOOD, &err) == 0 && pt_interrupt(pid, &err) == 0 &&
              pt_wait(pid, &status, &err) == 0 && pt_get_regs(pid, &regs, &err) == 0 &&
              pt_get_sigmask(pid, &mask, &err) == 0 && inj_enter(&inj, pid, pid, &regs, mask, 0, &err) == 0 &&
              inj_syscall(&inj, &ret, &err, SYS_getpid, (uint64_t[6]){0}) == 0 && ret == pid &&
              inj_leave(&inj, &err) == 0;

    inj_close(&inj);
    end_child(pid);
    snprintf(why, size, "%s", ok ? "" : err.msg);
    return ok;
}

static bool can_perf(char *why, size_t size)
{
    struct perf_event_attr a = {.size = sizeof(a), .type = PERF_TYPE_SOFTWARE, .config = PERF_COUNT_SW_DUMMY,
                                .inherit = 1, .task = 1, .exclude_kernel = 1, .exclude_hv = 1};
    int fd = (int)syscall(SYS_perf_event_open, &a, 0, 0, -1, PERF_FLAG_FD_CLOEXEC);

    snprintf(why, size, "%s (kernel.perf_event_paranoid above 2? descendants are then found by walking /proc)",
             fd < 0 ? strerror(errno) : "");
    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

static bool can_scan(char *why, size_t size)
{
    struct { uint64_t w[12]; } arg = {{sizeof(arg)}};
    int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    bool ok = fd >= 0 && (ioctl(fd, _IOWR('f', 16, arg), &arg) >= 0 || errno != ENOTTY);

    snprintf(why, size, "kernel before 6.7: /proc/PID/pagemap is read instead, which is slower");
    if (fd >= 0)
        close(fd);
    return ok;
}

static bool can_kcmp(char *why, size_t size)
{
    long r = syscall(SYS_kcmp, getpid(), getpid(), 1, 0, 0);

    snprintf(why, size, "kcmp(2): %s", r < 0 ? strerror(errno) : "");
    return r == 0;
}

static bool can_userns(char *why, size_t size)
{
    pid_t pid = fork();
    int status = 1;

    if (pid == 0)
        _exit(unshare(CLONE_NEWUSER | CLONE_NEWPID) < 0);
    waitpid(pid, &status, 0);
    snprintf(why, size, "an ordinary user can then restart only where pids may be set");
    return status == 0;
}

static bool has_cap(cap_value_t cap)
{
    cap_t caps = cap_get_proc();
    cap_flag_value_t v = CAP_CLEAR;

    if (caps) {
        cap_get_flag(caps, cap, CAP_EFFECTIVE, &v);
        cap_free(caps);
    }
    return v == CAP_SET;
}

static bool can_set_pids(char *why, size_t size)
{
    snprintf(why, size, "needs root (CAP_CHECKPOINT_RESTORE): a restart uses a new pid namespace instead");
    return has_cap(40) || has_cap(CAP_SYS_ADMIN);
}

static bool can_repair_tcp(char *why, size_t size)
{
    snprintf(why, size, "needs root (CAP_NET_ADMIN): connections that lead outside cannot be kept");
    return has_cap(CAP_NET_ADMIN);
}

static bool can_lift_seccomp(char *why, size_t size)
{
    snprintf(why, size, "needs root (CAP_SYS_ADMIN): programs with seccomp filters are refused");
    return has_cap(CAP_SYS_ADMIN);
}

int print_checks(void)
{
    static const struct {
        const char *what;
        bool (*probe)(char *why, size_t size);
        bool needed;
    } checks[] = {
        {"run system calls in another process (ptrace, pidfd_getfd)", can_inject, true},
        {"tell what processes share (kcmp)", can_kcmp, true},
        {"follow forks exactly (perf events)", can_perf, false},
        {"find touched pages fast (PAGEMAP_SCAN)", can_scan, false},
        {"restore pids in place", can_set_pids, false},
        {"user namespaces", can_userns, false},
        {"programs with seccomp filters", can_lift_seccomp, false},
        {"TCP connections that lead outside (TCP_REPAIR)", can_repair_tcp, false},
    };
    int rc = 0;

    for (size_t i = 0; i < ARRAY_SIZE(checks); i++) {
        char why[600];
        bool ok = checks[i].probe(why, sizeof(why));
        printf("%-8s %s%s%s\n", ok ? "yes" : checks[i].needed ? "MISSING" : "no", checks[i].what, ok ? "" : ": ",
               ok ? "" : why);
        rc |= !ok && checks[i].needed;
    }
    return rc;
}
