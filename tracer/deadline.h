/*
 * When calls end that were interrupted. The kernel keeps the deadline of such a call (nanosleep(2), poll(2), futex(2))
 * where nobody can read it, and its arguments still say the whole time. So the tracer remembers it from one checkpoint
 * to the next, and the driver of a restart hands it on.
 */
#ifndef TRACER_DEADLINE_H
#define TRACER_DEADLINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/user.h>

struct deadline {
    pid_t tid;
    uint32_t nr;
    int64_t at_ns;     /* CLOCK_MONOTONIC */
    uint64_t where[6]; /* rip, rsp, rdi, rsi, rdx, r10: still in the same call? */
};

struct deadlines {
    struct deadline *list;
    size_t n, cap;
};

/* The thread was interrupted in call nr, of which ns are left. Without memory it is forgotten. */
void deadline_note(struct deadlines *d, pid_t tid, long nr, const struct user_regs_struct *r, int64_t ns);
void deadline_add(struct deadlines *d, const struct deadline *one);

/*
 * The thread is interrupted in a call that has been interrupted before (orig_rax says restart_syscall): which one, and
 * how much is left. false: not known.
 */
bool deadline_find(const struct deadlines *d, pid_t tid, const struct user_regs_struct *r, long *nr, int64_t *ns);

void deadlines_free(struct deadlines *d);

#endif
