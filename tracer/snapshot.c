/* Memory that stands still while its program goes on: see snapshot.h. */
#include "tracer/snapshot.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/sched.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/log.h"
#include "base/util.h"
#include "image/vma.h"
#include "injector/ptrace.h"
#include "tracer/collect.h"
#include "tracer/freeze.h"
#include "tracer/procfs.h"

#define WORTH_ALL   (32ull << 20) /* all that there is to write: less takes no longer than what this costs */
#define WORTH_ONE   (2ull << 20)  /* of one process */
#define UNMAPS_MAX  1500u         /* shared mappings of a process: more than one batch could unmap */
#define AT_ONCE     16u
#define END_MS      10000         /* how long the end of a process is waited for */

/* --- is it worth it, and is there room ------------------------------------------------------------- */

static bool not_copied(const Vma *v)
{
    return v->advice & (VMA_ADV_DONTFORK | VMA_ADV_WIPEONFORK | VMA_ADV_DROPPABLE);
}

static bool shared(const Vma *v)
{
    return (v->flags & MAP_SHARED) || v->kind == VMA_SYSV;
}

/* Only in the tracer's own pid namespace is a child's number, as the process is told it, the number here too. */
static bool same_pidns(pid_t pid)
{
    char path[32];
    struct stat ours, theirs;

    snprintf(path, sizeof(path), "/proc/%d/ns/pid", pid);
    return stat("/proc/self/ns/pid", &ours) == 0 && stat(path, &theirs) == 0 && ours.st_ino == theirs.st_ino;
}

/*
 * A seccomp filter could end the copy at its first call. Private huge pages are reserved for one process only: after
 * a fork there may be none left for the next write (mm/hugetlb.c, hugetlb_wp()).
 */
static bool suits(const struct proc *p)
{
    size_t unmaps = 0, n;
    uint64_t bytes;

    page_runs(p, &n, &bytes);
    if (p->zombie || p->shares_mm || !p->injected || !p->mm || bytes < WORTH_ONE || !same_pidns(p->pid))
        return false;
    for (size_t i = 0; i < p->nthreads; i++)
        if (p->threads[i].msg->seccomp_mode)
            return false;
    for (size_t i = 0; i < p->mm->n_vmas; i++) {
        const Vma *v = p->mm->vmas[i];
        if ((v->flags & MAP_PRIVATE) && (v->flags & MAP_HUGETLB))
            return false;
        unmaps += shared(v);
    }
    return unmaps <= UNMAPS_MAX;
}

/* Bytes that the machine can still give; as if there were none when it cannot be told. */
static uint64_t memory_left(void)
{
    _cleanup_free_ char *text = NULL;
    struct err ignored;
    uint64_t kib = 0;
    const char *line;

    if (read_proc(&text, NULL, &ignored, "meminfo") < 0)
        return 0;
    line = strstr(text, "MemAvailable:");
    return line && sscanf(line, "MemAvailable: %" SCNu64, &kib) == 1 ? kib << 10 : 0;
}

static bool read_number(const char *path, uint64_t *v)
{
    _cleanup_free_ char *text = NULL;

    return read_file(AT_FDCWD, path, &text, NULL) == 0 && sscanf(text, "%" SCNu64, v) == 1;
}

/* The same for the control groups that the process is in; a limit that is not there or not seen is none. */
static uint64_t cgroup_left(pid_t pid)
{
    _cleanup_free_ char *text = NULL;
    struct err ignored;
    uint64_t left = UINT64_MAX, max, now;
    char *at, *end;

    if (read_proc(&text, NULL, &ignored, "%d/cgroup", pid) < 0 || !(at = strstr(text, "0::/")))
        return left;
    at += 3;
    at[strcspn(at, "\n")] = '\0';
    while ((end = strrchr(at, '/'))) {
        _cleanup_free_ char *limit = format("/sys/fs/cgroup%s/memory.max", at);
        _cleanup_free_ char *used = format("/sys/fs/cgroup%s/memory.current", at);
        if (limit && used && read_number(limit, &max) && read_number(used, &now)) {
            uint64_t room = max > now ? max - now : 0;
            left = room < left ? room : left;
        }
        *end = '\0';
    }
    return left;
}

/* In the worst case the program writes to every page before it is in the image. */
static bool affordable(struct proc *const *p, size_t n, uint64_t bytes)
{
    if (memory_left() / 2 < bytes)
        return false;
    for (size_t i = 0; i < n; i++)
        if (cgroup_left(p[i]->pid) / 2 < bytes)
            return false;
    return true;
}

/* --- taking ----------------------------------------------------------------------------------------- */

