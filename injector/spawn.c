/*
 * Processes that consist of the parasite and nothing else: the skeletons of a restart. The area is mapped
 * in the driver; children inherit it by fork, so no code has to be injected into them.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "base/util.h"
#include "injector/blob_code.h"
#include "injector/layout.h"
#include "injector/ptrace.h"

void inj_exit(struct inj *inj, int status)
{
    struct blob_call c = {.nr = SYS_exit_group, .arg = {(uint64_t)status}};
    struct inj_batch b = {.inj = inj, .calls = &c, .ncalls = 1};
    struct pollfd p = {.fd = inj->pidfd, .events = POLLIN};
    struct err ignored;

    if (inj_start(&b, &ignored) == 0)
        while (poll(&p, 1, -1) < 0 && errno == EINTR)
            ;
    inj_close(inj);
}

int inj_area_local(uint64_t base, uint32_t slots, struct err *err)
{
    uint64_t size = inj_area_size(slots);
    void *p = mmap((void *)base, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE | MAP_NORESERVE, -1, 0);

    if (p == MAP_FAILED)
        return err_errno(err, "mapping the parasite");
    memcpy(p, blob_code, blob_code_size);
    if (mprotect(p, BLOB_TEXT_SIZE, PROT_READ | PROT_EXEC) < 0)
        return err_errno(err, "protecting the parasite");
    return 0;
}

static void child_init(struct inj *c, uint64_t base, uint32_t slots, int remote_ctl)
{
    *c = (struct inj){.pidfd = -1, .ctl = -1, .base = base, .nslots = slots, .size = inj_area_size(slots),
                      .remote_ctl = remote_ctl};
}

static int child_ready(struct inj *c, struct err *err)
{
    struct blob_msg m;

    if (inj_set_timeout(c, err) < 0)
        return -err->code;
    c->pidfd = (int)syscall(SYS_pidfd_open, c->pid, 0);
    if (c->pidfd < 0)
        return err_errno(err, "process %d: pidfd_open", c->pid);
    if (inj_wait_msg(c, &m, err) < 0)
        return -err->code;
    return 0;
}

/* In the child: nothing of the C library is used any more. */
static void __attribute__((noreturn)) become_parasite(uint64_t base, uint64_t slot, uint64_t stack)
{
    __asm__ volatile("movq %0, %%rsp\n\tjmp *%2" : : "r"(stack), "D"(slot), "r"(base) : "memory");
    __builtin_unreachable();
}

/* No exit signal: with CLONE_PARENT it is the caller's own (clone(2)), and else it would be in the way. */
static pid_t do_clone3(uint64_t flags, const pid_t *pid)
{
    struct clone_args ca = {.flags = flags};

    if (*pid) {
        ca.set_tid = (uint64_t)pid;
        ca.set_tid_size = 1;
    }
    return (pid_t)syscall(SYS_clone3, &ca, sizeof(ca));
}

int inj_spawn(struct inj *child, uint64_t base, uint32_t slots, uint64_t clone_flags, pid_t pid, int remote_ctl,
              struct err *err)
{
    struct blob_slot *slot;
    uint64_t all = ~0ull, old;
    int pair[2];

    child_init(child, base, slots, remote_ctl);
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return err_errno(err, "socketpair");
    child->ctl = pair[0];
    slot = (struct blob_slot *)inj_slot(child, 0);
    *slot = (struct blob_slot){.flags = BLOB_SLOT_HOST, .ctl = remote_ctl, .nslots = 1};
    /* The host's first batch is empty but for its report, which tells that the child runs. */
    *(struct blob_call *)calls_at(child) = (struct blob_call){.nr = SYS_getpid};
    slot->calls = calls_at(child);
    slot->ncalls = 1;

    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, &old, sizeof(all));
    child->pid = do_clone3(clone_flags, &pid);
    if (child->pid == 0) {
        syscall(SYS_dup3, pair[1], remote_ctl, 0);
        syscall(SYS_close_range, 0, remote_ctl - 1, 0);
        syscall(SYS_close_range, remote_ctl + 1, ~0u, 0);
        become_parasite(base, inj_slot(child, 0), inj_slot_stack(child, 0));
    }
    int saved = errno;
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &old, NULL, sizeof(old));
    close(pair[1]);
    if (child->pid < 0) {
        errno = saved;
        return err_errno(err, "creating process %d", pid);
    }
    child->tid = child->pid;
    return child_ready(child, err);
}

/* `end` is the child's end of its control socket, as it came. */
static int remote_clone(struct inj *parent, struct inj *child, const struct inj_fork_args *a, int end, struct err *err)
{
    _cleanup_batch_ struct inj_batch b = {0};
    struct clone_args ca = {.flags = a->flags, .exit_signal = (uint64_t)a->exit_signal};
    uint32_t call;

    if (inj_begin(&b, parent, err) < 0)
        return -err->code;
    if (a->nset_tid) {
        ca.set_tid = inj_data(&b, a->set_tid, a->nset_tid * sizeof(pid_t));
        ca.set_tid_size = a->nset_tid;
    }
    if (a->flags & CLONE_VM) {
        uint64_t top = inj_slot_stack(child, a->slot), slot_at = inj_slot(child, a->slot);
        struct blob_call first = {.nr = SYS_getpid}; /* its report tells that the child runs */
        struct blob_slot slot = {.calls = inj_data(&b, &first, sizeof(first)), .ncalls = 1, .flags = BLOB_SLOT_HOST,
                                 .ctl = a->remote_ctl, .index = a->slot, .nslots = 1};
        if (pt_write(parent->pid, slot_at, &slot, sizeof(slot), err) < 0 ||
            pt_write(parent->pid, top - 16, &slot_at, sizeof(slot_at), err) < 0)
            return -err->code;
        ca.stack = top - INJ_SLOT_STACK;
        ca.stack_size = INJ_SLOT_STACK - 16;
    }
    uint64_t args_at = inj_data(&b, &ca, sizeof(ca));
    inj_call(&b, BLOB_MUST, SYS_dup3, end, a->remote_ctl);
    inj_call(&b, BLOB_MUST, SYS_close, end);
    call = inj_call(&b, a->flags & CLONE_VM ? BLOB_CLONE_VM : BLOB_FORK, SYS_clone3, args_at, sizeof(ca));
    b.calls[call].pad = (uint32_t)a->remote_ctl;
    /* The end of the child must be seen on its socket: nobody else may hold it. (A forked child does not run this.) */
    if (!(a->flags & CLONE_FILES))
        inj_call(&b, 0, SYS_close, a->remote_ctl);
    if (inj_run(&b, err) < 0 || inj_check(&b, err, "control socket") < 0)
        return -err->code;
    if (inj_failed(inj_ret(&b, call)))
        return err_set(err, (int)-inj_ret(&b, call), "creating a process: %s", strerror((int)-inj_ret(&b, call)));
    child->pid = child->tid = (pid_t)inj_ret(&b, call);
    return 0;
}

int inj_fork(struct inj *parent, struct inj *child, const struct inj_fork_args *a, struct err *err)
{
    int pair[2], remote, r;

    child_init(child, parent->base, parent->nslots, a->remote_ctl);
    child->slot = a->flags & CLONE_VM ? a->slot : parent->slot;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return err_errno(err, "socketpair");
    child->ctl = pair[0];
    r = inj_send_fds(parent, &pair[1], &remote, 1, err);
    close(pair[1]);
    if (r < 0 || remote_clone(parent, child, a, remote, err) < 0)
        return -err->code;
    if (a->attach && a->attach(a->arg, child->pid, err) < 0)
        return -err->code;
    return child_ready(child, err);
}
