/*
 * Into a running program and out again. Until the control socket stands, and when it is closed, system calls are
 * made one by one, under guard (guard.h); in between the parasite can return by itself.
 */
#include "injector/inject.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/util.h"
#include "injector/blob_code.h"
#include "injector/guard.h"
#include "injector/layout.h"
#include "injector/ptrace.h"

uint64_t inj_area_size(uint32_t slots)
{
    return BLOB_TEXT_SIZE + SLOT_SPACE(slots) + STACK_SPACE(slots) + CALL_SPACE + INJ_DATA_SIZE;
}

uint64_t inj_slot(const struct inj *inj, uint32_t i)
{
    return inj->base + BLOB_TEXT_SIZE + i * sizeof(struct blob_slot);
}

uint64_t inj_slot_stack(const struct inj *inj, uint32_t i)
{
    uint64_t stacks = inj->base + BLOB_TEXT_SIZE + SLOT_SPACE(inj->nslots);

    return stacks + HOST_STACK + (uint64_t)i * INJ_SLOT_STACK;
}

static int guarded(struct inj *inj, int64_t *ret, struct err *err, const char *what, long nr, const uint64_t arg[6])
{
    if (pt_call(inj->tid, &inj->call, ret, nr, arg, err) < 0)
        return err_wrap(err, "%s", what);
    if (inj_failed(*ret))
        return err_set(err, (int)-*ret, "process %d: %s: %s", inj->pid, what, strerror((int)-*ret));
    return 0;
}

/*
 * A limit of the process is in the way (sshd's sandbox, for one, may open no file): until inj_leave() it is `least`, or
 * the hard one where the tracer may not raise that.
 */
static int raise_limit(const struct inj *inj, struct inj_limit *l, int resource, rlim_t least)
{
    struct rlimit lim;

    if (l->raised || prlimit(inj->pid, (enum __rlimit_resource)resource, NULL, &l->old) < 0)
        return -1;
    l->resource = resource;
    lim.rlim_cur = lim.rlim_max = l->old.rlim_max > least ? l->old.rlim_max : least;
    l->raised = lim.rlim_cur != l->old.rlim_cur && prlimit(inj->pid, (enum __rlimit_resource)resource, &lim, NULL) == 0;
    lim.rlim_cur = lim.rlim_max = l->old.rlim_max;
    if (!l->raised && lim.rlim_cur != l->old.rlim_cur)
        l->raised = prlimit(inj->pid, (enum __rlimit_resource)resource, &lim, NULL) == 0;
    return l->raised ? 0 : -1;
}

static void lower_limits(struct inj *inj)
{
    for (size_t i = 0; i < ARRAY_SIZE(inj->limit); i++)
        if (inj->limit[i].raised)
            prlimit(inj->pid, (enum __rlimit_resource)inj->limit[i].resource, &inj->limit[i].old, NULL);
    memset(inj->limit, 0, sizeof(inj->limit));
}

static int make_area(struct inj *inj, struct err *err)
{
    const uint64_t arg[6] = {0, inj->size, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, ~0ull, 0};
    uint64_t data[6] = {0, inj->size - BLOB_TEXT_SIZE, PROT_READ | PROT_WRITE};
    int64_t at, r;

    r = guarded(inj, &at, err, "mapping the parasite", SYS_mmap, arg);
    if (r == -ENOMEM && raise_limit(inj, &inj->limit[0], RLIMIT_AS, RLIM_INFINITY) == 0)
        r = guarded(inj, &at, err, "mapping the parasite", SYS_mmap, arg);
    if (r == -ENOMEM)
        return err_wrap(err, "it has no room for %llu KiB more (ulimit -v, vm.max_map_count)",
                        (unsigned long long)(inj->size >> 10));
    if (r < 0)
        return -err->code;
    inj->base = (uint64_t)at;
    data[0] = inj->base + BLOB_TEXT_SIZE;
    r = guarded(inj, &at, err, "protecting the parasite", SYS_mprotect, data);
    if (r == -ENOMEM && raise_limit(inj, &inj->limit[2], RLIMIT_DATA, RLIM_INFINITY) == 0)
        r = guarded(inj, &at, err, "protecting the parasite", SYS_mprotect, data);
    if (r == -ENOMEM)
        return err_wrap(err, "it has no room for %llu KiB more of data (ulimit -d, vm.max_map_count)",
                        (unsigned long long)(data[1] >> 10));
    return (int)r;
}

/* A socket pair in the target, made in its own data area; our end is fetched, its number goes to *ours. */
static int make_ctl(struct inj *inj, int *ours, struct err *err)
{
    const uint64_t arg[6] = {AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, data_at(inj)};
    int pair[2];
    int64_t r;

    int e = guarded(inj, &r, err, "making the control socket", SYS_socketpair, arg);
    if (e == -EMFILE && raise_limit(inj, &inj->limit[1], RLIMIT_NOFILE, 1024) == 0)
        e = guarded(inj, &r, err, "making the control socket", SYS_socketpair, arg);
    if (e == -EMFILE)
        return err_wrap(err, "its limit of open files (ulimit -n) leaves no room, and raising it takes CAP_SYS_RESOURCE");
    if (e < 0)
        return -err->code;
    if (pt_read(inj->pid, data_at(inj), pair, sizeof(pair), err) < 0)
        return -err->code;
    inj->remote_ctl = pair[0];
    *ours = pair[1];
    inj->ctl = inj_get_fd(inj, pair[1], err);
    return inj->ctl < 0 ? inj->ctl : inj_set_timeout(inj, err);
}

