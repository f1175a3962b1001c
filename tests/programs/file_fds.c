/*
 * Nothing of ours is visible inside: the same descriptors, also after closefrom(), with a full descriptor
 * table; the same threads, children, mappings, environment, signal handlers and pending signals, in every
 * process; no descriptor leaks into a new child.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"
#include "tests/programs/maps.h"

struct view {
    char fds[16384], tasks[4096], environ[16384], maps[MAPS_SIZE];
    char cgt[64], ign[64], blk[64], pnd[64], shd[64], threads[64], tracer[64];
};

static struct view before, after;

/* A directory of /proc/self as a sorted list of numbers with link targets; our own descriptor left out. */
static void list(const char *path, bool links, char *text, size_t size)
{
    int fd = (int)MUST(open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)), n = 0, i, j;
    static int numbers[2048];
    DIR *dir = fdopendir(fd);
    struct dirent *d;
    size_t len = 0;

    if (!dir)
        check_die("fdopendir");
    while ((d = readdir(dir)) && n < 2048)
        if (d->d_name[0] != '.' && (!links || atoi(d->d_name) != fd))
            numbers[n++] = atoi(d->d_name);
    closedir(dir);
    for (i = 1; i < n; i++)
        for (j = i; j > 0 && numbers[j - 1] > numbers[j]; j--) {
            int t = numbers[j];

            numbers[j] = numbers[j - 1];
            numbers[j - 1] = t;
        }
    text[0] = 0;
    for (i = 0; i < n && len + 400 < size; i++) {
        char link[64], target[300] = "";

        snprintf(link, sizeof(link), "%s/%d", path, numbers[i]);
        /* a pipe has another number afterwards: that can't be kept */
        if (links && readlink(link, target, sizeof(target) - 1) > 0 && strchr(target, '['))
            *strchr(target, '[') = 0;
        /* standard streams lead elsewhere after a restart */
        if (links && numbers[i] < 3)
            target[0] = 0;
        len += (size_t)snprintf(text + len, size - len, "%d %s\n", numbers[i], target);
    }
}

static void look(struct view *v)
{
    list("/proc/self/fd", true, v->fds, sizeof(v->fds));
    list("/proc/self/task", false, v->tasks, sizeof(v->tasks));
    check_slurp("/proc/self/environ", v->environ, sizeof(v->environ));
    check_status_line("self", "SigCgt", v->cgt, sizeof(v->cgt));
    check_status_line("self", "SigIgn", v->ign, sizeof(v->ign));
    check_status_line("self", "SigBlk", v->blk, sizeof(v->blk));
    check_status_line("self", "SigPnd", v->pnd, sizeof(v->pnd));
    check_status_line("self", "ShdPnd", v->shd, sizeof(v->shd));
    check_status_line("self", "Threads", v->threads, sizeof(v->threads));
    check_status_line("self", "TracerPid", v->tracer, sizeof(v->tracer));
    maps_snapshot(v->maps, sizeof(v->maps));
}

static void check_child_sees(void)
{
    pid_t pid = (pid_t)MUST(fork());

    if (pid == 0) {
        closefrom(3);
        list("/proc/self/fd", true, after.fds, sizeof(after.fds));
        check_text("0 \n1 \n2 \n", after.fds, "descriptors of a new child after closefrom(3)");
        _exit(check_status());
    }
    check_child(pid, "new child");
}

int main(int argc, char **argv)
{
    struct rlimit limit;
    int pipes[2], count = 0;
    char **e;

    check_init(argc, argv);
    closefrom(3);
    MUST(open("/dev/null", O_RDONLY));
    MUST(pipe(pipes));
    MUST(dup2(0, 60));
    MUST(getrlimit(RLIMIT_NOFILE, &limit));
    limit.rlim_cur = 64;
    MUST(setrlimit(RLIMIT_NOFILE, &limit));
    /* the table full but for the two descriptors that this program needs to look */
    while (dup(0) >= 0)
        count++;
    close(62);
    close(63);
    look(&before);
    look(&before); /* what the first look left behind (a heap) is there now */
    for (e = environ; *e; e++)
        if (strstr(*e, "LD_PRELOAD"))
            check_fail("environment: %s", *e);

    check_wait();

    if (check_broken())
        MUST(dup2(0, 62));
    look(&after);
    check_text(before.fds, after.fds, "/proc/self/fd");
    check_text(before.tasks, after.tasks, "/proc/self/task");
    check_mem(before.environ, after.environ, sizeof(before.environ), "/proc/self/environ");
    check_str(before.cgt, after.cgt, "SigCgt");
    check_str(before.ign, after.ign, "SigIgn");
    check_str(before.blk, after.blk, "SigBlk");
    check_str(before.pnd, after.pnd, "SigPnd");
    check_str(before.shd, after.shd, "ShdPnd");
    check_str(before.threads, after.threads, "Threads");
    check_str("0", after.tracer, "TracerPid");
    check_text(before.maps, after.maps, "memory map");
    check_num(-1, waitpid(-1, NULL, WNOHANG), "waitpid() without children");
    check_num(ECHILD, errno, "errno of that");
    close(61);
    check_child_sees();
    return check_end();
}
