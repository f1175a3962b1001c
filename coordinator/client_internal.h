/* What the files of the client library share. Its users include client.h only. */
#ifndef COORDINATOR_CLIENT_INTERNAL_H
#define COORDINATOR_CLIENT_INTERNAL_H

#include "coordinator/client.h"
#include "coordinator/wire.h"

struct coord {
    int fd;
    struct wire *wire;
    uint32_t next_seq;
    Wire__Msg **queue; /* parsed, not handed out; oldest first */
    size_t n_queue, cap_queue;
    int lost; /* end of file or an error was seen */
    char *where, *hostname, *key_file;
    int port;
    char *own_hostname, *boot_id; /* coord_host() */
};

struct coord *coord_alloc(const char *hostname, int port, const char *key_file);

/* The handshake on a connected fd, within timeout_ms. */
int coord_handshake(struct coord *c, int timeout_ms, struct err *err);

/* Receive what is there (without waiting) and parse it into the queue. -ENODATA: end of file. */
int coord_pull(struct coord *c, struct err *err);

/* Wait for input until deadline_ms of monotonic_ms(), or -1. */
int coord_poll(struct coord *c, int64_t deadline_ms, struct err *err);
int64_t coord_deadline(int timeout_ms);

/* Is m the answer to seq? */
static inline int coord_answers(const Wire__Msg *m, uint32_t seq)
{
    return m->re == seq && seq != 0;
}

/* An Error answer as our error. */
int coord_take_error(const Wire__Msg *m, struct err *err);

#endif