/*
 * The parasite forks, and the child runs the rest: it lets go of what it holds of the program besides its memory, says
 * so, and waits for the end of the control socket, which it does not read.
 */
static uint32_t ask(struct proc *p, struct inj_batch *b)
{
    const struct clone_args ca = {.flags = CLONE_UNTRACED};
    const struct pollfd ctl = {.fd = p->inj.remote_ctl};
    uint32_t call = inj_call(b, BLOB_FORK_REST, SYS_clone3, inj_data(b, &ca, sizeof(ca)), sizeof(ca));

    if (ctl.fd > 0)
        inj_call(b, 0, SYS_close_range, 0, ctl.fd - 1, 0);
    inj_call(b, 0, SYS_close_range, ctl.fd + 1, ~0u, 0);
    inj_call(b, 0, SYS_setsid);
    inj_call(b, 0, SYS_chdir, inj_str(b, "/"));
    for (size_t i = 0; i < p->mm->n_vmas; i++) {
        const Vma *v = p->mm->vmas[i];
        if (shared(v) && !not_copied(v) && v->kind != VMA_VVAR)
            inj_call(b, 0, SYS_munmap, v->start, v->end - v->start);
    }
    inj_says(b, BLOB_HELLO);
    inj_call(b, 0, SYS_ppoll, inj_data(b, &ctl, sizeof(ctl)), 1, 0, 0, 8);
    inj_call(b, 0, SYS_exit_group, 0);
    return call;
}

/* Short of memory, the kernel is to end this and not the program. */
static int first_to_go(pid_t pid, struct err *err)
{
    char path[40];

    snprintf(path, sizeof(path), "/proc/%d/oom_score_adj", pid);
    _cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, "1000", 4) != 4)
        return err_errno(err, "%s", path);
    return 0;
}

struct taking {
    struct proc *p;
    struct inj_batch batch;
    uint32_t fork_call;
};

static int begin(struct taking *t, struct proc *p, struct err *err)
{
    t->p = p;
    if (inj_begin(&t->batch, &p->inj, err) < 0)
        return -err->code;
    t->fork_call = ask(p, &t->batch);
    return inj_start(&t->batch, err);
}

/* The child is hidden and known as soon as it exists, so that it is ended whatever fails then. */
static int finish(struct ckpt *c, struct follow *f, struct taking *t, struct err *err)
{
    struct inj *s = arena_alloc(c->arena, sizeof(*s));
    int pidfd, r = inj_finish_fork(&t->batch, t->fork_call, &pidfd, err);

    if (pidfd < 0)
        return r;
    if (!s) {
        close(pidfd);
        return err_set(err, ENOMEM, "out of memory");
    }
    *s = (struct inj){.pid = (pid_t)inj_ret(&t->batch, t->fork_call), .pidfd = pidfd,
                      .ctl = fcntl(t->p->inj.ctl, F_DUPFD_CLOEXEC, 3)};
    t->p->snapshot = s;
    if (follow_hide(f, s->pid, err) < 0 || r < 0)
        return -err->code;
    if (s->ctl < 0)
        return err_errno(err, "process %d: control socket", t->p->pid);
    if (first_to_go(s->pid, err) < 0)
        return -err->code;
    s->entered = true; /* it can be read */
    return 0;
}

/* Some at a time: each takes a batch's memory, and all fork side by side. */
static size_t take_some(struct ckpt *c, struct follow *f, struct proc **p, size_t n, struct err *err)
{
    struct taking t[AT_ONCE] = {0};
    size_t begun = 0, taken = 0;
    struct err late = {0};

    while (begun < n && !err->code)
        if (begin(&t[begun], p[begun], err) == 0)
            begun++;
        else
            inj_end(&t[begun].batch);
    for (size_t i = 0; i < begun; i++) {
        if (finish(c, f, &t[i], &late) == 0)
            taken++;
        else if (!err->code)
            *err = late;
        inj_end(&t[i].batch);
    }
    return taken;
}

void snapshots_take(struct ckpt *c, struct follow *f)
{
    _cleanup_free_ struct proc **p = calloc(c->nprocs + 1, sizeof(struct proc *));
    uint64_t all = 0, bytes;
    size_t n = 0, runs, taken = 0;
    struct err err = {0};

    for (size_t i = 0; p && i < c->nprocs; i++)
        if (suits(c->procs[i])) {
            page_runs(c->procs[i], &runs, &bytes);
            all += bytes;
            p[n++] = c->procs[i];
        }
    if (all < WORTH_ALL || !affordable(p, n, all))
        return;
    for (size_t at = 0; at < n && !err.code; at += AT_ONCE)
        taken += take_some(c, f, p + at, n - at < AT_ONCE ? n - at : AT_ONCE, &err);
    if (err.code)
        log_trace("written while it stands still: %s", err.msg);
    log_trace("snapshots: %zu", taken);
}