static int write_blob(struct inj *inj, int ours, struct err *err)
{
    struct blob_call close_ours = {.nr = SYS_close, .arg = {(uint64_t)ours}};
    struct blob_slot slot = {
        .calls = calls_at(inj), .ncalls = 1, .flags = BLOB_SLOT_HOST | BLOB_SLOT_HEALS, .ctl = inj->remote_ctl,
        .nslots = inj->nslots,
    };

    guard_home(&slot.home, &inj->regs, inj->sigmask);
    if (pt_poke(inj->pid, inj->base, blob_code, blob_code_size, err) < 0 ||
        pt_write(inj->pid, inj_slot(inj, 0), &slot, sizeof(slot), err) < 0)
        return -err->code;
    return pt_write(inj->pid, calls_at(inj), &close_ours, sizeof(close_ours), err);
}

static int start_host(struct inj *inj, struct err *err)
{
    struct user_regs_struct regs = inj->regs;
    struct blob_msg m;

    enter_slot(inj, 0, &regs);
    if (pt_set_regs(inj->tid, &regs, err) < 0 || pt_cont(inj->tid, 0, err) < 0)
        return -err->code;
    return inj_wait_msg(inj, &m, err);
}

/* Undo a half-made entry in the way in which it was made. */
static void unmake(struct inj *inj, int ours)
{
    struct err ignored;
    int64_t r;

    if (ours >= 0) {
        guarded(inj, &r, &ignored, "close", SYS_close, (uint64_t[6]){(uint64_t)ours});
        guarded(inj, &r, &ignored, "close", SYS_close, (uint64_t[6]){(uint64_t)inj->remote_ctl});
    }
    if (inj->base)
        guarded(inj, &r, &ignored, "munmap", SYS_munmap, (uint64_t[6]){inj->base, inj->size});
    pt_set_sigmask(inj->tid, inj->sigmask, &ignored);
    pt_set_regs(inj->tid, &inj->regs, &ignored);
    guard_clear(inj);
    lower_limits(inj);
}

/* From here on every signal is blocked, and the thread is at the guard when nobody holds it. */
static int begin_calls(struct inj *inj, struct err *err)
{
    if (guard_set(inj, err) < 0 || pt_set_regs(inj->tid, &inj->call, err) < 0)
        return -err->code;
    return pt_set_sigmask(inj->tid, ~0ull, err);
}

int inj_enter(struct inj *inj, pid_t pid, pid_t tid, const struct user_regs_struct *regs, uint64_t sigmask,
              uint32_t guests, struct err *err)
{
    int ours = -1;

    *inj = (struct inj){.pid = pid, .tid = tid, .pidfd = -1, .ctl = -1, .remote_ctl = -1, .nslots = 1 + guests,
                        .regs = *regs, .sigmask = sigmask, .size = inj_area_size(1 + guests)};
    inj->pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (inj->pidfd < 0 && pid == tid) /* another thread speaks for a leader that has ended: PIDFD_THREAD */
        inj->pidfd = (int)syscall(SYS_pidfd_open, pid, O_EXCL);
    if (inj->pidfd < 0)
        return err_errno(err, "process %d: pidfd_open", pid);
    if (guard_find(inj, err) < 0)
        return -err->code;
    if (begin_calls(inj, err) < 0 || make_area(inj, err) < 0 || make_ctl(inj, &ours, err) < 0 || write_blob(inj, ours, err) < 0) {
        unmake(inj, ours);
        return -err->code;
    }
    if (start_host(inj, err) < 0)
        return err_wrap(err, "process %d: starting the parasite", pid);
    guard_clear(inj);
    inj->entered = true;
    return 0;
}

int inj_stop_thread(pid_t tid, struct err *err)
{
    int status;

    if (pt_interrupt(tid, err) < 0)
        return -err->code;
    for (;;) {
        if (pt_wait(tid, &status, err) < 0)
            return -err->code;
        if (status >> 16 == PTRACE_EVENT_STOP)
            return 0;
        if (pt_cont(tid, pt_sigstop(status), err) < 0)
            return -err->code;
    }
}

int inj_leave(struct inj *inj, struct err *err)
{
    int64_t r;

    if (!inj->entered)
        return 0;
    inj->entered = false;
    if (inj_stop_thread(inj->tid, err) < 0)
        return err_wrap(err, "process %d: taking the parasite out", inj->pid);
    if (begin_calls(inj, err) < 0 ||
        guarded(inj, &r, err, "closing the control socket", SYS_close, (uint64_t[6]){(uint64_t)inj->remote_ctl}) < 0 ||
        guarded(inj, &r, err, "unmapping the parasite", SYS_munmap, (uint64_t[6]){inj->base, inj->size}) < 0 ||
        pt_set_sigmask(inj->tid, inj->sigmask, err) < 0 || pt_set_regs(inj->tid, &inj->regs, err) < 0)
        return -err->code;
    guard_clear(inj);
    lower_limits(inj);
    return 0;
}

void inj_close(struct inj *inj)
{
    if (inj->ctl >= 0)
        close(inj->ctl);
    if (inj->pidfd >= 0)
        close(inj->pidfd);
    inj->ctl = inj->pidfd = -1;
}
