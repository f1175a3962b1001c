/*
 * What a process of any user may set on itself: resource limits, umask, working directory (one deleted, one
 * renamed), oom_score_adj, core dump filter, no_new_privs, transparent huge pages off, dumpable as it is.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"

struct attr {
    struct rlimit limits[RLIMIT_NLIMITS];
    unsigned mask;
    char cwd[600], oom[32], filter[32], nnp[32], thp[32];
    long dumpable, thp_off;
    struct stat cwd_stat;
};

static void look(struct attr *a)
{
    int i;

    memset(a, 0, sizeof(*a));
    for (i = 0; i < RLIMIT_NLIMITS; i++)
        MUST(getrlimit((__rlimit_resource_t)i, &a->limits[i]));
    a->mask = umask(0);
    umask((mode_t)a->mask);
    MUST(readlink("/proc/self/cwd", a->cwd, sizeof(a->cwd) - 1));
    MUST(stat(".", &a->cwd_stat));
    check_slurp("/proc/self/oom_score_adj", a->oom, sizeof(a->oom));
    check_slurp("/proc/self/coredump_filter", a->filter, sizeof(a->filter));
    check_status_line("self", "NoNewPrivs", a->nnp, sizeof(a->nnp));
    a->dumpable = MUST(prctl(PR_GET_DUMPABLE));
    a->thp_off = MUST(prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0));
}

static void lower(__rlimit_resource_t resource, rlim_t soft, rlim_t hard)
{
    struct rlimit limit;

    MUST(getrlimit(resource, &limit));
    if (hard < limit.rlim_max)
        limit.rlim_max = hard;
    limit.rlim_cur = soft < limit.rlim_max ? soft : limit.rlim_max;
    MUST(setrlimit(resource, &limit));
}

/* The address space and the number of descriptors as good as used up: nothing may need much of either. */
static void set_limits(void)
{
    char text[64];
    long kib = 0;

    check_status_line("self", "VmSize", text, sizeof(text));
    if (sscanf(text, "%ld", &kib) != 1)
        check_die("VmSize: %s", text);
    lower(RLIMIT_AS, (rlim_t)kib * 1024 + 256 * 1024, RLIM_INFINITY);
    lower(RLIMIT_NOFILE, 20, 1000);
    lower(RLIMIT_CORE, 0, 1 << 20);
    lower(RLIMIT_CPU, 5000, 6000);
    lower(RLIMIT_DATA, 1ul << 33, 1ul << 34);
    lower(RLIMIT_FSIZE, 1 << 20, 1 << 30);
    lower(RLIMIT_MEMLOCK, 0, 64 << 10);
    lower(RLIMIT_SIGPENDING, 3, 3);
    lower(RLIMIT_STACK, 1 << 20, RLIM_INFINITY);
    lower(RLIMIT_MSGQUEUE, 1000, 2000);
}

static void compare(const struct attr *a, const struct attr *b)
{
    int i;

    for (i = 0; i < RLIMIT_NLIMITS; i++) {
        check_num((long long)a->limits[i].rlim_cur, (long long)b->limits[i].rlim_cur, "soft limit %d", i);
        check_num((long long)a->limits[i].rlim_max, (long long)b->limits[i].rlim_max, "hard limit %d", i);
    }
    check_num(a->mask, b->mask, "umask");
    check_str(a->cwd, b->cwd, "working directory");
    check_num((long long)a->cwd_stat.st_ino, (long long)b->cwd_stat.st_ino, "inode of the working directory");
    check_str(a->oom, b->oom, "oom_score_adj");
    check_str(a->filter, b->filter, "coredump_filter");
    check_str(a->nnp, b->nnp, "no_new_privs");
    check_num(a->dumpable, b->dumpable, "dumpable");
    check_num(a->thp_off, b->thp_off, "PR_GET_THP_DISABLE");
}

static void in_renamed_directory(int up)
{
    struct attr before, after;

    MUST(mkdir(check_path("dir"), 0700));
    MUST(chdir(check_path("dir")));
    MUST(rename(check_path("dir"), check_path("new name")));
    check_spit("file", "here", 4);
    look(&before);
    MUST(write(up, "x", 1));
    check_idle();
    look(&after);
    compare(&before, &after);
    check_num(0, access("file", F_OK), "access() to a file in the renamed directory");
    _exit(check_status());
}

static void in_deleted_directory(int up)
{
    char link[600] = "", name[600];

    MUST(mkdir(check_path("gone"), 0700));
    MUST(chdir(check_path("gone")));
    MUST(rmdir(check_path("gone")));
    MUST(write(up, "x", 1));
    check_idle();
    check_true(getcwd(name, sizeof(name)) == NULL && errno == ENOENT, "getcwd() in a deleted directory gives %s", name);
    MUST(readlink("/proc/self/cwd", link, sizeof(link) - 1));
    check_true(strstr(link, " (deleted)") != NULL, "the deleted working directory is %s", link);
    check_num(-1, open("file", O_CREAT | O_WRONLY, 0600), "creating a file in a deleted directory");
    check_num(0, access(".", R_OK), "access() to the deleted directory itself");
    _exit(check_status());
}

int main(int argc, char **argv)
{
    struct attr before, after;
    pid_t renamed, deleted;
    int up[2];
    char c;

    check_init(argc, argv);
    MUST(pipe(up));
    if ((renamed = (pid_t)MUST(fork())) == 0)
        in_renamed_directory(up[1]);
    MUST(read(up[0], &c, 1));
    if ((deleted = (pid_t)MUST(fork())) == 0)
        in_deleted_directory(up[1]);
    MUST(read(up[0], &c, 1));
    set_limits();
    MUST(mkdir(check_path("sub"), 0755));
    umask(0123);
    MUST(chdir(check_path("sub")));
    check_spit("/proc/self/oom_score_adj", "321", 3);
    check_spit("/proc/self/coredump_filter", "0x1f", 4);
    MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    MUST(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0));
    look(&before);

    check_wait();

    if (check_broken())
        umask(0);
    look(&after);
    compare(&before, &after);
    check_child(renamed, "child in a renamed directory");
    check_child(deleted, "child in a deleted directory");
    return check_end();
}
