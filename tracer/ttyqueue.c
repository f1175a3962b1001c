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

#include "base/util.h"
#include "tracer/guard.h"
#include "tracer/packed.h"
#include "tracer/ttyexchange.h"

static void refill_end(struct tty_refill *r)
{
    free(r->bytes);
}
#define _cleanup_refill_ __attribute__((cleanup(refill_end)))

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
    struct tty_job *job;
    const struct tty_refill *exact;
};

static int retype(struct ckpt *c, struct tty_job *j, const struct tty_refill *exact, struct err *err)
{
    const ProtobufCBinaryData *backlog = &j->m->backlog;
    size_t put;

    if (tty_exchange(j, exact, exact, "putting the terminal's input back", err) < 0 ||
        tty_settle_output(c, j, err) < 0)
        return -err->code;
    put = tty_put_slowly(j->fd, backlog->data, backlog->len);
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
static int keep_input(struct ckpt *c, struct tty_job *j, const struct tty_refill *plain, struct err *err)
{
    _cleanup_refill_ struct tty_refill exact = {0};
    _cleanup_free_ struct tty_piece *pieces = NULL;
    ProtobufCBinaryData all;
    int counted;
    size_t n;

    if (tty_gather(j, &j->input, c->arena, &all, err) < 0)
        return -err->code;
    memcpy(&counted, inj_at(&j->b, j->counted), sizeof(counted));
    if (tty_input_split(&j->termios, all.data, all.len, (size_t)(counted > 0 ? counted : 0),
                        tty_polled(j, j->readable), &pieces, &n, err) < 0 ||
        tty_refill_make(&j->termios, pieces, n, &exact, err) < 0)
        return -err->code;
    keep_pieces(c, j->m, pieces, n);
    if (all.len > TTY_INPUT_MAX)
        j->m->backlog = arena_bytes(c->arena, all.data + TTY_INPUT_MAX, all.len - TTY_INPUT_MAX);
    if (exact.len == all.len && !memcmp(exact.bytes, all.data, all.len) && exact.stop == plain->stop)
        return tty_put_rest(j, &j->input, err);
    return j->m->backlog.len ? guarded(retype_helped, &(struct retyping){c, j, &exact}, err)
                             : retype(c, j, &exact, err);
}

static int save_queues(struct ckpt *c, struct tty_job *j, struct err *err)
{
    _cleanup_refill_ struct tty_refill plain = {0};

    if (tty_refill_make(&j->termios, NULL, 0, &plain, err) < 0 ||
        tty_exchange(j, &plain, NULL, "looking at what waits in the terminal", err) < 0)
        return -err->code;
    j->m->stopped = !tty_polled(j, j->writable);
    if (tty_settle_output(c, j, err) < 0)
        return -err->code;
    return j->with_input ? keep_input(c, j, &plain, err) : 0;
}

/* ---- what to do at all ---- */

/* Nothing can wait raw and unseen: then the slave need not be opened and changed. */
static bool input_is_empty(const struct tty_job *j)
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
static int spare_fd(const struct ckpt *c, const struct proc *p, int also_used)
{
    const struct proc *owner = p->files_proc ? p->files_proc : p;
    const FdTable *t = owner->fdtable;
    size_t next = 0;
    int free_seen = 0;

    for (int fd = 0;; fd++) {
        bool used = fd == also_used;
        while (next < t->n_fds && (int)t->fds[next]->fd < fd)
            next++;
        used |= next < t->n_fds && (int)t->fds[next]->fd == fd;
        for (size_t i = 0; !used && i < c->nprocs; i++)
            used = c->procs[i]->injected && c->procs[i]->inj.remote_ctl == fd;
        if (!used && ++free_seen == 2)
            return fd;
    }
}

/* An exclusive terminal cannot be opened: the process gets a copy of the slave by which it can change that.
 */
static int send_slave(struct tty_job *j, struct err *err)
{
    _cleanup_close_ int slave = ckpt_get_fd(j->seen->slave, j->seen->slave_fd, err);

    return slave < 0 ? slave : inj_send_fds(&j->seen->master->inj, &slave, &j->exclusive, 1, err);
}

static void take_slave(struct tty_job *j)
{
    struct err ignored;
    int64_t ret;

    if (j->exclusive >= 0)
        inj_syscall(&j->seen->master->inj, &ret, &ignored, SYS_close, (uint64_t[6]){(uint64_t)j->exclusive});
}

/* In a helper process: the same, and what was found goes to the tracer as a message. */
struct helped {
    struct ckpt *c;
    struct tty_job *job;
    struct packed *found;
};

static int save_helped(void *arg, struct err *err)
{
    struct helped *h = arg;

    if (save_queues(h->c, h->job, err) < 0)
        return -err->code;
    return packed_put(h->found, &h->job->m->base, err);
}

static int save_jammed(struct ckpt *c, struct tty_job *j, struct err *err)
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
    __attribute__((cleanup(tty_job_end))) struct tty_job j = {
        .seen = seen, .m = m, .master = seen->master_fd, .fd = -1, .exclusive = -1};
    struct pollfd p = {.events = POLLIN | POLLPRI};
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
    if (m->exclusive && send_slave(&j, err) < 0)
        return -err->code;
    j.slave = spare_fd(c, seen->master, j.exclusive);
    r = inj_begin(&j.b, &seen->master->inj, err);
    j.jammed = j.with_output && ioctl(j.fd, FIONREAD, &waiting) == 0 && waiting > (int)TTY_INPUT_MAX;
    if (r == 0)
        r = j.jammed ? save_jammed(c, &j, err) : save_queues(c, &j, err);
    if (r == 0)
        r = tty_stop_again(&j, err);
    take_slave(&j);
    return r;
}