bool snapshot_lacks(const struct proc *p, uint64_t addr, uint64_t *end)
{
    size_t lo = 0, hi = p->mm->n_vmas;

    *end = UINT64_MAX;
    if (!p->snapshot || !p->snapshot->entered)
        return true;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (p->mm->vmas[mid]->end <= addr)
            lo = mid + 1;
        else
            hi = mid;
    }
    if (lo == p->mm->n_vmas)
        return false;
    if (p->mm->vmas[lo]->start > addr) {
        *end = p->mm->vmas[lo]->start;
        return false;
    }
    *end = p->mm->vmas[lo]->end;
    return not_copied(p->mm->vmas[lo]);
}

/* --- ending ----------------------------------------------------------------------------------------- */

static int wait_in(struct proc *p, pid_t pid, struct err *err)
{
    struct thread *t = &p->threads[0];
    const uint64_t arg[6] = {(uint64_t)pid, 0, __WALL | WNOHANG};
    uint64_t ip;
    int64_t ret = 0;

    if (pt_find_syscall(p->pid, &ip, err) < 0 || pt_set_sigmask(t->tid, ~0ull, err) < 0)
        return -err->code;
    int r = pt_syscall(t->tid, ip, &t->regs, &ret, SYS_wait4, arg, err);
    struct err ignored;
    pt_set_sigmask(t->tid, t->sigmask, &ignored);
    if (r == 0 && ret != pid)
        r = err_set(err, ret < 0 ? (int)-ret : EAGAIN, "process %d: could not reap %d", p->pid, pid);
    return r;
}

/* One thread of the parent is stopped and made to wait for its child, which has ended. */
static int reap(struct follow *f, pid_t parent, pid_t pid, struct err *err)
{
    struct ckpt c = {.arena = arena_new()};
    struct err ignored;
    int r;

    if (!c.arena)
        return err_set(err, ENOMEM, "out of memory");
    r = freeze_thread(&c, f, parent, err);
    if (r == 0) {
        r = prepare_threads(&c, c.procs[0], err);
        if (r == 0)
            r = wait_in(c.procs[0], pid, err);
        leave_process(&c, c.procs[0], &ignored);
        thaw(&c);
    }
    free(c.procs);
    arena_free(c.arena);
    return r;
}

/* Who is hidden and dead is reaped by the parent, if that is one of ours, and shown when it is gone. */
static void reap_hidden(struct follow *f)
{
    size_t n;
    const pid_t *hidden = follow_hidden(f, &n);
    _cleanup_free_ pid_t *pids = malloc((n + 1) * sizeof(*pids));
    _cleanup_free_ bool *gone = calloc(n + 1, sizeof(*gone));
    struct err err;

    if (!pids || !gone)
        return;
    memcpy(pids, hidden, n * sizeof(*pids));
    for (size_t i = 0; i < n; i++) {
        struct proc_stat s;
        bool ours = false;
        if (read_stat(pids[i], &s, &err) < 0) {
            gone[i] = true;
            continue;
        }
        size_t members;
        const struct member *m = follow_members(f, &members);
        for (size_t k = 0; k < members && !ours; k++)
            ours = m[k].pid == s.ppid;
        if (s.state == 'Z' && ours)
            gone[i] = reap(f, s.ppid, pids[i], &err) == 0;
        if (s.state == 'Z' && ours && !gone[i])
            log_trace("%s", err.msg);
    }
    if (follow_update(f, &err) < 0)
        return;
    for (size_t i = 0; i < n; i++)
        if (gone[i])
            follow_show(f, pids[i]);
}

void snapshots_end(struct ckpt *c, struct follow *f)
{
    size_t n;

    for (size_t i = 0; i < c->nprocs; i++) {
        const struct inj *s = c->procs[i]->snapshot;
        if (s && s->pidfd >= 0)
            syscall(SYS_pidfd_send_signal, s->pidfd, SIGKILL, NULL, 0);
    }
    for (size_t i = 0; i < c->nprocs; i++) {
        struct inj *s = c->procs[i]->snapshot;
        if (!s)
            continue;
        if (s->pidfd >= 0)
            poll(&(struct pollfd){.fd = s->pidfd, .events = POLLIN}, 1, END_MS);
        inj_close(s);
        c->procs[i]->snapshot = NULL;
    }
    follow_hidden(f, &n);
    if (n)
        reap_hidden(f);
}
