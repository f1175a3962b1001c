/*
 * What must be known before the first process is made: an address for the parasite that is free in every
 * process, fd numbers that none uses, and whether the processes can have their pids and clocks here or need
 * namespaces of their own.
 */
#include <errno.h>
#include <inttypes.h>
#include <linux/capability.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "base/log.h"
#include "base/util.h"
#include "restorer/core.h"

#define STACK_ROOM (256ull << 20) /* below what grows downwards */
#define AREA_FROM  (4ull << 30)   /* leave the addresses that 32-bit pointers reach to the programs */

struct range {
    uint64_t start, end;
};

struct ranges {
    struct range *range;
    size_t n, cap;
};

static int add_range(struct ranges *l, uint64_t start, uint64_t end)
{
    struct range *more = grow(l->range, l->n, &l->cap, sizeof(*l->range));

    if (!more)
        return -ENOMEM;
    l->range = more;
    l->range[l->n++] = (struct range){start, end};
    return 0;
}

static int by_start(const void *a, const void *b)
{
    const struct range *x = a, *y = b;

    return x->start < y->start ? -1 : x->start > y->start;
}

static int own_ranges(struct ranges *l)
{
    _cleanup_free_ char *maps = NULL;
    struct err ignored;
    uint64_t start, end;

    if (read_proc(&maps, NULL, &ignored, "self/maps") < 0)
        return -ENOENT;
    for (char *line = maps; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL)
        if (sscanf(line, "%" SCNx64 "-%" SCNx64, &start, &end) == 2 && add_range(l, start, end) < 0)
            return -ENOMEM;
    return 0;
}

static int image_ranges(const struct restore *r, struct ranges *l)
{
    for (size_t i = 0; i < r->nprocs; i++) {
        const Mm *mm = r->procs[i].mm;

        for (size_t k = 0; mm && k < mm->n_vmas; k++) {
            const Vma *v = mm->vmas[k];
            uint64_t room = v->flags & MAP_GROWSDOWN ? STACK_ROOM : 0;
            if (add_range(l, v->start > room ? v->start - room : 0, v->end) < 0)
                return -ENOMEM;
        }
    }
    return 0;
}

uint64_t plan_free_range(const struct restore *r, uint64_t size)
{
    struct ranges l = {0};
    uint64_t from = AREA_FROM, found = 0;

    if (own_ranges(&l) == 0 && image_ranges(r, &l) == 0) {
        qsort(l.range, l.n, sizeof(*l.range), by_start);
        /* A page of distance on both sides: mappings must not merge. */
        for (size_t i = 0; i < l.n && !found; i++) {
            if (l.range[i].start > from && l.range[i].start - from >= size + 2 * PAGE)
                found = from + PAGE;
            if (l.range[i].end > from)
                from = l.range[i].end;
        }
        if (!found && from < USER_TOP && USER_TOP - from >= size + 2 * PAGE)
            found = from + PAGE;
    }
    free(l.range);
    return found;
}

int plan_area(struct restore *r, struct err *err)
{
    uint32_t most = 1;

    for (size_t i = 0; i < r->nprocs; i++) {
        size_t n = 0;
        for (size_t k = 0; k < r->nprocs && r->procs[i].mm; k++)
            if (k == i || r->procs[k].mm == r->procs[i].mm)
                n += r->procs[k].nthreads;
        if (n > most)
            most = (uint32_t)n;
    }
    r->slots = most + 1;
    r->area = plan_free_range(r, inj_area_size(r->slots) + PAGE + vdso_size(r));
    if (!r->area)
        return err_set(err, ENOMEM, "no address is free in all processes");
    r->vdso_home = r->area + inj_area_size(r->slots) + PAGE;
    return 0;
}

