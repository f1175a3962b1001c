/*
 * What waits in a socket that knows no SO_PEEK_OFF (ICMP, raw, netlink): only the first message can be looked at. Whether
 * it is the only one, the memory tells that all of them take.
 */
#ifndef TRACER_SINGLE_H
#define TRACER_SINGLE_H

#include "tracer/peek.h"

/*
 * Call `each` for the message that waits, if any does (p->fds and credentials are not looked at). -EAGAIN: there may be
 * more, or it is too long. what: "packets", for that message.
 */
int peek_single(int fd, const char *what, int (*each)(void *arg, struct peeked *p, struct err *err), void *arg,
                struct err *err);

#endif
