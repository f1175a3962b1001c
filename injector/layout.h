/* Where things are in the area; only the injector's own files include this. */
#ifndef INJECTOR_LAYOUT_H
#define INJECTOR_LAYOUT_H

#include "injector/inject.h"
#include "injector/ptrace.h"

#define HOST_STACK 16384u
#define SLOT_SPACE(slots) (((uint64_t)(slots) * sizeof(struct blob_slot) + 4095) & ~4095ull)
#define STACK_SPACE(slots) (((uint64_t)(slots) * INJ_SLOT_STACK + HOST_STACK + 4095) & ~4095ull)
#define CALL_SPACE ((INJ_MAX_CALLS * sizeof(struct blob_call) + 4095) & ~4095ull)

static inline uint64_t calls_at(const struct inj *inj)
{
    return inj->base + BLOB_TEXT_SIZE + SLOT_SPACE(inj->nslots) + STACK_SPACE(inj->nslots);
}

static inline uint64_t data_at(const struct inj *inj)
{
    return calls_at(inj) + CALL_SPACE;
}

/* What a thread must have to run what waits in slot i. */
static inline void enter_slot(const struct inj *inj, uint32_t i, struct user_regs_struct *regs)
{
    pt_go_to(regs, inj->base);
    regs->rsp = inj_slot_stack(inj, i);
    regs->rdi = inj_slot(inj, i);
}

/* inject.c: stop a thread that runs in the parasite. Stops that are not the one asked for are passed over. */
int inj_stop_thread(pid_t tid, struct err *err);

/* batch.c: see to it that a thread that has been stopped on its way goes on; fails if the process has ended. */
int inj_look_after(const struct inj *inj, pid_t tid, struct err *err);

/* batch.c: how long inj_wait_msg() waits before it looks after the host. Once, when inj->ctl is there. */
int inj_set_timeout(const struct inj *inj, struct err *err);

#endif
