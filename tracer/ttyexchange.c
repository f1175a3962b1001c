/*
 * One batch in the process that holds the master of a pseudo-terminal: open the slave, switch the line
 * discipline to raw, read until nothing is left, type and print all of it again (base/ttyinput.h), and leave
 * everything as it was. Once started it runs to its end even if the tracer is killed. Calls that may fail
 * come first, before anything is taken.
 */
#include "tracer/ttyexchange.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#include "base/util.h"

#define CHUNK   2048u
#define WAIT_MS 200

void tty_job_end(struct tty_job *j)
{
    inj_end(&j->b);
    if (j->fd >= 0)
        close(j->fd);
}
/* ---- parts of a batch ---- */

static void ioctl_int(struct tty_job *j, uint32_t flags, unsigned long request, int value)
{
    inj_call(&j->b, flags, SYS_ioctl, j->master, request, inj_data(&j->b, &value, sizeof(value)));
}

static void set_termios(struct tty_job *j, uint32_t flags, const struct termios2 *t)
{
    inj_call(&j->b, flags, SYS_ioctl, j->slave, TCSETS2, inj_data(&j->b, t, sizeof(*t)));
}

/* poll(2) of the slave; when it is not readable this also waits for input that is on its way (n_tty_poll). */
static uint32_t poll_slave(struct tty_job *j, short events, int timeout)
{
    struct pollfd p = {.fd = j->slave, .events = events};

    return inj_call(&j->b, 0, SYS_poll, inj_data(&j->b, &p, sizeof(p)), 1, timeout);
}

static void type(struct tty_job *j, const void *bytes, size_t n)
{
    inj_call(&j->b, 0, SYS_write, j->master, inj_data(&j->b, bytes, n), n);
}

/*
 * Both ends open and not blocking, packet mode off so that nothing that follows is reported to the master.
 * The slave's number must be known for poll(2), and dup3 gives it one that is free.
 */