/* Are n numbers from *from on free in all processes? If not, *from moves behind one that is taken. */
static bool fds_free(const struct restore *r, uint32_t *from, uint32_t n)
{
    for (size_t i = 0; i < r->nprocs; i++) {
        const FdTable *t = r->procs[i].fdtable;
        for (size_t k = 0; t && k < t->n_fds; k++)
            if (t->fds[k]->fd >= *from && t->fds[k]->fd - *from < n) {
                *from = t->fds[k]->fd + 1;
                return false;
            }
    }
    return true;
}

/*
 * Above all that are open, as a rule. Valgrind keeps its own just below the limit: then between them, but so
 * high that what is passed to a process (fd.c) finds room below.
 */
int plan_fds(struct restore *r, struct err *err)
{
    struct rlimit lim;
    uint32_t top = 2, most = 0, at;

    r->ctl_fds = 64;
    for (size_t i = 0; i < r->nprocs; i++) {
        const struct rproc *p = &r->procs[i];

        for (size_t k = 0; p->fdtable && k < p->fdtable->n_fds; k++)
            if (p->fdtable->fds[k]->fd > top)
                top = p->fdtable->fds[k]->fd;
        if (p->fdtable && p->fdtable->n_fds > most)
            most = (uint32_t)p->fdtable->n_fds;
        if (p->process->files_owner && p->process->files_owner != p->pid)
            r->ctl_fds++;
    }
    raise_open_files_limit(); /* the driver, our child, opens everything first */
    if (getrlimit(RLIMIT_NOFILE, &lim) < 0)
        return err_errno(err, "getrlimit");
    at = top + 1;
    if (top < lim.rlim_max && lim.rlim_max - top <= r->ctl_fds)
        for (at = most + INJ_MAX_FDS; !fds_free(r, &at, r->ctl_fds);)
            ;
    if (top >= lim.rlim_max || lim.rlim_max < (uint64_t)at + r->ctl_fds)
        return err_set(err, EMFILE,
                       "fd %u is open in the images, which the limit of open files (ulimit -Hn %llu) forbids",
                       top, (unsigned long long)lim.rlim_max);
    r->ctl_fd = (int)at;
    return 0;
}

/* --- pids --- */

static bool has_cap(unsigned cap)
{
    struct __user_cap_header_struct h = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct d[2] = {0};

    return syscall(SYS_capget, &h, d) == 0 && (d[cap / 32].effective >> (cap % 32) & 1);
}

/* Try what is needed, with a child that ends at once: may we choose pids, and is this one free? */
static int try_pid(pid_t pid)
{
    struct clone_args ca = {.set_tid = (uint64_t)&pid, .set_tid_size = 1};
    long child = syscall(SYS_clone3, &ca, sizeof(ca));

    if (child == 0)
        _exit(0);
    if (child < 0)
        return -errno;
    waitpid((pid_t)child, NULL, __WALL);
    return 0;
}

/* Is a process, thread, group or session of the images in our way here? *pid is the first such. */
static int find_taken(const struct restore *r, pid_t *pid)
{
    char path[32];

    for (size_t i = 0; i < r->nprocs; i++) {
        const struct rproc *p = &r->procs[i];

        for (size_t t = 0; t < (p->nthreads ? p->nthreads : 1); t++) {
            *pid = t ? p->threads[t]->tid : p->pid;
            snprintf(path, sizeof(path), "/proc/%d", *pid);
            if (access(path, F_OK) == 0)
                return -EEXIST;
        }
    }
    *pid = r->procs[0].pid;
    return try_pid(*pid);
}

static bool pid_in_images(const struct restore *r, pid_t pid)
{
    for (size_t i = 0; i < r->nprocs; i++) {
        const struct rproc *p = &r->procs[i];

        if (p->pid == pid || p->process->sid == pid || p->process->pgid == pid)
            return true;
        for (size_t t = 0; t < p->nthreads; t++)
            if (p->threads[t]->tid == pid)
                return true;
    }
    return false;
}

