/*
 * Pids have wrapped around: a child has a lower pid than the process that everything began with, and a grandchild one
 * between them. The tree has its root, its parents and its statuses all the same.
 */
#include <errno.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/programs/check.h"

/* A fork whose child has the highest free pid below `below`. */
static pid_t fork_below(pid_t below)
{
    for (pid_t pid = below - 1; pid > 300; pid--) {
        struct clone_args ca = {.exit_signal = SIGCHLD, .set_tid = (uint64_t)&pid, .set_tid_size = 1};
        pid_t child = (pid_t)syscall(SYS_clone3, &ca, sizeof(ca));

        if (child >= 0)
            return child;
        if (errno == EPERM)
            check_skip("choosing a pid: %s", strerror(errno));
        if (errno != EEXIST)
            check_die("clone3: %s", strerror(errno));
    }
    check_skip("no pid below %d is free", below);
    return -1;
}

static void verify(pid_t root, pid_t child)
{
    check_num(root, getppid(), "parent of the child");
    check_num(child, getpid(), "pid of the child");
}

int main(int argc, char **argv)
{
    pid_t root = getpid(), child;
    int status = 0;

    check_init(argc, argv);
    child = fork_below(root - 5);
    if (child == 0) {
        pid_t self = getpid(), grandchild = fork_below(root);
        if (grandchild == 0) {
            check_idle();
            _exit(7);
        }
        check_idle();
        verify(root, self);
        check_num(grandchild, waitpid(grandchild, &status, 0), "waitpid of the grandchild");
        check_num(7 << 8, status, "its status");
        _exit(check_status());
    }
    check_wait();
    if (check_broken())
        child++;
    check_num(root, getpid(), "pid");
    check_child(child, "child");
    return check_end();
}
