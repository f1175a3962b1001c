/*
 * A process in a control group of its own: membership in each hierarchy in which the test could make a group.
 */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"

static const char *const hierarchies[] = {"/sys/fs/cgroup/pids", "/sys/fs/cgroup/freezer", "/sys/fs/cgroup/unified",
                                          "/sys/fs/cgroup"};

#define HIERARCHIES (sizeof(hierarchies) / sizeof(hierarchies[0]))

static char groups[HIERARCHIES][300];

/* The group is named after the directory of this test, so that the test can remove it whatever happens. */
static bool join(unsigned i)
{
    char file[400], copy[512];
    int fd;

    groups[i][0] = 0;
    snprintf(copy, sizeof(copy), "%s", check_dir());
    snprintf(file, sizeof(file), "%s/cgroup.procs", hierarchies[i]);
    if (access(file, W_OK) < 0)
        return false;
    snprintf(groups[i], sizeof(groups[i]), "%s/%s", hierarchies[i], basename(copy));
    if (mkdir(groups[i], 0755) < 0 && errno != EEXIST) {
        groups[i][0] = 0;
        return false;
    }
    snprintf(file, sizeof(file), "%s/cgroup.procs", groups[i]);
    fd = open(file, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, "0", 1) != 1) {
        rmdir(groups[i]);
        groups[i][0] = 0;
        return false;
    }
    close(fd);
    return true;
}

static void member(int up, const char *out)
{
    static char before[8192], after[8192];
    unsigned i;
    char n = 0;

    (void)out;
    for (i = 0; i < HIERARCHIES; i++)
        n = (char)(n + join(i));
    check_slurp("/proc/self/cgroup", before, sizeof(before));
    MUST(write(up, &n, 1));
    check_idle();
    if (check_broken())
        before[3] ^= 1;
    check_slurp("/proc/self/cgroup", after, sizeof(after));
    check_text(before, after, "/proc/self/cgroup");
    _exit(check_status());
}

int main(int argc, char **argv)
{
    char n = 0;
    int up[2];
    pid_t pid;

    check_init(argc, argv);
    MUST(pipe(up));
    pid = (pid_t)MUST(fork());
    if (pid == 0)
        member(up[1], argv[0]);
    MUST(read(up[0], &n, 1));
    if (n == 0) {
        kill(pid, 9);
        check_skip("no control group can be made below /sys/fs/cgroup");
    }

    check_wait();

    check_child(pid, "process in control groups of its own");
    return check_end();
}
