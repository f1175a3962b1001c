/*
 * What waits in a pseudo-terminal, taken and put back by the process that holds the master (ttyexchange.c);
 * what is done with it is ttyqueue.c's.
 */
#ifndef TRACER_TTYEXCHANGE_H
#define TRACER_TTYEXCHANGE_H

#include "base/ttyinput.h"
#include "tracer/tty.h"

#ifndef TIOCGPTPEER
#define TIOCGPTPEER _IO('T', 0x41)
#endif

/*
 * Reads that empty a queue of at most 24 KiB: pty.c allows flip buffers of 8 KiB, which hold twice that
 * (tty_buffer.c), in pieces of at least 256 bytes; the discipline holds 4 KiB more.
 */
#define TTY_READS 128u

/* Buffers in the area, and the calls that fill and empty them. */
struct tty_taken {
    uint64_t data[TTY_READS];
    uint32_t read[TTY_READS], written[TTY_READS];
};

struct tty_job {
    const struct tty_seen *seen;
    Tty *m;
    struct termios2 termios;
    struct inj_batch b;
    int master, slave; /* fds in the process that holds the master */
    int fd;            /* the tracer's copy of the master */
    int exclusive;     /* a copy of the slave in that process, to make it not exclusive for the moment; -1 */
    bool with_input, with_output, jammed;
    struct tty_taken input, output;
    uint64_t counted; /* address of what FIONREAD said */
    uint32_t open_call, readable, writable;
};

/* Release what the job holds. */
void tty_job_end(struct tty_job *j);

/*
 * Take input or output or both, as the job says, and put it back: as it was taken or, if `typed` is not NULL,
 * the input as that says. One batch; it leaves nothing changed when it fails.
 */
int tty_exchange(struct tty_job *j, const struct tty_refill *r, const struct tty_refill *typed,
                 const char *what, struct err *err);

/* What calls of the last batch said: data that was read, whether a poll found something. */
int tty_gather(struct tty_job *j, const struct tty_taken *t, struct arena *a, ProtobufCBinaryData *all,
               struct err *err);
bool tty_polled(const struct tty_job *j, uint32_t call);

/* After an exchange: what a buffer refused goes in too. */
int tty_put_rest(struct tty_job *j, const struct tty_taken *t, struct err *err);
/* The same for the output, which is then in j->m. */
int tty_settle_output(struct ckpt *c, struct tty_job *j, struct err *err);
/* Write all that fits within a time; how much that was. */
size_t tty_put_slowly(int fd, const uint8_t *data, size_t len);

/* ^S again, as the program's own mode has it, if j->m says that it was. */
int tty_stop_again(struct tty_job *j, struct err *err);

#endif
