/*
 * Keeping senders back: for a checkpoint without CAP_NET_ADMIN, when more is on its way in TCP connections than can be
 * brought to the receivers. Everybody is let go but the senders, until the receivers have got it; then everybody is
 * frozen anew. Who is kept back stays in its ptrace-stop, so it goes on by itself if the tracer is killed.
 */
#ifndef TRACER_KEEPBACK_H
#define TRACER_KEEPBACK_H

#include <stdbool.h>
#include <stddef.h>

#include "tracer/ckpt.h"

struct kept_thread;

struct keepback { /* zeroed: nobody */
    struct kept_thread *thread;
    size_t nthreads, cap_threads;
    int *fd; /* copies of the sending ends, owned */
    size_t nfds, cap_fds;
};

int keepback_add_end(struct keepback *k, int fd, struct err *err);
/* false: no memory. The thread is in a ptrace-stop, with the registers it is to go on with. */
bool keepback_add_thread(struct keepback *k, const struct thread *t);
/* Was it kept back? Then t gets what was known of the call that it is blocked in. */
bool keepback_find(const struct keepback *k, struct thread *t);

/* Wait until the ends have nothing left to send, for a quarter of a second at most. At once if there are none. */
void keepback_wait(const struct keepback *k);

/* Forget everybody: they are frozen like all again. Or let them go. Both may be called again. */
void keepback_forget(struct keepback *k);
void keepback_release(struct keepback *k);

#endif
