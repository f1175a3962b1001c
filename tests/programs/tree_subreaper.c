/*
 * A subreaper: orphans that it adopted before are its children, and those that lose their parent afterwards
 * become its children too.
 */
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"

/* A child that forks one that ends with `status`; the child itself ends at once or after --go. */
static pid_t start(int status, bool at_once, int up[2])
{
    pid_t pid = (pid_t)MUST(fork()), root = getpid(), orphan;

    if (pid) {
        MUST(read(up[0], &orphan, sizeof(orphan)));
        if (at_once)
            MUST(waitpid(pid, NULL, 0));
        return orphan;
    }
    root = getppid();
    if (MUST(fork()) == 0) {
        pid_t me = getpid();
        int i;

        MUST(write(up[1], &me, sizeof(me)));
        check_idle();
        for (i = 0; i < 2000 && getppid() != root; i++)
            check_sleep(0.005);
        check_num(root, getppid(), "parent of an orphan");
        _exit(check_status() ? 1 : status);
    }
    if (!at_once)
        check_idle();
    _exit(0);
}

int main(int argc, char **argv)
{
    int up[2], is = 0, status, i, sum = 0;
    pid_t adopted, later;

    check_init(argc, argv);
    MUST(pipe(up));
    MUST(prctl(PR_SET_CHILD_SUBREAPER, 1));
    adopted = start(10, true, up);
    later = start(20, false, up);

    check_wait();

    if (check_broken())
        MUST(prctl(PR_SET_CHILD_SUBREAPER, 0));
    MUST(prctl(PR_GET_CHILD_SUBREAPER, &is));
    check_num(1, is, "subreaper flag");
    check_num(adopted, waitpid(adopted, &status, 0), "waitpid of an orphan that was adopted before");
    check_num(10, WEXITSTATUS(status), "its exit status");
    for (i = 0; i < 2; i++) {
        pid_t pid = waitpid(-1, &status, 0);

        if (pid < 0)
            break;
        sum += pid == later ? WEXITSTATUS(status) : 1;
    }
    check_num(21, sum, "children that ended after they were adopted now");
    return check_end();
}
