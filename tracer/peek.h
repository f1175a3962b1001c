/*
 * Reading a socket's receive queue without taking anything from it (MSG_PEEK, and SO_PEEK_OFF to get past the
 * first message).
 */
#ifndef TRACER_PEEK_H
#define TRACER_PEEK_H

#include <sys/socket.h>

#include "tracer/ckpt.h"

#define PEEK_MAX_FDS 253 /* the kernel's SCM_MAX_FD */

struct peeked {
    const uint8_t *data;
    size_t len;
    struct sockaddr_storage from;
    socklen_t from_len;  /* 0: unnamed */
    const uint8_t *control; /* all control messages, as recvmsg(2) gives them */
    size_t control_len;
    int fds[PEEK_MAX_FDS];  /* of SCM_RIGHTS: new fds of the tracer's; closed after `each` unless set to -1 */
    uint32_t nfds;
    bool has_cred;
    struct ucred cred;
};

/*
 * Call `each` for every message that waits in the socket (streams: for every run of bytes that belongs
 * together). `each` may keep nothing of the struct but what it copies. The socket's SO_PEEK_OFF is as before
 * when this returns; should the tracer die meanwhile, it stays moved, which only a program that itself peeks
 * can see: the one trace that peeking may leave.
 */
int peek_messages(int fd, bool stream, int (*each)(void *arg, struct peeked *p, struct err *err), void *arg,
                  struct err *err);

#endif
