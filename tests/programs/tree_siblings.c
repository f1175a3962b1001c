/*
 * Two processes that share their descriptors (CLONE_FILES) and are no parent and child: a third one is the parent of both
 * (CLONE_PARENT). That is refused, and they share them still.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/programs/check.h"

static _Noreturn void sibling(void)
{
    pid_t pid;
    int fds[2], fd = -1;
    char c = 0;

    MUST(pipe(fds));
    pid = (pid_t)MUST(syscall(SYS_clone, CLONE_FILES | CLONE_PARENT | SIGCHLD, 0, 0, 0, 0));
    if (pid == 0) {
        check_idle();
        fd = open("/dev/null", O_RDONLY);
        _exit(write(fds[1], "x", 1) != 1 || fd < 0);
    }
    check_idle();
    check_num(1, read(fds[0], &c, 1), "byte of the other one");
    if (check_broken())
        close(fds[1] + 1);
    check_true(fcntl(fds[1] + 1, F_GETFD) >= 0, "what the other one has opened: %s", "closed");
    _exit(check_status());
}

int main(int argc, char **argv)
{
    pid_t pid;
    int status;

    check_init(argc, argv);
    pid = (pid_t)MUST(fork());
    if (pid == 0)
        sibling();
    check_sleep(0.05);
    check_wait();
    while (wait(&status) > 0)
        check_num(0, status, "status of a child");
    check_num(ECHILD, errno, "errno of wait(2) at the end");
    return check_end();
}
