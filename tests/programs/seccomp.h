/*
 * Small seccomp filters for the test programs.
 */
#ifndef TESTS_PROGRAMS_SECCOMP_H
#define TESTS_PROGRAMS_SECCOMP_H

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests/programs/check.h"

#define LOAD_NUMBER         BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr))
#define ON(number, verdict) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (number), 0, 1), BPF_STMT(BPF_RET | BPF_K, (verdict))
#define OTHERWISE(verdict)  BPF_STMT(BPF_RET | BPF_K, (verdict))
#define FAIL_WITH(error)    (SECCOMP_RET_ERRNO | (error))

static inline void install_filter(struct sock_filter *code, size_t len)
{
    struct sock_fprog prog = {(unsigned short)len, code};

    MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    MUST(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &prog));
}

#define INSTALL_FILTER(code) install_filter((code), sizeof(code) / sizeof((code)[0]))

#endif
