/*
 * What waits in a pseudo-terminal: input that the slave has not read and output that the master has not read.
 * The kernel offers no way to look at it, so it is taken and put back, by the process that holds the master:
 * its parasite opens the slave for itself (TIOCGPTPEER), switches the line discipline to raw, reads until
 * nothing is left, and types all of it again (base/ttyinput.h). That is one batch. Once started it runs to
 * its end even if the tracer is killed, so nothing is ever lost on the way.
 *
 * The first batch cannot know what it will find, so it types the bytes as they came. Where that is not the
 * same (an end-of-file character typed in the middle, a quoted newline, more input than the line discipline
 * holds), a second one takes it again and does it right; killed exactly between the two, the tracer leaves a
 * terminal whose input has lost such a mark. A terminal that was stopped (^S) is stopped again by a batch of
 * its own: killed just before that, the tracer leaves it running.
 *
 * A master that does not read while the slave writes as much as fits is jammed: to put that much back takes
 * as many steps as the kernel needs to move it along. Then a helper process does it (guard.h).
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#include "base/ttyinput.h"
#include "base/util.h"
#include "tracer/guard.h"
#include "tracer/packed.h"
#include "tracer/tty.h"

#ifndef TIOCGPTPEER
#define TIOCGPTPEER _IO('T', 0x41)
#endif

#define READS                                                                                                \
    64u /* pty.c gives the flip buffers 8 KiB, which may come in pieces of 256; the discipline holds 4 KiB   \
         */
#define CHUNK   4096u
#define WAIT_MS 200

/* Buffers in the area, and the calls that fill and empty them. */
struct taken {
    uint64_t data[READS];
    uint32_t read[READS], written[READS];
};

struct job {
    const struct tty_seen *seen;
    Tty *m;
    struct termios2 termios;
    struct inj_batch b;
    int master, slave; /* fds in the process that holds the master */
    int fd;            /* the tracer's copy of the master */
    bool with_input, with_output, jammed;
    struct taken input, output;
    uint64_t counted; /* address of what FIONREAD said */
    uint32_t open_call, readable, writable;
};

static void refill_end(struct tty_refill *r)
{
    free(r->bytes);
}
#define _cleanup_refill_ __attribute__((cleanup(refill_end)))

static void job_end(struct job *j)
{
    inj_end(&j->b);
    if (j->fd >= 0)
        close(j->fd);
}

/* ---- parts of a batch ---- */

static void ioctl_int(struct job *j, uint32_t flags, unsigned long request, int value)
{
    inj_call(&j->b, flags, SYS_ioctl, j->master, request, inj_data(&j->b, &value, sizeof(value)));
}

static void set_termios(struct job *j, uint32_t flags, const struct termios2 *t)
{
    inj_call(&j->b, flags, SYS_ioctl, j->slave, TCSETS2, inj_data(&j->b, t, sizeof(*t)));
}

/* poll(2) of the slave; when it is not readable this also waits for input that is on its way (n_tty_poll). */
static uint32_t poll_slave(struct job *j, short events, int timeout)
{
    struct pollfd p = {.fd = j->slave, .events = events};

    return inj_call(&j->b, 0, SYS_poll, inj_data(&j->b, &p, sizeof(p)), 1, timeout);
}

static void type(struct job *j, const void *bytes, size_t n)
{
    inj_call(&j->b, 0, SYS_write, j->master, inj_data(&j->b, bytes, n), n);
}

/*
 * Both ends open and not blocking, packet mode off so that nothing that follows is reported to the master.
 * The slave's number must be known for poll(2), and dup3 gives it one that is free.
 */
