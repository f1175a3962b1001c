/* A process as the tree sees it, from /proc; and what it shares with others of the tree. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/log.h"
#include "base/util.h"
#include "tracer/collect.h"
#include "tracer/procfs.h"

static const struct {
    const char *name;
    uint32_t resource;
} limit_names[] = {
    {"Max cpu time", RLIMIT_CPU},           {"Max file size", RLIMIT_FSIZE},
    {"Max data size", RLIMIT_DATA},         {"Max stack size", RLIMIT_STACK},
    {"Max core file size", RLIMIT_CORE},    {"Max resident set", RLIMIT_RSS},
    {"Max processes", RLIMIT_NPROC},        {"Max open files", RLIMIT_NOFILE},
    {"Max locked memory", RLIMIT_MEMLOCK},  {"Max address space", RLIMIT_AS},
    {"Max file locks", RLIMIT_LOCKS},       {"Max pending signals", RLIMIT_SIGPENDING},
    {"Max msgqueue size", RLIMIT_MSGQUEUE}, {"Max nice priority", RLIMIT_NICE},
    {"Max realtime priority", RLIMIT_RTPRIO}, {"Max realtime timeout", RLIMIT_RTTIME},
};

static uint64_t limit(const char *text)
{
    return !strncmp(text, "unlimited", 9) ? RLIM_INFINITY : strtoull(text, NULL, 10);
}

/* /proc/PID/limits: prlimit(2) on another user's process would need CAP_SYS_RESOURCE. */
static int collect_limits(struct ckpt *c, struct proc *p, struct err *err)
{
    _cleanup_free_ char *text = NULL;

    if (read_proc(&text, NULL, err, "%d/limits", proc_task(p)) < 0)
        return -err->code;
    for (size_t i = 0; i < ARRAY_SIZE(limit_names); i++) {
        char *line = strstr(text, limit_names[i].name), cur[24], max[24];
        if (!line || sscanf(line + strlen(limit_names[i].name), " %23s %23s", cur, max) != 2)
            continue;
        Rlimit *l = arena_alloc(c->arena, sizeof(*l));
        rlimit__init(l);
        l->resource = limit_names[i].resource;
        l->cur = limit(cur);
        l->max = limit(max);
        arena_push(c->arena, (void ***)&p->process->rlimits, &p->process->n_rlimits, l);
    }
    return 0;
}

static uint32_t *copy_ids(struct ckpt *c, const uint32_t *ids, size_t n)
{
    return arena_dup(c->arena, ids, n * sizeof(*ids));
}

static int collect_status(struct ckpt *c, struct proc *p, struct err *err)
{
    Process *m = p->process;
    struct proc_status st;

    if (read_status(proc_task(p), proc_task(p), &st, err) < 0)
        return -err->code;
    m->umask = st.umask;
    m->uids = copy_ids(c, st.uids, m->n_uids = 4);
    m->gids = copy_ids(c, st.gids, m->n_gids = 4);
    m->groups = copy_ids(c, st.groups, m->n_groups = st.ngroups);
    m->cap_inheritable = st.cap_inh;
    m->cap_permitted = st.cap_prm;
    m->cap_effective = st.cap_eff;
    m->cap_bounding = st.cap_bnd;
    m->cap_ambient = st.cap_amb;
    m->no_new_privs = st.no_new_privs;
    proc_status_free(&st);
    return 0;
}

static ProtobufCBinaryData link_of(struct ckpt *c, pid_t pid, const char *what)
{
    char path[48];

    snprintf(path, sizeof(path), "/proc/%d/%s", pid, what);
    _cleanup_free_ char *to = readlink_dup(path);
    return arena_text(c->arena, to ? to : "");
}

static ProtobufCBinaryData text_of(struct ckpt *c, pid_t pid, const char *what)
{
    _cleanup_free_ char *text = NULL;
    struct err ignored;

    if (read_proc(&text, NULL, &ignored, "%d/%s", pid, what) < 0)
        return arena_text(c->arena, "");
    return arena_text(c->arena, text);
}

static long number_of(struct ckpt *c, pid_t pid, const char *what, int base)
{
    return strtol((char *)text_of(c, pid, what).data, NULL, base);
}

/* The executable as a file object, so that /proc/PID/exe can be the same again. */
static int collect_exe(struct ckpt *c, struct proc *p, struct err *err)
{
    char *via = arena_printf(c->arena, "/proc/%d/exe", proc_task(p));
    struct stat st;
    struct object *o;

    p->process->exe = link_of(c, proc_task(p), "exe");
    if (stat(via, &st) < 0)
        return 0; /* a process without one */
    o = ckpt_file_object(c, p, via, &st, (char *)p->process->exe.data, err);
    if (!o)
        return err_wrap(err, "executable");
    p->process->exe_file = o->id;
    return 0;
}

