/*
 * Namespaces. A restart puts all processes into those of dmtcp_restart, or into new ones that all of them
 * share. A process that has left those of the computation (a sandbox, a container) would find itself in
 * another network, with other pids, mounts or rights than it knows, so it is refused.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/util.h"
#include "tracer/collect.h"
#include "tracer/procfs.h"

static const struct {
    const char *link, *what;
} kinds[] = {
    {"user", "a user namespace"},
    {"pid", "a pid namespace"},
    {"pid_for_children", "a pid namespace for its children"},
    {"net", "a network namespace"},
    {"ipc", "an IPC namespace"},
    {"uts", "a UTS namespace"},
    {"cgroup", "a control group namespace"},
};

struct own {
    char text[ARRAY_SIZE(kinds)][40]; /* "net:[4026531840]"; empty: unknown */
    char mnt[40], time[2][40];
};

static void read_link(int dir, const char *name, char *text, size_t size)
{
    ssize_t n = readlinkat(dir, name, text, size - 1);

    text[n > 0 ? n : 0] = '\0';
}

static void read_own(struct own *o, pid_t pid)
{
    _cleanup_close_ int dir = -1;
    char path[32];

    *o = (struct own){0};
    snprintf(path, sizeof(path), "/proc/%d/ns", pid);
    dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0)
        return;
    for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
        read_link(dir, kinds[i].link, o->text[i], sizeof(o->text[i]));
    read_link(dir, "mnt", o->mnt, sizeof(o->mnt));
    read_link(dir, "time", o->time[0], sizeof(o->time[0]));
    read_link(dir, "time_for_children", o->time[1], sizeof(o->time[1]));
}

static bool differs(const char *a, const char *b)
{
    return *a && *b && strcmp(a, b) != 0;
}

/* Device, root and place of a mount: fields 3 to 5 of a line of mountinfo, which is cut behind them. */
static char *mount_key(char *line)
{
    char *end;

    for (int i = 0; line && i < 2; i++) {
        line = strchr(line, ' ');
        line += line ? 1 : 0;
    }
    end = line;
    for (int i = 0; end && i < 3; i++)
        end = strchr(end + 1, ' ');
    if (end)
        *end = 0;
    return line;
}

static int by_key(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* What is mounted, in an order that depends on that only: the copy of a namespace lists its mounts in another one. text is
 * changed, and pointed into. */
static size_t list_mounts(char *text, char ***mounts)
{
    size_t n = 0, cap = 0;
    char *save;

    *mounts = NULL;
    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        char *key = mount_key(line);
        char **more = key ? grow(*mounts, n, &cap, sizeof(*more)) : NULL;
        if (!more)
            continue;
        *mounts = more;
        more[n++] = key;
    }
    if (n)
        qsort(*mounts, n, sizeof(**mounts), by_key);
    return n;
}

/* A mount namespace of its own does no harm as long as the same is mounted in it. */
static bool same_mounts(pid_t pid)
{
    _cleanup_free_ char *ours = NULL, *theirs = NULL;
    _cleanup_free_ char **a = NULL, **b = NULL;
    struct err ignored;
    size_t n, i = 0;

    if (read_proc(&ours, NULL, &ignored, "%d/mountinfo", getpid()) < 0 ||
        read_proc(&theirs, NULL, &ignored, "%d/mountinfo", pid) < 0)
        return true;
    n = list_mounts(ours, &a);
    if (list_mounts(theirs, &b) != n)
        return false;
    while (i < n && strcmp(a[i], b[i]) == 0)
        i++;
    return i == n;
}

static const char *own_namespace(const struct own *ours, const struct proc *p)
{
    struct own theirs;

    read_own(&theirs, proc_task(p));
    for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
        if (differs(ours->text[i], theirs.text[i]))
            return kinds[i].what;
    /* The driver of a restart that made one for the clocks is not in it itself. */
    if (differs(ours->time[0], theirs.time[0]) && differs(ours->time[1], theirs.time[0]))
        return "a time namespace";
    if (differs(ours->mnt, theirs.mnt) && !same_mounts(proc_task(p)))
        return "a mount namespace with other mounts";
    return NULL;
}

int refuse_namespaces(struct ckpt *c, struct err *err)
{
    struct own ours;
    const char *what;

    read_own(&ours, getpid());
    for (size_t i = 0; i < c->nprocs; i++) {
        const struct proc *p = c->procs[i];
        if (!p->zombie && (what = own_namespace(&ours, p)))
            return err_set(err, EOPNOTSUPP, "process %d (%.*s) is in %s of its own, which can't be saved",
                           p->pid, (int)p->process->comm.len, (const char *)p->process->comm.data, what);
    }
    return 0;
}