/* Of threads, zombies, sessions and groups. */
static pid_t highest_pid(const struct restore *r)
{
    pid_t highest = 0;

    for (size_t i = 0; i < r->nprocs; i++) {
        const struct rproc *p = &r->procs[i];
        const pid_t ids[] = {p->pid, p->process->sid, p->process->pgid};

        for (size_t k = 0; k < ARRAY_SIZE(ids); k++)
            highest = ids[k] > highest ? ids[k] : highest;
        for (size_t t = 0; t < p->nthreads; t++)
            highest = (pid_t)p->threads[t]->tid > highest ? (pid_t)p->threads[t]->tid : highest;
    }
    return highest;
}

pid_t plan_spare_pid(const struct restore *r, pid_t limit)
{
    if (highest_pid(r) >= limit)
        return 0;
    while (--limit > 300 && pid_in_images(r, limit))
        ;
    return limit;
}

/* Why the pids can't be had here, with the first that can't; 0: they can. */
static int pids_in_the_way(const struct restore *r, pid_t *pid)
{
    int why = find_taken(r, pid);

    if (highest_pid(r) < r->pid_max)
        return why;
    *pid = highest_pid(r);
    return -ERANGE;
}

static int plan_pids(struct restore *r, struct err *err)
{
    _cleanup_free_ char *max = NULL;
    pid_t pid;
    int why;

    if (read_proc(&max, NULL, err, "sys/kernel/pid_max") < 0)
        return -err->code;
    r->pid_max = atoi(max);
    why = pids_in_the_way(r, &pid);
    if (why == 0 && !r->options.in_new_pidns)
        return 0;
    if (r->options.pids_must_match)
        return err_set(err, -why,
                       why == -EEXIST   ? "pid %d is taken (--pids-must-match)"
                       : why == -ERANGE ? "pid %d is above kernel.pid_max (--pids-must-match)"
                                        : "pid %d cannot be chosen without CAP_CHECKPOINT_RESTORE "
                                          "(--pids-must-match)",
                       pid);
    r->new_pidns = true;
    r->new_userns = !has_cap(CAP_SYS_ADMIN);
    if (!r->options.in_new_pidns)
        restore_note(r,
                     why == -EEXIST   ? "pid %d is taken: restarting in a new pid namespace"
                     : why == -ERANGE ? "pid %d is above kernel.pid_max: restarting in a new pid namespace"
                                      : "restarting in a new pid namespace: only root may choose pids (here %d)",
                     pid);
    return 0;
}

int plan_pids_again(struct restore *r, struct err *err)
{
    return r->new_pidns ? 0 : plan_pids(r, err);
}

/* --- clocks --- */

static int64_t now_ns(clockid_t clock)
{
    struct timespec ts = {0};

    clock_gettime(clock, &ts);
    return ts.tv_sec * 1000000000ll + ts.tv_nsec;
}

static void plan_clocks(struct restore *r)
{
    int64_t mono = now_ns(CLOCK_MONOTONIC), boot = now_ns(CLOCK_BOOTTIME);

    for (size_t i = 0; i < r->nprocs; i++) {
        const ImageHead *h = r->procs[i].head;

        if ((int64_t)h->monotonic_ns - mono > r->monotonic_shift)
            r->monotonic_shift = (int64_t)h->monotonic_ns - mono;
        if ((int64_t)h->boottime_ns - boot > r->boottime_shift)
            r->boottime_shift = (int64_t)h->boottime_ns - boot;
    }
    r->new_timens = r->monotonic_shift > 0 || r->boottime_shift > 0;
    if (r->new_timens && !r->new_userns && !(has_cap(CAP_SYS_TIME) && has_cap(CAP_SYS_ADMIN))) {
        log_warn(
            "the clocks of this boot are behind those of the checkpoint, and a time namespace needs root: "
            "programs will see CLOCK_MONOTONIC jump back");
        r->new_timens = false;
    }
}

int plan_namespaces(struct restore *r, struct err *err)
{
    if (plan_pids(r, err) < 0)
        return -err->code;
    plan_clocks(r);
    return 0;
}
