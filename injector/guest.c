/*
 * Other threads of a process that the parasite is in: each runs a batch of its own in a slot of the area, reports, and
 * waits there until it is stopped and given back its registers. If the tracer dies meanwhile, the host wakes them and
 * each goes home by itself, as it does.
 */
#include <errno.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/socket.h>

#include "base/util.h"
#include "injector/guard.h"
#include "injector/layout.h"
#include "injector/ptrace.h"

uint64_t inj_scratch(const struct inj *inj)
{
    return data_at(inj);
}

static bool fit(const struct inj *inj, const struct inj_guest *guest, uint32_t n)
{
    uint64_t calls = 0;

    for (uint32_t i = 0; i < n; i++)
        calls += guest[i].ncalls;
    return calls <= INJ_MAX_CALLS && n < inj->nslots;
}

/* Slot i + 1 is written before the thread is touched: from its first instruction there it finds its way home. */
static int start(const struct inj *inj, const struct inj_guest *g, uint32_t slot, uint64_t calls, struct err *err)
{
    struct user_regs_struct regs = *g->regs;
    struct blob_slot s = {.calls = calls, .ncalls = g->ncalls, .flags = BLOB_SLOT_HEALS, .ctl = inj->remote_ctl,
                          .index = slot};

    guard_home(&s.home, g->regs, g->sigmask);
    enter_slot(inj, slot, &regs);
    if (pt_write(inj->pid, calls, g->calls, g->ncalls * sizeof(*g->calls), err) < 0 ||
        pt_write(inj->pid, regs.rdi, &s, sizeof(s), err) < 0 || pt_set_regs(g->tid, &regs, err) < 0 ||
        pt_set_sigmask(g->tid, ~0ull, err) < 0)
        return -err->code;
    return pt_cont(g->tid, 0, err);
}

static int wait_for_all(struct inj *inj, const struct inj_guest *guest, uint32_t n, struct err *err)
{
    for (uint32_t left = n; left > 0;) {
        struct blob_msg m;
        ssize_t len = recv(inj->ctl, &m, sizeof(m), 0);

        if (len == sizeof(m) && m.op == BLOB_DONE && m.n > 0 && m.n <= n) {
            left--;
            continue;
        }
        if (len == 0 || (len < 0 && errno == ECONNRESET))
            return err_set(err, ESRCH, "process %d has ended", inj->pid);
        if (len >= 0)
            return err_set(err, EPROTO, "process %d: strange message on the control socket", inj->pid);
        if (errno != EAGAIN && errno != EINTR)
            return err_errno(err, "process %d: control socket", inj->pid);
        for (uint32_t i = 0; i < n; i++)
            if (inj_look_after(inj, guest[i].tid, err) < 0)
                return -err->code;
    }
    return 0;
}

/* From wherever it is to a stop with its own registers. */
static int take_back(const struct inj_guest *g, struct err *err)
{
    if (inj_stop_thread(g->tid, err) < 0 || pt_set_sigmask(g->tid, g->sigmask, err) < 0)
        return -err->code;
    return pt_set_regs(g->tid, g->regs, err);
}

int inj_run_guests(struct inj *inj, struct inj_guest *guest, uint32_t n, struct err *err)
{
    uint32_t begun = 0;
    struct err late;
    int r = fit(inj, guest, n) ? 0 : err_set(err, E2BIG, "process %d: too many calls", inj->pid);

    for (uint64_t at = calls_at(inj); begun < n && r == 0; begun++) {
        r = start(inj, &guest[begun], begun + 1, at, err);
        at += guest[begun].ncalls * sizeof(struct blob_call);
    }
    if (r == 0)
        r = wait_for_all(inj, guest, n, err);
    for (uint32_t i = 0; i < begun; i++)
        if (take_back(&guest[i], &late) < 0 && r == 0) {
            *err = late;
            r = -late.code;
        }
    for (uint64_t at = calls_at(inj); n > 0 && r == 0; n--, guest++) {
        r = pt_read(inj->pid, at, guest->calls, guest->ncalls * sizeof(*guest->calls), err);
        at += guest->ncalls * sizeof(struct blob_call);
    }
    return r;
}