int collect_process(struct ckpt *c, struct proc *p, struct err *err)
{
    Process *m = arena_alloc(c->arena, sizeof(*m));
    struct proc_stat s;

    process__init(m);
    p->process = m;
    if (read_stat(p->pid, &s, err) < 0)
        return err_wrap(err, "process %d", p->pid);
    m->pid = p->pid;
    p->ppid = s.ppid;
    p->parent = ckpt_find_proc(c, s.ppid);
    m->ppid = p->parent ? s.ppid : 0;
    m->pgid = s.pgrp;
    m->sid = s.sid;
    m->exit_signal = (int32_t)s.exit_signal;
    m->comm = arena_text(c->arena, s.comm);
    m->is_root = p->is_root;
    if (p == c->procs[0]) {
        m->launched = c->launched;
        m->n_launched = c->n_launched;
    }
    m->tty = s.tty;
    m->had_tty = s.tty != 0;
    m->tty_pgrp = s.tpgid;
    m->files_owner = m->fs_owner = m->mm_owner = m->sighand_owner = p->pid;
    m->start_time_ns = s.starttime * (1000000000ull / (uint64_t)sysconf(_SC_CLK_TCK));
    if (p->zombie) {
        m->state = 1;
        m->exit_status = s.exit_code;
        return 0;
    }
    if (p->leader_dead)
        m->state = 3;
    if (p->nthreads && p->threads[0].stop_status >> 16 == 128 && ((p->threads[0].stop_status >> 8) & 0xff) != 5) {
        m->state = 2; /* a group-stop: the stop carries its signal, not SIGTRAP */
        m->exit_status = (p->threads[0].stop_status >> 8) & 0xff;
    }
    m->cwd = link_of(c, proc_task(p), "cwd");
    m->root = link_of(c, proc_task(p), "root");
    m->cgroup = text_of(c, proc_task(p), "cgroup");
    m->oom_score_adj = (int32_t)number_of(c, proc_task(p), "oom_score_adj", 10);
    m->personality = (uint32_t)number_of(c, proc_task(p), "personality", 16);
    m->coredump_filter = (uint32_t)number_of(c, proc_task(p), "coredump_filter", 16);
    if (collect_status(c, p, err) < 0 || collect_limits(c, p, err) < 0 || collect_exe(c, p, err) < 0)
        return err_wrap(err, "process %d (%s)", p->pid, s.comm);
    return 0;
}

/*
 * Who shares what. kcmp(2) gives a total order of the kernel's objects, so the processes are kept in an array
 * sorted by it, one array per kind of sharing, and each is looked up by bisection.
 */
static int share(struct ckpt *c, int type, struct proc **sorted, size_t *n, struct proc *p, struct proc **owner,
                 struct err *err)
{
    size_t lo = 0, hi = *n;

    *owner = p;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        long r = syscall(SYS_kcmp, p->threads[0].tid, sorted[mid]->threads[0].tid, type, 0, 0);
        if (r < 0)
            return err_errno(err, "process %d: kcmp(2), which tells what processes share, cannot be used", p->pid);
        if (r == 0) {
            *owner = sorted[mid];
            return 0;
        }
        if (r == 1)
            hi = mid;
        else
            lo = mid + 1;
    }
    memmove(&sorted[lo + 1], &sorted[lo], (*n - lo) * sizeof(*sorted));
    sorted[lo] = p;
    (*n)++;
    return 0;
}

/* A restart makes what processes share by clone(2), so only parent and child can. */
static int refuse_sharing(const struct ckpt *c, struct err *err)
{
    for (size_t i = 0; i < c->nprocs; i++) {
        const struct proc *p = c->procs[i], *parent = p->zombie ? NULL : ckpt_find_proc(c, p->process->ppid);
        const Process *a = parent && !parent->zombie ? parent->process : NULL, *b = p->process;

        if (p->zombie)
            continue;
        if ((b->mm_owner != b->pid && (!a || a->mm_owner != b->mm_owner)) ||
            (b->files_owner != b->pid && (!a || a->files_owner != b->files_owner)) ||
            (b->fs_owner != b->pid && (!a || a->fs_owner != b->fs_owner)))
            return err_set(err, EOPNOTSUPP, "process %d shares memory or descriptors with a process that is not its parent",
                           p->pid);
    }
    return 0;
}

int collect_sharing(struct ckpt *c, struct err *err)
{
    enum { VM = 1, FILES = 2, FS = 3, SIGHAND = 4 }; /* enum kcmp_type */
    static const int types[] = {VM, FILES, FS, SIGHAND};

    for (size_t t = 0; t < ARRAY_SIZE(types); t++) {
        struct proc **sorted = arena_alloc(c->arena, (c->nprocs + 1) * sizeof(*sorted));
        size_t n = 0;
        for (size_t i = 0; i < c->nprocs; i++) {
            struct proc *p = c->procs[i], *owner;
            if (p->zombie)
                continue;
            if (share(c, types[t], sorted, &n, p, &owner, err) < 0)
                return -err->code;
            switch (types[t]) {
            case VM:
                p->process->mm_owner = owner->pid;
                p->mm_proc = owner;
                p->shares_mm = owner != p;
                break;
            case FILES:
                p->process->files_owner = owner->pid;
                p->files_proc = owner;
                p->shares_files = owner != p;
                break;
            case FS:
                p->process->fs_owner = owner->pid;
                break;
            default:
                p->process->sighand_owner = owner->pid;
                break;
            }
        }
    }
    return refuse_sharing(c, err);
}