static void open_both(struct tty_job *j)
{
    if (j->m->locked)
        ioctl_int(j, BLOB_MUST, TIOCSPTLCK, 0);
    if (j->exclusive >= 0)
        inj_call(&j->b, BLOB_MUST, SYS_ioctl, j->exclusive, TIOCNXCL, 0);
    j->open_call = inj_call(&j->b, BLOB_MUST, SYS_ioctl, j->master, TIOCGPTPEER,
                            O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
    inj_call(&j->b, BLOB_MUST | BLOB_ARG_RET(0), SYS_dup3, j->open_call, j->slave, O_CLOEXEC);
    inj_call(&j->b, BLOB_ARG_RET(0), SYS_close, j->open_call);
    inj_call(&j->b, BLOB_MUST, SYS_fcntl, j->master, F_SETFL, j->seen->master_flags | O_NONBLOCK);
    if (j->m->packet)
        ioctl_int(j, BLOB_MUST, TIOCPKT, 0);
}

/*
 * A slave that is closed for the last time hangs up the master, which must not happen to one that nobody has
 * opened yet. An open that fails (for the lock) marks the slave with TTY_IO_ERROR, and then its close says
 * nothing (pty.c: pty_open, pty_close).
 */
static void close_both(struct tty_job *j)
{
    if (j->m->packet)
        ioctl_int(j, 0, TIOCPKT, 1);
    inj_call(&j->b, 0, SYS_fcntl, j->master, F_SETFL, j->seen->master_flags & ~(uint32_t)O_CLOEXEC);
    if (j->m->fresh) {
        ioctl_int(j, 0, TIOCSPTLCK, 1);
        inj_call(&j->b, 0, SYS_ioctl, j->master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
        ioctl_int(j, 0, TIOCSPTLCK, 0);
    }
    if (j->exclusive >= 0)
        inj_call(&j->b, 0, SYS_ioctl, j->exclusive, TIOCEXCL, 0);
    inj_call(&j->b, 0, SYS_close, j->slave);
    if (j->m->locked)
        ioctl_int(j, 0, TIOCSPTLCK, 1);
}

static void take(struct tty_job *j, struct tty_taken *t, int fd)
{
    for (uint32_t i = 0; i < TTY_READS; i++) {
        t->data[i] = inj_data(&j->b, NULL, CHUNK);
        t->read[i] = inj_call(&j->b, 0, SYS_read, fd, t->data[i], CHUNK);
    }
}

/* A read that found nothing makes the write fail with EINVAL, for its length. */
static void put_back(struct tty_job *j, struct tty_taken *t, int fd, bool wait)
{
    for (uint32_t i = 0; i < TTY_READS; i++) {
        if (wait && i < 4)
            poll_slave(j, POLLOUT, WAIT_MS);
        t->written[i] = inj_call(&j->b, BLOB_ARG_RET(2), SYS_write, fd, t->data[i], t->read[i]);
    }
}

/* The output flows: ^S and TCOOFF are undone. The caller finds out whether it was stopped and stops it again.
 */
static void open_gate(struct tty_job *j, const struct tty_refill *r)
{
    inj_call(&j->b, 0, SYS_ioctl, j->slave, TCXONC, TCOON);
    if (r->gate)
        type(j, &r->start, 1);
    poll_slave(j, POLLOUT, WAIT_MS);
}

static void close_gate(struct tty_job *j, const struct tty_refill *r)
{
    if (!r->gate)
        return;
    type(j, &r->stop, 1);
    poll_slave(j, POLLIN, 0);
}

/*
 * Take input or output or both and put them back. The output comes out first and goes back last, so that in
 * between its queue has room and a slave that cannot be written to is one that was stopped. typed NULL: as it
 * was taken.
 */
static void add_exchange(struct tty_job *j, const struct tty_refill *r, const struct tty_refill *typed)
{
    struct termios2 raw = r->during;
    int zero = 0;

    raw.c_lflag &= ~(tcflag_t)ICANON;
    j->readable = poll_slave(j, POLLIN, 0);
    j->counted = inj_data(&j->b, &zero, sizeof(zero));
    inj_call(&j->b, 0, SYS_ioctl, j->slave, FIONREAD, j->counted);
    set_termios(j, BLOB_MUST, j->with_input ? &raw : &r->during);
    if (j->with_output)
        take(j, &j->output, j->master);
    if (j->with_input)
        take(j, &j->input, j->slave);
    j->writable = poll_slave(j, POLLOUT, 0);
    if (j->with_input) {
        set_termios(j, 0, &r->during);
        close_gate(j, r);
        if (typed)
            type(j, typed->bytes, typed->len);
        else
            put_back(j, &j->input, j->master, false);
    }
    open_gate(j, r);
    if (j->with_output && !j->jammed)
        put_back(j, &j->output, j->slave, true);
    set_termios(j, 0, &j->termios);
}

/* ---- running it ---- */

/* Calls that must work come before anything is taken; if one does not, undo what those before it did. */
static void undo_open(struct tty_job *j)
{
    int64_t opened = inj_ret(&j->b, j->open_call), moved = inj_ret(&j->b, j->open_call + 1);
    struct err ignored;

    inj_reset(&j->b);
    if (opened >= 0 && moved < 0)
        inj_call(&j->b, 0, SYS_close, opened);
    close_both(j);
    inj_run(&j->b, &ignored);
}

static int run(struct tty_job *j, const char *what, struct err *err)
{
    if (inj_run(&j->b, err) < 0)
        return -err->code;
    if (inj_check(&j->b, err, what) < 0) {
        undo_open(j);
        return -err->code;
    }
    return 0;
}

/* All that was read, one after the other. */
int tty_gather(struct tty_job *j, const struct tty_taken *t, struct arena *a, ProtobufCBinaryData *all,
               struct err *err)
{
    *all = (ProtobufCBinaryData){.data = arena_alloc(a, TTY_READS * CHUNK)};
    if (!all->data)
        return err_set(err, ENOMEM, "out of memory");
    for (uint32_t i = 0; i < TTY_READS; i++) {
        int64_t got = inj_ret(&j->b, t->read[i]);
        if (inj_failed(got) && got != -EAGAIN && !(got == -EIO && t == &j->output))
            return err_set(err, (int)-got, "reading what waits: %s", strerror((int)-got));
        if (got > 0) {
            memcpy(all->data + all->len, inj_at(&j->b, t->data[i]), (size_t)got);
            all->len += (size_t)got;
        }
    }
    return 0;
}

/* What a full buffer refused is written by the tracer, waiting for room, but not for ever. */
int tty_put_rest(struct tty_job *j, const struct tty_taken *t, struct err *err)
{
    _cleanup_close_ int slave = -1;
    int fd = j->fd;

    for (uint32_t i = 0; i < TTY_READS; i++) {
        int64_t got = inj_ret(&j->b, t->read[i]), put = inj_ret(&j->b, t->written[i]);
        const uint8_t *data = inj_at(&j->b, t->data[i]);
        for (put = put > 0 ? put : 0; put < got;) {
            if (t == &j->output && slave < 0)
                fd = slave = ioctl(j->fd, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
            struct pollfd p = {.fd = fd, .events = POLLOUT};
            ssize_t n = poll(&p, 1, WAIT_MS) > 0 ? write(fd, data + put, (size_t)(got - put)) : -1;
            if (n <= 0)
                return err_set(err, EIO, "what waits in the terminal could not be put back");
            put += n;
        }
    }
    return 0;
}

/*
 * Write all that fits; what does not within the time is left. Returns how much was written. The kernel takes
 * pieces until they are more than its limit. Small ones leave no gaps, and a last one of almost a page goes
 * as far beyond the limit as any program can have come (tty_buffer.c).
 */
size_t tty_put_slowly(int fd, const uint8_t *data, size_t len)
{
    size_t put = 0;

    for (int tries = 0; put < len && tries < 10;) {
        size_t piece = len - put > 3584 ? 256 : len - put;
        struct pollfd p = {.fd = fd, .events = POLLOUT};
        ssize_t n;

        poll(&p, 1, WAIT_MS / 10);
        n = write(fd, data + put, piece);
        tries = n > 0 ? 0 : tries + 1;
        put += n > 0 ? (size_t)n : 0;
    }
    return put;
}

/*
 * The output of a jammed terminal. Echoes that had to wait for room come out now; they are put behind it, and
 * lost if there is no room for them.
 */
static int put_jammed(struct tty_job *j, const ProtobufCBinaryData *output, struct err *err)
{
    _cleanup_close_ int slave = ioctl(j->fd, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
    struct termios2 raw = j->termios;
    struct pollfd p = {.fd = j->fd, .events = POLLIN};
    uint8_t echo[CHUNK];
    ssize_t n = 0;
    size_t put;

    if (slave < 0)
        return err_errno(err, "opening the slave");
    raw.c_oflag = 0;
    ioctl(j->fd, TIOCPKT, &(int){0});
    ioctl(slave, TCSETS2, &raw);
    if (poll(&p, 1, 0) > 0)
        n = read(j->fd, echo, sizeof(echo));
    put = tty_put_slowly(slave, output->data, output->len);
    if (n > 0)
        tty_put_slowly(slave, echo, (size_t)n);
    ioctl(slave, TCSETS2, &j->termios);
    if (j->m->packet)
        ioctl(j->fd, TIOCPKT, &(int){1});
    if (put < output->len)
        return err_set(err, EIO, "of %zu bytes that waited in the terminal %zu could not be put back",
                       output->len, output->len - put);
    return 0;
}
/* After an exchange: the output is in again, and in m. */
int tty_settle_output(struct ckpt *c, struct tty_job *j, struct err *err)
{
    if (!j->with_output)
        return 0;
    if (tty_gather(j, &j->output, c->arena, &j->m->output, err) < 0)
        return -err->code;
    return j->jammed ? put_jammed(j, &j->m->output, err) : tty_put_rest(j, &j->output, err);
}

int tty_exchange(struct tty_job *j, const struct tty_refill *r, const struct tty_refill *typed,
                 const char *what, struct err *err)
{
    inj_reset(&j->b);
    open_both(j);
    add_exchange(j, r, typed);
    close_both(j);
    return run(j, what, err);
}
bool tty_polled(const struct tty_job *j, uint32_t call)
{
    return inj_ret(&j->b, call) > 0;
}

/* ^S again, as the program's own mode has it. */
int tty_stop_again(struct tty_job *j, struct err *err)
{
    const struct termios2 *t = &j->termios;

    if (!j->m->stopped)
        return 0;
    inj_reset(&j->b);
    open_both(j);
    if ((t->c_iflag & IXON) && t->c_cc[VSTOP] && !(t->c_lflag & EXTPROC))
        type(j, &t->c_cc[VSTOP], 1);
    else
        inj_call(&j->b, 0, SYS_ioctl, j->slave, TCXONC, TCOOFF);
    close_both(j);
    return run(j, "stopping the terminal again", err);
}
