/*
 * vfork in progress whose child has a seccomp filter that kills it for all that it does not need (a sandbox, set up
 * before the program is executed), and one whose parent has a filter too.
 */
#include "tests/programs/seccomp.h"

#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>

static volatile int child_ran;

static void confine(void)
{
    struct sock_filter filter[] = {
        LOAD_NUMBER,
        ON(SYS_read, SECCOMP_RET_ALLOW),
        ON(SYS_write, SECCOMP_RET_ALLOW),
        ON(SYS_openat, SECCOMP_RET_ALLOW),
        ON(SYS_close, SECCOMP_RET_ALLOW),
        ON(SYS_access, SECCOMP_RET_ALLOW),
        ON(SYS_faccessat, SECCOMP_RET_ALLOW),
        ON(SYS_clock_gettime, SECCOMP_RET_ALLOW),
        ON(SYS_nanosleep, SECCOMP_RET_ALLOW),
        ON(SYS_clock_nanosleep, SECCOMP_RET_ALLOW),
        ON(SYS_restart_syscall, SECCOMP_RET_ALLOW),
        ON(SYS_execve, SECCOMP_RET_ALLOW),
        ON(SYS_exit_group, SECCOMP_RET_ALLOW),
        ON(SYS_getpid, FAIL_WITH(77)),
        OTHERWISE(SECCOMP_RET_KILL_PROCESS),
    };

    INSTALL_FILTER(filter);
}

/* What a parent may well have: it forbids something. */
static void restrain(void)
{
    struct sock_filter filter[] = {LOAD_NUMBER, ON(SYS_getpgid, FAIL_WITH(78)), OTHERWISE(SECCOMP_RET_ALLOW)};

    INSTALL_FILTER(filter);
}

static void child(int up)
{
    confine();
    child_ran = 1;
    MUST(write(up, "x", 1));
    check_idle();
    _exit(syscall(SYS_getpid) == -1 ? 9 : 8);
}

static pid_t start(bool restrained, int up[2])
{
    pid_t pid = (pid_t)MUST(fork()), vforked;
    int status = 0;
    char c;

    if (pid) {
        MUST(read(up[0], &c, 1));
        return pid;
    }
    if (restrained)
        restrain();
    vforked = vfork();
    if (vforked == 0)
        child(up[1]);
    check_true(check_go(), "vfork returned before its child was done");
    check_num(1, child_ran, "what the child wrote into the shared memory");
    check_num(vforked, waitpid(vforked, &status, 0), "waitpid of the vforked child");
    check_num(check_broken() ? 1 : 9 << 8, status, "status of the vforked child, which has a filter");
    check_true(getppid() > 0, "the parent has not the child's filter");
    check_num(restrained ? -1 : getpgrp(), getpgid(0), "what the parent's filter forbids");
    _exit(check_status());
}

int main(int argc, char **argv)
{
    pid_t free_parent, restrained;
    int up[2];

    check_init(argc, argv);
    MUST(pipe(up));
    free_parent = start(false, up);
    restrained = start(true, up);

    check_wait();

    check_child(free_parent, "process whose vforked child has a filter");
    check_child(restrained, "process that has a filter itself");
    return check_end();
}
