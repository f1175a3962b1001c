/*
 * Calls after which the kernel remembers who made them: SO_PEERCRED of a unix socket is the process that called
 * socketpair(2), connect(2) or listen(2), with its effective ids at that time.
 */
#ifndef RESTORER_PEERCRED_H
#define RESTORER_PEERCRED_H

#include "restorer/socket.h"

struct cred_call {
    enum { CALL_PAIR, CALL_LISTEN, CALL_CONNECT } what;
    const SockCred *who; /* as the image says; NULL: not known, the driver does it */
    int type;            /* CALL_PAIR */
    int backlog;         /* CALL_LISTEN */
    /* CALL_CONNECT: to an abstract name, or to the socket whose file `node` (O_PATH) is when it is not -1. */
    int node;
    struct sockaddr_un to;
    socklen_t to_len;
    int *fds;            /* the driver's; CALL_PAIR: two for each, to be filled in */
    size_t n;            /* sockets, or pairs */
};

/*
 * Make the call for all of them, in order. A process of the images does it itself; for one that has ended, a child
 * with its pid does; when that pid is taken by somebody else, the driver (then SO_PEERCRED is wrong, with
 * a warning).
 */
int cred_run(struct restore *r, const struct cred_call *c, struct err *err);

/*
 * sendmsg(2) of credentials needs a process with that pid to exist: run f(arg) while one does. pid as the driver
 * sees it in *here; the image's when it can't be had.
 */
int with_pid(struct restore *r, pid_t pid, int (*f)(void *arg, pid_t here, struct err *err), void *arg,
             struct err *err);

#endif
