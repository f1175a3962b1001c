/*
 * A process with another root directory, and one whose working directory is outside of its root.
 */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"

static void jailed(int up, int down, bool stay_outside)
{
    char cwd[600] = "", cwd_after[600] = "", c;

    MUST(chdir(stay_outside ? "/usr" : check_dir()));
    MUST(chroot(check_dir()));
    check_set_dir("");
    if (!stay_outside)
        MUST(chdir("/jail"));
    /* not getcwd(): it refuses to tell of a directory outside of the root */
    MUST(syscall(79 /* SYS_getcwd */, cwd, sizeof(cwd)));
    MUST(write(up, "x", 1));
    check_idle();
    MUST(read(down, &c, 1)); /* until the parent has looked from outside */
    if (check_broken())
        MUST(chdir("/"));
    MUST(syscall(79, cwd_after, sizeof(cwd_after)));
    check_str(cwd, cwd_after, "working directory as getcwd() has it");
    check_num(0, access("/mark", F_OK), "access() to a file by its name in the new root");
    check_num(stay_outside ? 0 : -1, access("bin", F_OK), "access() to a directory by its name in the working directory");
    _exit(check_status());
}

int main(int argc, char **argv)
{
    char root[2][600] = {"", ""}, after[600], path[64];
    pid_t pids[2];
    int up[2], down[2], i;
    char c;

    check_init(argc, argv);
    if (geteuid() != 0)
        check_skip("only root can change its root");
    MUST(mkdir(check_path("jail"), 0755));
    check_spit(check_path("mark"), "x", 1);
    MUST(pipe(up));
    MUST(pipe(down));
    for (i = 0; i < 2; i++) {
        pids[i] = (pid_t)MUST(fork());
        if (pids[i] == 0)
            jailed(up[1], down[0], i == 1);
        MUST(read(up[0], &c, 1));
        snprintf(path, sizeof(path), "/proc/%d/root", pids[i]);
        MUST(readlink(path, root[i], sizeof(root[i]) - 1));
    }
    check_str(check_dir(), root[0], "root that was just set");

    check_wait();

    for (i = 0; i < 2; i++) {
        memset(after, 0, sizeof(after));
        snprintf(path, sizeof(path), "/proc/%d/root", pids[i]);
        MUST(readlink(path, after, sizeof(after) - 1));
        check_str(root[i], after, "root directory");
    }
    MUST(write(down[1], "xx", 2));
    for (i = 0; i < 2; i++)
        check_child(pids[i], i ? "process outside of its root" : "process with another root");
    return check_end();
}
