/* All that waits in a socket, also behind the first message, when no system call shows it. */
#ifndef TRACER_SKBQUEUE_H
#define TRACER_SKBQUEUE_H

#include "tracer/peek.h"

/*
 * Call `each` for every message that waits in an internet or netlink socket. first: the first, as MSG_PEEK gives it; taken:
 * SK_MEMINFO_RMEM_ALLOC of the socket: what is found must agree with both. Nothing is changed. Fails (for lack of rights, or
 * of a kernel that describes itself) before `each` is called.
 */
int skbqueue_peek(int fd, const struct peeked *first, uint32_t taken,
                  int (*each)(void *arg, struct peeked *p, struct err *err), void *arg, struct err *err);

#endif
