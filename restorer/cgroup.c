/*
 * Control groups. What the roots were in is the business of whoever starts programs, so it is dmtcp_restart's
 * own groups now; a process that was elsewhere than its root was put there by the program, and goes there again.
 * Before memory is filled: it is charged to the group.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/log.h"
#include "base/util.h"
#include "restorer/core.h"

struct line {
    const char *controllers, *path;
    int controllers_len, path_len;
};

/* The next "ID:CONTROLLERS:PATH" of /proc/PID/cgroup. */
static bool next_line(const char **at, const char *end, struct line *l)
{
    const char *nl, *c1, *c2;

    for (; *at < end; *at = nl + 1) {
        nl = memchr(*at, '\n', (size_t)(end - *at));
        if (!nl)
            return false;
        c1 = memchr(*at, ':', (size_t)(nl - *at));
        c2 = c1 ? memchr(c1 + 1, ':', (size_t)(nl - c1 - 1)) : NULL;
        if (!c2 || nl - c2 > PATH_MAX / 2)
            continue;
        *l = (struct line){c1 + 1, c2 + 1, (int)(c2 - c1 - 1), (int)(nl - c2 - 1)};
        *at = nl + 1;
        return true;
    }
    return false;
}

static bool find_line(const ProtobufCBinaryData *text, const struct line *like, struct line *out)
{
    const char *at = (const char *)text->data, *end = at + text->len;

    while (at && next_line(&at, end, out))
        if (out->controllers_len == like->controllers_len &&
            !memcmp(out->controllers, like->controllers, (size_t)like->controllers_len))
            return true;
    return false;
}

/*
 * Where the hierarchy is mounted: a line of /proc/self/mountinfo is "ID PARENT DEV ROOT POINT OPTIONS… - TYPE SOURCE
 * SUPEROPTIONS"; the super options of a version 1 hierarchy end with its controllers.
 */
static bool mount_point(const char *mountinfo, const struct line *l, char *point, size_t size)
{
    for (const char *line = mountinfo; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
        char root[1024], at[1024], type[32], super[512];
        const char *dash = strstr(line, " - ");

        if (!dash || sscanf(line, "%*d %*d %*s %1023s %1023s", root, at) != 2 ||
            sscanf(dash + 3, "%31s %*s %511s", type, super) != 2 || strcmp(root, "/") != 0)
            continue;
        if (l->controllers_len == 0 && strcmp(type, "cgroup2") != 0)
            continue;
        if (l->controllers_len > 0) {
            size_t n = strlen(super), c = (size_t)l->controllers_len;
            if (strcmp(type, "cgroup") != 0 || n < c || memcmp(super + n - c, l->controllers, c) != 0 ||
                (n > c && super[n - c - 1] != ','))
                continue;
        }
        snprintf(point, size, "%s", at);
        return true;
    }
    return false;
}

static int make_group(char *path, size_t from)
{
    for (char *p = path + from + 1; *p; p++) {
        if (*p != '/')
            continue;
        *p = '\0';
        mkdir(path, 0755);
        *p = '/';
    }
    return mkdir(path, 0755) < 0 && errno != EEXIST ? -errno : 0;
}

static int join(const struct rproc *p, const char *mountinfo, const struct line *l, struct err *err)
{
    char path[PATH_MAX], point[1024], pid[16];
    size_t n;

    if (!mount_point(mountinfo, l, point, sizeof(point)))
        return err_set(err, ENOENT, "process %d: the hierarchy of its control group %.*s is not mounted here", p->pid,
                       l->path_len, l->path);
    n = strlen(point);
    snprintf(path, sizeof(path), "%s%.*s", point, l->path_len, l->path);
    make_group(path, n);
    n = strlen(path);
    snprintf(path + n, sizeof(path) - n, "/cgroup.procs");
    snprintf(pid, sizeof(pid), "%d", p->inj.pid);
    _cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write_full(fd, pid, strlen(pid)) < 0)
        return err_errno(err, "process %d: its control group %s", p->pid, path);
    return 0;
}

static const Process *root_of(const struct restore *r, const struct rproc *p)
{
    while (p->parent)
        p = p->parent;
    for (size_t i = 0; !p->process->is_root && i < r->nprocs; i++)
        if (r->procs[i].process->is_root)
            return r->procs[i].process;
    return p->process;
}

static int restore_one(const struct restore *r, const struct rproc *p, char **mountinfo, struct err *err)
{
    const ProtobufCBinaryData *theirs = &root_of(r, p)->cgroup, *own = &p->process->cgroup;
    const char *at = (const char *)own->data, *end = at + own->len;
    struct line l, m;

    if (own->len == theirs->len && (!own->len || !memcmp(own->data, theirs->data, own->len)))
        return 0;
    if (!*mountinfo && read_proc(mountinfo, NULL, err, "self/mountinfo") < 0)
        return -err->code;
    while (next_line(&at, end, &l)) {
        if (find_line(theirs, &l, &m) && m.path_len == l.path_len && !memcmp(m.path, l.path, (size_t)l.path_len))
            continue;
        if (l.path_len >= 10 && !memcmp(l.path + l.path_len - 10, " (deleted)", 10)) {
            log_note("process %d: its control group had been removed", p->pid);
            continue;
        }
        if (join(p, *mountinfo, &l, err) < 0)
            return -err->code;
    }
    return 0;
}

int cgroups_restore(struct restore *r, struct err *err)
{
    _cleanup_free_ char *mountinfo = NULL;

    for (size_t i = 0; i < r->nprocs; i++)
        if (r->procs[i].alive && r->procs[i].process->state != 1 && restore_one(r, &r->procs[i], &mountinfo, err) < 0)
            return -err->code;
    return 0;
}
