/*
 * Seccomp filters, one on top of the other, the last two in one thread only. They still decide as they did, and new
 * children have them too. One forbids seccomp(2), by which the next would be installed had it not been by prctl(2).
 */
#include "tests/programs/seccomp.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>

static void probe(const char *who, int acct, int swapoff, int quotactl)
{
    /* Calls with arguments that never succeed, so it does not matter much if the filter is gone. */
    errno = 0;
    syscall(SYS_acct, "/nonexistent/dir/file");
    check_num(acct, errno, "%s: errno of acct", who);
    errno = 0;
    syscall(SYS_swapoff, "/nonexistent/dir/file");
    check_num(swapoff, errno, "%s: errno of swapoff", who);
    errno = 0;
    syscall(SYS_quotactl, ~0u, "/nonexistent/dir/file", 0, NULL);
    check_num(quotactl, errno, "%s: errno of quotactl", who);
}

static void *thread(void *arg)
{
    struct sock_filter third[] = {LOAD_NUMBER, ON(SYS_seccomp, FAIL_WITH(ENOSPC)), OTHERWISE(SECCOMP_RET_ALLOW)};
    struct sock_filter fourth[] = {LOAD_NUMBER, ON(SYS_quotactl, FAIL_WITH(ENOTTY)), OTHERWISE(SECCOMP_RET_ALLOW)};
    struct sock_fprog prog = {sizeof(fourth) / sizeof(fourth[0]), fourth};

    INSTALL_FILTER(third);
    MUST(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog));
    __atomic_store_n((int *)arg, 1, __ATOMIC_SEQ_CST);
    check_idle();
    probe("thread with more filters", EDOM, EXDEV, ENOTTY);
    errno = 0;
    syscall(SYS_seccomp, ~0u, 0, NULL);
    check_num(ENOSPC, errno, "thread with more filters: errno of seccomp");
    return NULL;
}

int main(int argc, char **argv)
{
    struct sock_filter first[] = {LOAD_NUMBER, ON(SYS_acct, FAIL_WITH(ERANGE)), ON(SYS_swapoff, FAIL_WITH(EXDEV)),
                                  OTHERWISE(SECCOMP_RET_ALLOW)};
    struct sock_filter second[] = {LOAD_NUMBER, ON(SYS_acct, FAIL_WITH(EDOM)), OTHERWISE(SECCOMP_RET_ALLOW)};
    char before[64], filters[64];
    int quotactl, up = 0;
    pthread_t other;
    pid_t pid;

    check_init(argc, argv);
    INSTALL_FILTER(first);
    INSTALL_FILTER(second);
    errno = 0;
    syscall(SYS_quotactl, ~0u, "/nonexistent/dir/file", 0, NULL);
    quotactl = errno;
    probe("before", EDOM, EXDEV, quotactl);
    pthread_create(&other, NULL, thread, &up);
    while (!__atomic_load_n(&up, __ATOMIC_SEQ_CST))
        check_sleep(0.002);
    check_status_line("self", "Seccomp_filters", before, sizeof(before));

    check_wait();

    if (check_broken())
        INSTALL_FILTER(second);
    check_str(before, check_status_line("self", "Seccomp_filters", filters, sizeof(filters)), "number of filters");
    probe("main thread", EDOM, EXDEV, quotactl);
    pthread_join(other, NULL);
    pid = (pid_t)MUST(fork());
    if (pid == 0) {
        probe("new child", EDOM, EXDEV, quotactl);
        _exit(check_status());
    }
    check_child(pid, "new child");
    return check_end();
}
