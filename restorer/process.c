/* What a process has besides memory, descriptors and threads: directories, limits, attributes. */
#include <errno.h>
#include <fcntl.h>
#include <linux/prctl.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "base/log.h"
#include "base/util.h"
#include "restorer/core.h"

static bool has_text(const ProtobufCBinaryData *b)
{
    return b->len > 0 && b->data[0] && !memchr(b->data, 0, b->len);
}

static uint64_t text(struct inj_batch *b, const ProtobufCBinaryData *s)
{
    char *copy = strndup((const char *)s->data, s->len);
    uint64_t at = copy ? inj_str(b, copy) : inj_data(b, NULL, 1);

    free(copy);
    return at;
}

int process_paths(struct restore *r, struct rproc *p, struct err *err)
{
    _cleanup_batch_ struct inj_batch b = {0};
    const Process *m = p->process;
    bool shares_fs = m->fs_owner && m->fs_owner != m->pid;

    (void)r;
    if (inj_begin(&b, &p->inj, err) < 0)
        return -err->code;
    if (!shares_fs && has_text(&m->cwd))
        inj_call(&b, BLOB_MUST, SYS_chdir, text(&b, &m->cwd));
    if (!shares_fs && has_text(&m->root) && !(m->root.len == 1 && m->root.data[0] == '/')) {
        /* The directory was entered by its outside name; chroot(2) leaves it alone. */
        inj_call(&b, BLOB_MUST, SYS_chroot, text(&b, &m->root));
    }
    if (!shares_fs)
        inj_call(&b, 0, SYS_umask, m->umask);
    inj_call(&b, 0, SYS_personality, m->personality);
    if (m->thp_disable)
        inj_call(&b, 0, SYS_prctl, PR_SET_THP_DISABLE, 1, 0, 0, 0);
    return run_batch(&b, "directories", err);
}

/* --- limits and attributes ------------------------------------------------------------------------------------------ */

/* A hard limit above ours would need CAP_SYS_RESOURCE: the highest that is allowed first, the wish if it may be. */
int process_limits(struct restore *r, struct rproc *p, struct err *err)
{
    _cleanup_batch_ struct inj_batch b = {0};

    (void)r;
    if (inj_begin(&b, &p->inj, err) < 0)
        return -err->code;
    for (size_t i = 0; i < p->process->n_rlimits; i++) {
        const Rlimit *l = p->process->rlimits[i];
        struct rlimit own, want = {l->cur, l->max}, may = want;
        if (getrlimit((int)l->resource, &own) < 0)
            continue;
        may.rlim_max = want.rlim_max < own.rlim_max ? want.rlim_max : own.rlim_max;
        may.rlim_cur = want.rlim_cur < may.rlim_max ? want.rlim_cur : may.rlim_max;
        inj_call(&b, 0, SYS_prlimit64, 0, l->resource, inj_data(&b, &may, sizeof(may)), 0);
        inj_call(&b, 0, SYS_prlimit64, 0, l->resource, inj_data(&b, &want, sizeof(want)), 0);
    }
    return run_batch(&b, "limits", err);
}

static void write_own(pid_t pid, const char *file, const char *fmt, long value)
{
    char path[64], number[32];

    snprintf(path, sizeof(path), "/proc/%d/%s", pid, file);
    snprintf(number, sizeof(number), fmt, value);
    _cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd >= 0 && write_full(fd, number, strlen(number)) < 0)
        log_warn("process %d: %s cannot be set", pid, file);
}

int process_flags(struct restore *r, struct rproc *p, struct err *err)
{
    _cleanup_batch_ struct inj_batch b = {0};
    const Process *m = p->process;

    (void)r;
    if (inj_begin(&b, &p->inj, err) < 0)
        return -err->code;
    write_own(p->inj.pid, "oom_score_adj", "%ld", m->oom_score_adj);
    write_own(p->inj.pid, "coredump_filter", "%#lx", (long)m->coredump_filter);
    inj_call(&b, BLOB_MUST, SYS_prctl, PR_SET_CHILD_SUBREAPER, m->child_subreaper, 0, 0, 0);
    return run_batch(&b, "attributes", err);
}
