/*
 * The parasite: a batch executor that knows no feature. It runs the system calls that the injector
 * lists in the area, reports on a socket, and when that socket ends (the tracer is gone) returns to the program by
 * itself.
 *
 * It is freestanding and position independent, has no data of its own, and uses general registers
 * only, so that the extended state of the thread stays in the CPU untouched.
 */
#include "injector/blob/blob.h"

#define EINTR             4
#define NR_close          3
#define NR_sendto         44
#define NR_recvfrom       45
#define NR_exit_group     231
#define NR_futex          202
#define FUTEX_WAIT        0
#define FUTEX_WAKE        1
#define MSG_NOSIGNAL      0x4000

/* arch/x86_64/entry.S */
int64_t blob_syscall(int64_t nr, const uint64_t *arg);
int64_t blob_clone_vm(int64_t nr, const uint64_t *arg);
void blob_go_home(const struct blob_home *home) __attribute__((noreturn));
void blob_main(struct blob_slot *slot);

static int64_t call6(int64_t nr, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f)
{
    const uint64_t arg[6] = {a, b, c, d, e, f};

    return blob_syscall(nr, arg);
}

static int failed(int64_t ret)
{
    return ret < 0 && ret > -4096;
}

static void send_msg(int ctl, uint32_t op, uint32_t n)
{
    struct blob_msg m = {op, n, 0};

    call6(NR_sendto, (uint64_t)ctl, (uint64_t)&m, sizeof(m), MSG_NOSIGNAL, 0, 0);
}

static void run(struct blob_slot *slot, struct blob_call *calls, uint32_t n)
{
    uint32_t i;

    for (i = 0; i < n; i++) {
        struct blob_call *c = &calls[i];
        uint64_t arg[6];

        for (int k = 0; k < 6; k++)
            arg[k] = c->flags & BLOB_ARG_RET(k) ? (uint64_t)calls[c->arg[k]].ret : c->arg[k];
        c->ret = c->flags & BLOB_CLONE_VM ? blob_clone_vm(c->nr, arg) : blob_syscall(c->nr, arg);
        if ((c->flags & BLOB_FORK) && c->ret == 0) {
            slot->ctl = (int32_t)c->pad;
            slot->flags &= ~BLOB_SLOT_HEALS; /* the program's code is its parent's to go on with */
            send_msg(slot->ctl, BLOB_HELLO, 0);
            return;
        }
        if ((c->flags & BLOB_FORK_REST) && c->ret == 0)
            slot->flags &= ~BLOB_SLOT_HEALS;
        else if (c->flags & BLOB_FORK_REST)
            break;
        if ((c->flags & BLOB_MUST) && failed(c->ret))
            break;
    }
    for (i++; i < n; i++)
        calls[i].flags |= BLOB_NOT_RUN;
    send_msg(slot->ctl, BLOB_DONE, slot->index);
}

/* Where there is no program to go back to the whole process ends, threads included that nobody would wake. */
static void go_home(struct blob_slot *slot)
{
    if (!(slot->flags & BLOB_SLOT_HEALS))
        call6(NR_exit_group, 125, 0, 0, 0, 0, 0);
    blob_go_home(&slot->home);
}

/* The tracer is gone: the host closes its socket and wakes the other threads. */
static void heal(struct blob_slot *host)
{
    call6(NR_close, (uint64_t)host->ctl, 0, 0, 0, 0, 0);
    for (uint32_t i = 1; i < host->nslots; i++) {
        __atomic_store_n(&host[i].park, 1, __ATOMIC_SEQ_CST);
        call6(NR_futex, (uint64_t)&host[i].park, FUTEX_WAKE, 1, 0, 0, 0);
    }
    go_home(host);
}

void blob_main(struct blob_slot *slot)
{
    struct blob_msg m;

    if (slot->calls)
        run(slot, (struct blob_call *)slot->calls, slot->ncalls);
    while (!(slot->flags & BLOB_SLOT_HOST)) {
        if (__atomic_load_n(&slot->park, __ATOMIC_SEQ_CST))
            go_home(slot);
        call6(NR_futex, (uint64_t)&slot->park, FUTEX_WAIT, 0, 0, 0, 0);
    }
    for (;;) {
        int64_t r = call6(NR_recvfrom, (uint64_t)slot->ctl, (uint64_t)&m, sizeof(m), 0, 0, 0);

        if (r == (int64_t)sizeof(m) && m.op == BLOB_RUN)
            run(slot, (struct blob_call *)m.calls, m.n);
        else if (r != -EINTR)
            heal(slot);
    }
}
