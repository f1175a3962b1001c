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

static int open_dir(char *path, struct err *err)
{
    size_t n = strlen(path), d = strlen(DELETED);
    int fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0 && errno == ENOENT && n > d && !strcmp(path + n - d, DELETED))
        return open_removed(path, err);
    return fd < 0 ? err_errno(err, "its directory %s", path) : fd;
}

static int add_dir(struct rproc *p, struct inj_batch *b, const ProtobufCBinaryData *what, bool root, struct err *err)
{
    _cleanup_free_ char *path = text_of(what);
    _cleanup_close_ int fd = -1;
    int remote;

    if (!path)
        return err_set(err, ENOMEM, "out of memory");
    if (!*path || (root && !strcmp(path, "/")))
        return 0;
    fd = open_dir(path, err);
    if (fd < 0 || inj_send_fds(&p->inj, &fd, &remote, 1, err) < 0)
        return -err->code;
    inj_call(b, BLOB_MUST, SYS_fchdir, remote);
    if (root)
        inj_call(b, BLOB_MUST, SYS_chroot, inj_str(b, "."));
    inj_call(b, BLOB_MUST, SYS_close, remote);
    return 0;
}

int process_paths(struct restore *r, struct rproc *p, struct err *err)
{
    _cleanup_batch_ struct inj_batch b = {0};
    const Process *m = p->process;

    if (m->fs_owner && m->fs_owner != p->pid)
        return 0;
    if (inj_begin(&b, &p->inj, err) < 0)
        return -err->code;
    if (add_dir(p, &b, &m->root, true, err) < 0 || add_dir(p, &b, &m->cwd, false, err) < 0)
        return err_wrap(err, "process %d", p->pid);
    inj_call(&b, 0, SYS_umask, m->umask);
    return run_batch(&b, "its directories", err);
}

int process_limits(struct restore *r, struct rproc *p, struct err *err)
{
    _cleanup_batch_ struct inj_batch b = {0};
    const Process *m = p->process;

    if (inj_begin(&b, &p->inj, err) < 0)
        return -err->code;
    for (size_t i = 0; i < m->n_rlimits; i++) {
        struct rlimit lim = {.rlim_cur = m->rlimits[i]->cur, .rlim_max = m->rlimits[i]->max};
        inj_call(&b, BLOB_MUST, SYS_prlimit64, 0, m->rlimits[i]->resource, inj_data(&b, &lim, sizeof(lim)), 0);
    }
    return run_batch(&b, "its limits", err);
}

static int write_proc(const struct rproc *p, const char *what, const char *text)
{
    char path[64];
    _cleanup_close_ int fd = -1;

    snprintf(path, sizeof(path), "/proc/%d/%s", p->inj.pid, what);
    fd = open(path, O_WRONLY | O_CLOEXEC);
    return fd < 0 ? -errno : write_full(fd, text, strlen(text));
}

/* Before threads are made: they inherit the personality. */
int process_flags(struct restore *r, struct rproc *p, struct err *err)
{
    _cleanup_batch_ struct inj_batch b = {0};
    const Process *m = p->process;
    char text[24];

    snprintf(text, sizeof(text), "%d", m->oom_score_adj);
    if (write_proc(p, "oom_score_adj", text) < 0 && m->oom_score_adj)
        log_warn("process %d: oom_score_adj %d cannot be set", p->pid, m->oom_score_adj);
    snprintf(text, sizeof(text), "%#x", m->coredump_filter);
    if (m->coredump_filter && m->mm_owner == p->pid)
        write_proc(p, "coredump_filter", text);
    if (inj_begin(&b, &p->inj, err) < 0)
        return -err->code;
    inj_call(&b, BLOB_MUST, SYS_personality, m->personality);
    if (m->child_subreaper)
        inj_call(&b, BLOB_MUST, SYS_prctl, PR_SET_CHILD_SUBREAPER, 1);
    if (m->thp_disable)
        inj_call(&b, BLOB_MUST, SYS_prctl, PR_SET_THP_DISABLE, 1, m->thp_disable & ~1u);
    return run_batch(&b, "its attributes", err);
}
