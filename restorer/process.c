/*
 * What belongs to a process as a whole and is neither memory nor descriptors: directories, limits and the
 * attributes that prctl(2) and /proc set.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/prctl.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "base/log.h"
#include "base/util.h"
#include "restorer/core.h"

#define DELETED " (deleted)"

static char *text_of(const ProtobufCBinaryData *b)
{
    return format("%.*s", (int)b->len, b->data ? (const char *)b->data : "");
}

/* A directory that was removed while it was somebody's: made under its name, if that is free, and removed again. */
static int open_removed(char *path, struct err *err)
{
    int fd;

    path[strlen(path) - strlen(DELETED)] = '\0';
    if (mkdir(path, 0700) < 0)
        return err_errno(err, "its directory %s had been removed, and cannot be made for the moment", path);
    fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        err_errno(err, "%s", path);
    rmdir(path);
    return fd < 0 ? -err->code : fd;
}

/* Entered by name in the process, so that it counts as entered by it; one that was removed, through the driver. */
static int add_cwd(struct rproc *p, struct inj_batch *b, char *path, struct err *err)
{
    size_t n = strlen(path), d = strlen(DELETED);
    _cleanup_close_ int fd = -1;
    int remote;

    if (n <= d || strcmp(path + n - d, DELETED) != 0 || access(path, F_OK) == 0) {
        inj_call(b, BLOB_MUST, SYS_chdir, inj_str(b, path));
        return 0;
    }
    fd = open_removed(path, err);
    if (fd < 0 || inj_send_fds(&p->inj, &fd, &remote, 1, err) < 0)
        return -err->code;
    inj_call(b, BLOB_MUST, SYS_fchdir, remote);
    inj_call(b, BLOB_MUST, SYS_close, remote);
    return 0;
}

/* The directory first: its name is that outside the new root. */
static int add_paths(struct rproc *p, struct inj_batch *b, struct err *err)
{
    const Process *m = p->process;
    _cleanup_free_ char *cwd = text_of(&m->cwd), *root = text_of(&m->root);

    if (!cwd || !root)
        return err_set(err, ENOMEM, "out of memory");
    if (*cwd && add_cwd(p, b, cwd, err) < 0)
        return -err->code;
    if (*root && strcmp(root, "/") != 0)
        inj_call(b, BLOB_MUST, SYS_chroot, inj_str(b, root));
    inj_call(b, 0, SYS_umask, m->umask);
    return 0;
}

void process_add_limits(const struct rproc *p, struct inj_batch *b)
{
    const Process *m = p->process;

    for (size_t i = 0; i < m->n_rlimits; i++) {
        struct rlimit lim = {.rlim_cur = m->rlimits[i]->cur, .rlim_max = m->rlimits[i]->max};
        inj_call(b, BLOB_MUST, SYS_prlimit64, 0, m->rlimits[i]->resource, inj_data(b, &lim, sizeof(lim)), 0);
    }
}

/* A value in /proc/PID that a skeleton has from the driver: written only if it is to be another. */
static void write_proc(const struct rproc *p, const char *what, const char *fmt, long value, int base)
{
    _cleanup_free_ char *now = NULL;
    char path[64], text[24];
    struct err ignored;
    int r = -EIO;

    if (read_proc(&now, NULL, &ignored, "%d/%s", p->inj.pid, what) == 0 && strtol(now, NULL, base) == value)
        return;
    snprintf(path, sizeof(path), "/proc/%d/%s", p->inj.pid, what);
    snprintf(text, sizeof(text), fmt, value);
    _cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd >= 0)
        r = write_full(fd, text, strlen(text));
    if (r < 0)
        log_warn("process %d: %s cannot be set to %s", p->pid, what, text);
}

/* Before threads are made: they inherit the personality. */
int process_setup(struct restore *r, struct rproc *p, struct err *err)
{
    _cleanup_batch_ struct inj_batch b = {0};
    const Process *m = p->process;

    write_proc(p, "oom_score_adj", "%ld", m->oom_score_adj, 10);
    if (m->coredump_filter && !p->own_mm)
        write_proc(p, "coredump_filter", "%#lx", m->coredump_filter, 16);
    if (inj_begin(&b, &p->inj, err) < 0)
        return -err->code;
    if ((!m->fs_owner || m->fs_owner == p->pid) && add_paths(p, &b, err) < 0)
        return err_wrap(err, "process %d", p->pid);
    inj_call(&b, BLOB_MUST, SYS_personality, m->personality);
    if (m->child_subreaper)
        inj_call(&b, BLOB_MUST, SYS_prctl, PR_SET_CHILD_SUBREAPER, 1);
    if (m->thp_disable)
        inj_call(&b, BLOB_MUST, SYS_prctl, PR_SET_THP_DISABLE, 1, m->thp_disable & ~1u);
    signals_add_drain(&b);
    return run_batch(&b, "its directories and attributes", err);
}
