/*
 * vfork in progress: a process waits, unkillable by anything but SIGKILL, for its child, which runs in its
 * memory. Afterwards the parent still waits; it goes on when the child exits, or when it executes a program.
 */
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"

struct shared {
    volatile int returned, child_ran;
};

static struct shared memory; /* of the vforking process and its child */

static void child(bool execute, int up)
{
    char *const argv[] = {(char *)"true", NULL};

    memory.child_ran = 1;
    MUST(write(up, "x", 1));
    check_idle();
    if (execute)
        execv("/bin/true", argv);
    _exit(9);
}

/* A process that vforks; vfork() itself must not return into another frame, so it is called here. */
static pid_t start(bool execute, int up[2])
{
    pid_t pid = (pid_t)MUST(fork()), vforked;
    int status = 0;
    char c;

    if (pid) {
        MUST(read(up[0], &c, 1));
        return pid;
    }
    vforked = vfork();
    if (vforked == 0)
        child(execute, up[1]);
    memory.returned = 1;
    check_true(check_go(), "vfork returned before its child was done");
    check_num(1, memory.child_ran, "what the child wrote into the shared memory");
    check_num(vforked, waitpid(vforked, &status, 0), "waitpid of the vforked child");
    check_num(execute ? 0 : check_broken() ? 1 : 9, WEXITSTATUS(status), "exit status of the vforked child");
    _exit(check_status());
}

int main(int argc, char **argv)
{
    pid_t exiting, executing;
    int up[2];

    check_init(argc, argv);
    MUST(pipe(up));
    exiting = start(false, up);
    executing = start(true, up);

    check_wait();

    check_child(exiting, "process whose vforked child exits");
    check_child(executing, "process whose vforked child executes a program");
    return check_end();
}
