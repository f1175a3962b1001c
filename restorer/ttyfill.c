/*
 * What waited in a pseudo-terminal is typed and printed again, with the line discipline set to do nothing to
 * it meanwhile (base/ttyinput.h). No process of the tree runs yet, so nobody sees it in between.
 */
#include <asm/termbits.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/ttyinput.h"
#include "base/util.h"
#include "restorer/ttyrole.h"

#define WAIT_MS 1000 /* for the kernel to move what was written from one end to the other */

static void refill_end(struct tty_refill *r)
{
    free(r->bytes);
}

static bool wait_for(int fd, short events, int ms)
{
    struct pollfd p = {.fd = fd, .events = events};

    return poll(&p, 1, ms) > 0 && (p.revents & events);
}

/*
 * Write all of it: what a queue held before it holds again. The kernel takes pieces until they are more than
 * its limit; small ones leave no gaps, and a last one of almost a page goes as far beyond the limit as any
 * program can have come (drivers/tty/tty_buffer.c).
 */
static int put(int fd, const uint8_t *data, size_t len, struct err *err)
{
    size_t at = 0;

    for (int tries = 0; at < len && tries < 50;) {
        size_t piece = len - at > 3584 ? 256 : len - at;
        ssize_t n;

        wait_for(fd, POLLOUT, WAIT_MS / 50);
        n = write(fd, data + at, piece);
        tries = n > 0 ? 0 : tries + 1;
        at += n > 0 ? (size_t)n : 0;
    }
    return at == len ? 0 : err_set(err, EIO, "of %zu bytes that waited in it only %zu fit in again", len, at);
}

static int put_one(int fd, uint8_t c, struct err *err)
{
    return write(fd, &c, 1) == 1 ? 0 : err_errno(err, "writing to it");
}

static int type_input(int master, int slave, const struct tty_refill *r, struct err *err)
{
    if (!r->len)
        return 0;
    if (r->gate) {
        if (put_one(master, r->stop, err) < 0)
            return -err->code;
        wait_for(slave, POLLIN, 0); /* does not return before the stop was processed (n_tty_poll) */
    }
    if (put(master, r->bytes, r->len, err) < 0)
        return -err->code;
    if (r->gate && put_one(master, r->start, err) < 0)
        return -err->code;
    if (!wait_for(slave, POLLOUT, WAIT_MS))
        return err_set(err, EIO, "its input was not processed in time");
    return 0;
}

static int make_refill(const Tty *m, const struct termios2 *t, struct tty_refill *r, struct err *err)
{
    _cleanup_free_ struct tty_piece *pieces = calloc(m->n_input + 1, sizeof(*pieces));
    size_t total = 0;

    if (!pieces)
        return err_set(err, ENOMEM, "out of memory");
    for (size_t i = 0; i < m->n_input; i++) {
        const TtyInput *in = m->input[i];

        total += in->data.len + in->eof;
        pieces[i] = (struct tty_piece){in->data.data, in->data.len, in->line, in->eof};
    }
    if (total > TTY_INPUT_MAX)
        return err_set(err, EINVAL, "more input than a terminal can hold");
    return tty_refill_make(t, pieces, m->n_input, r, err);
}

static int fill_queues(struct robject *o, const struct termios2 *t, struct err *err)
{
    const Tty *m = (const Tty *)o->msg;
    int slave = ((struct rtty *)o->priv)->slave;
    __attribute__((cleanup(refill_end))) struct tty_refill r = {0};

    if (make_refill(m, t, &r, err) < 0)
        return -err->code;
    if (ioctl(slave, TCSETS2, &r.during) < 0)
        return err_errno(err, "setting its mode");
    if (type_input(o->fd, slave, &r, err) < 0 || put(slave, m->output.data, m->output.len, err) < 0)
        return -err->code;
    return ioctl(slave, TCSETS2, t) < 0 ? err_errno(err, "setting its mode")
                                        : put(o->fd, m->backlog.data, m->backlog.len, err);
}

/* Stopped again by the character that starts it again; where that means nothing, by the call that does. */
static int stop_output(struct robject *o, const struct termios2 *t, struct err *err)
{
    int slave = ((struct rtty *)o->priv)->slave;

    if ((t->c_iflag & IXON) && t->c_cc[VSTOP] && !(t->c_lflag & EXTPROC))
        return put_one(o->fd, t->c_cc[VSTOP], err);
    return ioctl(slave, TCXONC, TCOOFF) < 0 ? err_errno(err, "stopping its output") : 0;
}

/*
 * The driver's slave goes. A master whose slave is closed for the last time sees a hangup, which one whose
 * slave nobody has opened yet must not: an open that fails marks the slave so that its close says nothing
 * (drivers/tty/pty.c: pty_open sets TTY_IO_ERROR, pty_close returns early).
 */
static void close_slave(struct robject *o)
{
    const Tty *m = (const Tty *)o->msg;
    struct rtty *t = o->priv;
    int fd;

    if (m->exclusive)
        ioctl(t->slave, TIOCEXCL);
    if (m->fresh) {
        ioctl(o->fd, TIOCSPTLCK, &(int){1});
        fd = tty_open_slave(o->fd, O_RDWR | O_NOCTTY);
        if (fd >= 0)
            close(fd);
    }
    ioctl(o->fd, TIOCSPTLCK, &(int){m->locked});
    close(t->slave);
    t->slave = -1;
}

int tty_fill(struct robject *o, struct err *err)
{
    const Tty *m = (const Tty *)o->msg;
    int slave = ((struct rtty *)o->priv)->slave, master_flags, slave_flags;
    struct termios2 t;

    if (m->type == TTY_PTY) {
        if (m->termios.len != sizeof(t))
            return err_set(err, EINVAL, "its mode is not in the image");
        memcpy(&t, m->termios.data, sizeof(t));
        master_flags = fcntl(o->fd, F_GETFL);
        slave_flags = fcntl(slave, F_GETFL);
        if (fcntl(o->fd, F_SETFL, master_flags | O_NONBLOCK) < 0 ||
            fcntl(slave, F_SETFL, slave_flags | O_NONBLOCK) < 0)
            return err_errno(err, "its flags");
        if (fill_queues(o, &t, err) < 0)
            return -err->code;
        if (m->packet && ioctl(o->fd, TIOCPKT, &(int){1}) < 0)
            return err_errno(err, "packet mode");
        if (m->stopped && stop_output(o, &t, err) < 0)
            return -err->code;
        fcntl(o->fd, F_SETFL, master_flags);
    }
    close_slave(o);
    return 0;
}
