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

/* Device, root and place of a mount: fields 3 to 5 of a line of mountinfo, at *line, which is moved to the
 * next. */
static size_t next_mount(const char **line, const char **start)
{
    const char *p = *line, *end;

    for (int i = 0; p && i < 2; i++)
        p = strchr(p, ' ') ? strchr(p, ' ') + 1 : NULL;
    end = *start = p;
    for (int i = 0; end && i < 3; i++)
        end = strchr(end + 1, ' ');
    *line = end ? strchr(end, '\n') : NULL;
    *line += *line ? 1 : 0;
    return end ? (size_t)(end - p) : 0;
}

/* A mount namespace of its own does no harm as long as the same is mounted in it. */
static bool same_mounts(pid_t pid)
{
    _cleanup_free_ char *ours = NULL, *theirs = NULL;
    const char *a, *b, *pa, *pb;
    struct err ignored;
    size_t la, lb;

    if (read_proc(&ours, NULL, &ignored, "%d/mountinfo", getpid()) < 0 ||
        read_proc(&theirs, NULL, &ignored, "%d/mountinfo", pid) < 0)
        return true;
    a = ours;
    b = theirs;
    do {
        la = a ? next_mount(&a, &pa) : 0;
        lb = b ? next_mount(&b, &pb) : 0;
    } while (la && la == lb && memcmp(pa, pb, la) == 0);
    return !la && !lb;
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
