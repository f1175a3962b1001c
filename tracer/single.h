/*
 * What waits in a socket that knows no SO_PEEK_OFF (ICMP, raw, netlink): by system calls only the first message can be
 * looked at. Whether it is the only one, the memory tells that all of them take. If it is not, root can see the others, too
 * (skbqueue.h).
 */
#ifndef TRACER_SINGLE_H
#define TRACER_SINGLE_H

#include "tracer/peek.h"

/*
 * Call `each` for every message that waits (p->fds and credentials are not looked at). -EAGAIN: there may be more than can
 * be looked at, or the first is too long. what: "packets", for the words of that.
 */
int peek_single(int fd, const char *what, int (*each)(void *arg, struct peeked *p, struct err *err), void *arg,
                struct err *err);

#endif
