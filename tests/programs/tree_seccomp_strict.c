/*
 * A seccomp filter that kills the process for every call that it does not need: what is done to the process
 * at a checkpoint must not be held against it. Nor may it see restart_syscall(2), by which the kernel has a sleep go on.
 */
#include "tests/programs/seccomp.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

int main(int argc, char **argv)
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
        ON(SYS_exit_group, SECCOMP_RET_ALLOW),
        ON(SYS_getpid, SECCOMP_RET_ERRNO | 77),
        OTHERWISE(SECCOMP_RET_KILL_PROCESS),
    };
    unsigned char memory[4096];

    check_init(argc, argv);
    check_fill(memory, sizeof(memory), 1);
    INSTALL_FILTER(filter);

    check_wait();

    if (check_broken())
        memory[5] ^= 1;
    check_filled(memory, sizeof(memory), 1, "memory");
    check_num(-1, syscall(SYS_getpid), "getpid(), which the filter forbids");
    _exit(check_end());
}
