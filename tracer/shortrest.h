/* Which calls are cut short by a stop, and what is left of them: see shortcall.h. */
#ifndef TRACER_SHORTREST_H
#define TRACER_SHORTREST_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/user.h>

#define SHORT_IOVS_MAX 2u

/* What the rest of a call needs in memory. The process can only read it. */
struct short_data {
    struct msghdr msg;
    struct iovec iov[SHORT_IOVS_MAX];
};

/* By registers alone: can the thread have been in a call that was cut short? */
bool short_possible(const struct user_regs_struct *r);

/* Will its rest take a short_data? */
bool short_needs_data(const struct user_regs_struct *r);

/*
 * The thread's call has returned r->rax. If it was cut short, make *r (number in orig_rax, and arguments) that of the call
 * that does the rest, with what it needs in *d, which will be at `at`; its result is to be added. False: it was not, or
 * there is no telling.
 */
bool short_rest(pid_t tid, struct user_regs_struct *r, struct short_data *d, uint64_t at);

#endif