static void open_both(struct job *j)
{
    if (j->m->locked)
        ioctl_int(j, BLOB_MUST, TIOCSPTLCK, 0);
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
static void close_both(struct job *j)
{
    if (j->m->packet)
        ioctl_int(j, 0, TIOCPKT, 1);
    inj_call(&j->b, 0, SYS_fcntl, j->master, F_SETFL, j->seen->master_flags & ~(uint32_t)O_CLOEXEC);
    if (j->m->fresh) {
        ioctl_int(j, 0, TIOCSPTLCK, 1);
        inj_call(&j->b, 0, SYS_ioctl, j->master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
        ioctl_int(j, 0, TIOCSPTLCK, 0);
    }
    inj_call(&j->b, 0, SYS_close, j->slave);
    if (j->m->locked)
        ioctl_int(j, 0, TIOCSPTLCK, 1);
}

static void take(struct job *j, struct taken *t, int fd)
{
    for (uint32_t i = 0; i < READS; i++) {
        t->data[i] = inj_data(&j->b, NULL, CHUNK);
        t->read[i] = inj_call(&j->b, 0, SYS_read, fd, t->data[i], CHUNK);
    }
}

/* A read that found nothing makes the write fail with EINVAL, for its length. */
static void put_back(struct job *j, struct taken *t, int fd, bool wait)
{
    for (uint32_t i = 0; i < READS; i++) {
        if (wait && i < 4)
            poll_slave(j, POLLOUT, WAIT_MS);
        t->written[i] = inj_call(&j->b, BLOB_ARG_RET(2), SYS_write, fd, t->data[i], t->read[i]);
    }
}

/* The output flows: ^S and TCOOFF are undone. The caller finds out whether it was stopped and stops it again.
 */
static void open_gate(struct job *j, const struct tty_refill *r)
{
    inj_call(&j->b, 0, SYS_ioctl, j->slave, TCXONC, TCOON);
    if (r->gate)
        type(j, &r->start, 1);
    poll_slave(j, POLLOUT, WAIT_MS);
}

static void close_gate(struct job *j, const struct tty_refill *r)
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
static void add_exchange(struct job *j, const struct tty_refill *r, const struct tty_refill *typed)
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
static void undo_open(struct job *j)
{
    int64_t opened = inj_ret(&j->b, j->open_call), moved = inj_ret(&j->b, j->open_call + 1);
    struct err ignored;

    inj_reset(&j->b);
    if (opened >= 0 && moved < 0)
        inj_call(&j->b, 0, SYS_close, opened);
    close_both(j);
    inj_run(&j->b, &ignored);
}

static int run(struct job *j, const char *what, struct err *err)
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
static int gather(struct job *j, const struct taken *t, struct arena *a, ProtobufCBinaryData *all,
                  struct err *err)
{
    *all = (ProtobufCBinaryData){.data = arena_alloc(a, READS * CHUNK)};
    if (!all->data)
        return err_set(err, ENOMEM, "out of memory");
    for (uint32_t i = 0; i < READS; i++) {
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
static int put_rest(struct job *j, const struct taken *t, struct err *err)
{
    _cleanup_close_ int slave = -1;
    int fd = j->fd;

    for (uint32_t i = 0; i < READS; i++) {
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
static size_t put_slowly(int fd, const uint8_t *data, size_t len)
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
static int put_jammed(struct job *j, const ProtobufCBinaryData *output, struct err *err)
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
    put = put_slowly(slave, output->data, output->len);
    if (n > 0)
        put_slowly(slave, echo, (size_t)n);
    ioctl(slave, TCSETS2, &j->termios);
    if (j->m->packet)
        ioctl(j->fd, TIOCPKT, &(int){1});
    if (put < output->len)
        return err_set(err, EIO, "of %zu bytes that waited in the terminal %zu could not be put back",
                       output->len, output->len - put);
    return 0;
}

/* After an exchange: the output is in again, and in m. */
static int settle_output(struct ckpt *c, struct job *j, struct err *err)
{
    if (!j->with_output)
        return 0;
    if (gather(j, &j->output, c->arena, &j->m->output, err) < 0)
        return -err->code;
    return j->jammed ? put_jammed(j, &j->m->output, err) : put_rest(j, &j->output, err);
}

static int exchange(struct job *j, const struct tty_refill *r, const struct tty_refill *typed,
                    const char *what, struct err *err)
{
    inj_reset(&j->b);
    open_both(j);
    add_exchange(j, r, typed);
    close_both(j);
    return run(j, what, err);
}

static bool polled(const struct job *j, uint32_t call)
{
    return inj_ret(&j->b, call) > 0;
}

static void keep_pieces(struct ckpt *c, Tty *m, const struct tty_piece *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        TtyInput *in = arena_alloc(c->arena, sizeof(*in));
        tty_input__init(in);
        in->data = arena_bytes(c->arena, p[i].data, p[i].len);
        in->line = p[i].line;
        in->eof = p[i].eof;
        arena_push(c->arena, (void ***)&m->input, &m->n_input, in);
    }
}

/* In a helper process, since more than a batch is needed: what the line discipline has no room for comes
 * last. */
struct retyping {
    struct ckpt *c;
    struct job *job;
    const struct tty_refill *exact;
};

static int retype(struct ckpt *c, struct job *j, const struct tty_refill *exact, struct err *err)
{
    const ProtobufCBinaryData *backlog = &j->m->backlog;
    size_t put;

    if (exchange(j, exact, exact, "putting the terminal's input back", err) < 0 ||
        settle_output(c, j, err) < 0)
        return -err->code;
    put = put_slowly(j->fd, backlog->data, backlog->len);
    if (put < backlog->len)
        return err_set(err, EIO, "of %zu bytes of input that wait in the terminal %zu could not be put back",
                       backlog->len, backlog->len - put);
    return 0;
}

static int retype_helped(void *arg, struct err *err)
{
    const struct retyping *r = arg;
    int flags = fcntl(r->job->fd, F_GETFL), ret;

    fcntl(r->job->fd, F_SETFL, flags | O_NONBLOCK);
    ret = retype(r->c, r->job, r->exact, err);
    fcntl(r->job->fd, F_SETFL, flags);
    return ret;
}

/* What was typed as it came: was that right? If not, once more. */
static int keep_input(struct ckpt *c, struct job *j, const struct tty_refill *plain, struct err *err)
{
    _cleanup_refill_ struct tty_refill exact = {0};
    _cleanup_free_ struct tty_piece *pieces = NULL;
    ProtobufCBinaryData all;
    int counted;
    size_t n;

    if (gather(j, &j->input, c->arena, &all, err) < 0)
        return -err->code;
    memcpy(&counted, inj_at(&j->b, j->counted), sizeof(counted));
    if (tty_input_split(&j->termios, all.data, all.len, (size_t)(counted > 0 ? counted : 0),
                        polled(j, j->readable), &pieces, &n, err) < 0 ||
        tty_refill_make(&j->termios, pieces, n, &exact, err) < 0)
        return -err->code;
    keep_pieces(c, j->m, pieces, n);
    if (all.len > TTY_INPUT_MAX)
        j->m->backlog = arena_bytes(c->arena, all.data + TTY_INPUT_MAX, all.len - TTY_INPUT_MAX);
    if (exact.len == all.len && !memcmp(exact.bytes, all.data, all.len) && exact.stop == plain->stop)
        return put_rest(j, &j->input, err);
    return j->m->backlog.len ? guarded(retype_helped, &(struct retyping){c, j, &exact}, err)
                             : retype(c, j, &exact, err);
}

static int save_queues(struct ckpt *c, struct job *j, struct err *err)
{
    _cleanup_refill_ struct tty_refill plain = {0};

    if (tty_refill_make(&j->termios, NULL, 0, &plain, err) < 0 ||
        exchange(j, &plain, NULL, "looking at what waits in the terminal", err) < 0)
        return -err->code;
    j->m->stopped = !polled(j, j->writable);
    if (settle_output(c, j, err) < 0)
        return -err->code;
    return j->with_input ? keep_input(c, j, &plain, err) : 0;
}

/* ^S again, as the program's own mode has it. */
static int stop_again(struct job *j, struct err *err)
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

/* ---- what to do at all ---- */

/* Nothing can wait raw and unseen: then the slave need not be opened and changed. */
static bool input_is_empty(const struct job *j)
{
    struct pollfd p = {.events = POLLIN};
    struct err ignored;
    int n = 0;

    if (tty_canonical(&j->termios) || !j->seen->slave)
        return false;
    _cleanup_close_ int slave = ckpt_get_fd(j->seen->slave, j->seen->slave_fd, &ignored);
    p.fd = slave;
    return slave >= 0 && poll(&p, 1, 0) == 0 && ioctl(slave, FIONREAD, &n) == 0 && n == 0;
}

/* With room in the output queue, a slave that cannot be written to is stopped. */
static bool is_stopped(const struct tty_seen *seen)
{
    struct pollfd p = {.events = POLLOUT};
    struct err ignored;

    if (!seen->slave)
        return false;
    _cleanup_close_ int slave = ckpt_get_fd(seen->slave, seen->slave_fd, &ignored);
    p.fd = slave;
    return slave >= 0 && poll(&p, 1, 0) == 0;
}

/* The second lowest number that is free: the lowest is what TIOCGPTPEER itself will get. */
static int spare_fd(const struct ckpt *c, const struct proc *p)
{
    const struct proc *owner = p->files_proc ? p->files_proc : p;
    const FdTable *t = owner->fdtable;
    size_t next = 0;
    int free_seen = 0;

    for (int fd = 0;; fd++) {
        bool used = false;
        while (next < t->n_fds && (int)t->fds[next]->fd < fd)
            next++;
        used = next < t->n_fds && (int)t->fds[next]->fd == fd;
        for (size_t i = 0; !used && i < c->nprocs; i++)
            used = c->procs[i]->injected && c->procs[i]->inj.remote_ctl == fd;
        if (!used && ++free_seen == 2)
            return fd;
    }
}

/* An exclusive terminal cannot be opened: not exclusive for the moment, by the tracer's copy of the slave. */
static int set_exclusive(const struct tty_seen *seen, bool on, struct err *err)
{
    _cleanup_close_ int slave = ckpt_get_fd(seen->slave, seen->slave_fd, err);

    if (slave < 0)
        return slave;
    return ioctl(slave, on ? TIOCEXCL : TIOCNXCL) < 0 ? err_errno(err, "TIOCEXCL") : 0;
}

/* In a helper process: the same, and what was found goes to the tracer as a message. */
struct helped {
    struct ckpt *c;
    struct job *job;
    struct packed *found;
};

static int save_helped(void *arg, struct err *err)
{
    struct helped *h = arg;

    if (save_queues(h->c, h->job, err) < 0)
        return -err->code;
    return packed_put(h->found, &h->job->m->base, err);
}

static int save_jammed(struct ckpt *c, struct job *j, struct err *err)
{
    struct helped h = {c, j, packed_alloc()};
    Tty *m = NULL;

    if (!h.found)
        return err_set(err, ENOMEM, "out of memory");
    if (guarded(save_helped, &h, err) == 0)
        m = packed_get(c, h.found, &tty__descriptor, err);
    if (m)
        *j->m = *m;
    packed_free(h.found);
    return m ? 0 : -err->code;
}

int tty_save_queues(struct ckpt *c, const struct tty_seen *seen, Tty *m, struct err *err)
{
    __attribute__((cleanup(job_end))) struct job j = {
        .seen = seen, .m = m, .master = seen->master_fd, .fd = -1};
    struct pollfd p = {.events = POLLIN | POLLPRI};
    struct err later;
    int r, waiting = 0;

    memcpy(&j.termios, m->termios.data, sizeof(j.termios));
    j.fd = p.fd = ckpt_get_fd(seen->master, seen->master_fd, err);
    if (j.fd < 0)
        return j.fd;
    poll(&p, 1, 0);
    if (p.revents & POLLPRI)
        return err_set(err, EOPNOTSUPP, "the master has not read its packet-mode status yet");
    j.with_output = p.revents & POLLIN;
    j.with_input = !input_is_empty(&j);
    if (!j.with_input && !j.with_output) {
        m->stopped = is_stopped(seen);
        return 0;
    }
    if ((seen->master_flags & O_ACCMODE) != O_RDWR)
        return err_set(err, EOPNOTSUPP,
                       "the master is not open for reading and writing, so what waits cannot be seen");
    j.slave = spare_fd(c, seen->master);
    if (inj_begin(&j.b, &seen->master->inj, err) < 0)
        return -err->code;
    if (m->exclusive && set_exclusive(seen, false, err) < 0)
        return -err->code;
    j.jammed = j.with_output && ioctl(j.fd, FIONREAD, &waiting) == 0 && waiting > (int)TTY_INPUT_MAX;
    r = j.jammed ? save_jammed(c, &j, err) : save_queues(c, &j, err);
    if (r == 0)
        r = stop_again(&j, err);
    if (m->exclusive && set_exclusive(seen, true, r < 0 ? &later : err) < 0 && r == 0)
        r = -err->code;
    return r;
}
