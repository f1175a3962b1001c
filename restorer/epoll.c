/*
 * epoll. An item remembers the number under which a file was added, so it is added in a process that has the
 * epoll descriptor. Usually that process has the file under this number too. If not (it was closed, and the
 * description lives on elsewhere) the number is made to lead there for the moment of the call.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>

#include "base/util.h"
#include "image/epoll.pb-c.h"
#include "restorer/place.h"

#define PER_BATCH    512u
#define PRIVATE_BITS ((uint32_t)(EPOLLONESHOT | EPOLLET | EPOLLWAKEUP | EPOLLEXCLUSIVE))

static int epoll_open(struct restore *r, struct robject *o, struct rofd *d, int *fd, struct err *err)
{
    (void)r;
    (void)o;
    (void)d;
    *fd = epoll_create1(EPOLL_CLOEXEC);
    return *fd < 0 ? err_errno(err, "epoll_create1") : 0;
}

static int epoll_prepare(struct restore *r, struct robject *o, struct err *err)
{
    const Epoll *m = (const Epoll *)o->msg;

    for (size_t i = 0; i < m->n_items; i++)
        if (!restore_ofd(r, m->items[i]->ofd) || m->items[i]->fd > INT32_MAX)
            return err_set(err, EINVAL, "it watches an open file that is in no image");
    return 0;
}

struct watcher {
    struct rproc *p;
    uint32_t epfd;
};

/* Which description the process has under this number; 0: none. Tables are sorted (fd.c). */
static const Fd *find_fd(const struct rproc *p, uint32_t number)
{
    const FdTable *t = p->fdtable;
    size_t low = 0, high = t->n_fds;

    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (t->fds[mid]->fd == number)
            return t->fds[mid];
        if (t->fds[mid]->fd < number)
            low = mid + 1;
        else
            high = mid;
    }
    return NULL;
}

static uint32_t add_call(struct inj_batch *b, const struct watcher *w, int op, const EpollItem *it,
                         uint32_t events)
{
    struct epoll_event e = {.events = events, .data.u64 = it->data};

    return inj_call(b, BLOB_MUST, SYS_epoll_ctl, w->epfd, op, it->fd, inj_data(b, &e, sizeof(e)));
}

static int run(struct inj_batch *b, struct err *err)
{
    if (inj_run(b, err) < 0 || inj_check(b, err, "epoll") < 0)
        return -err->code;
    return 0;
}

/*
 * A one-shot item that has fired. It cannot be added without being armed for errors and hangups, so it is
 * made to fire again if the file is ready for anything; no other item is armed yet that could be reported
 * instead.
 */
static int add_disarmed(struct inj_batch *b, const struct watcher *w, const EpollItem *it, struct err *err)
{
    uint32_t wait;

    inj_reset(b);
    add_call(b, w, EPOLL_CTL_ADD, it, it->events | EPOLLIN | EPOLLOUT | EPOLLPRI | EPOLLRDHUP);
    wait = inj_call(b, 0, SYS_epoll_wait, w->epfd, inj_data(b, NULL, sizeof(struct epoll_event)), 1, 0);
    if (run(b, err) < 0)
        return -err->code;
    if (inj_ret(b, wait) == 1)
        return 0;
    inj_reset(b);
    add_call(b, w, EPOLL_CTL_MOD, it, it->events & PRIVATE_BITS);
    return run(b, err);
}

static int add_one(struct inj_batch *b, const struct watcher *w, const EpollItem *it, struct err *err)
{
    if (it->disarmed)
        return add_disarmed(b, w, it, err);
    inj_reset(b);
    add_call(b, w, EPOLL_CTL_ADD, it, it->events);
    return run(b, err);
}

/* The number leads elsewhere, or nowhere: what it leads to is put aside until the item is added. */
static int add_displaced(struct restore *r, struct inj_batch *b, const struct watcher *w, const EpollItem *it,
                         struct err *err)
{
    const Fd *there = find_fd(w->p, it->fd);
    int64_t aside = -1, ret;

    if (there && inj_syscall(&w->p->inj, &aside, err, SYS_fcntl,
                             (uint64_t[6]){it->fd, F_DUPFD_CLOEXEC, (uint64_t)r->ctl_fd}) < 0)
        return -err->code;
    if (there && inj_failed(aside))
        return err_set(err, (int)-aside, "putting fd %u aside: %s", it->fd, strerror((int)-aside));
    int fd = restore_ofd_fd(r, restore_ofd(r, it->ofd), err);
    if (fd < 0 || place_fd(w->p, fd, it->fd, true, err) < 0 || add_one(b, w, it, err) < 0)
        return -err->code;
    inj_reset(b);
    if (there) {
        inj_call(b, BLOB_MUST, SYS_dup3, aside, it->fd, there->cloexec ? O_CLOEXEC : 0);
        inj_call(b, BLOB_MUST, SYS_close, aside);
        return run(b, err);
    }
    return inj_syscall(&w->p->inj, &ret, err, SYS_close, (uint64_t[6]){it->fd});
}

static bool in_place(const struct watcher *w, const EpollItem *it)
{
    const Fd *f = find_fd(w->p, it->fd);

    return f && f->ofd == it->ofd;
}

static int add_armed(const struct watcher *w, const Epoll *m, struct inj_batch *b, struct err *err)
{
    inj_reset(b);
    for (size_t i = 0; i < m->n_items; i++) {
        if (m->items[i]->disarmed || !in_place(w, m->items[i]))
            continue;
        add_call(b, w, EPOLL_CTL_ADD, m->items[i], m->items[i]->events);
        if (b->ncalls < PER_BATCH)
            continue;
        if (run(b, err) < 0)
            return -err->code;
        inj_reset(b);
    }
    return run(b, err);
}

/* Those that were disarmed first, then those whose number is not theirs any more, then the many others at
 * once. */
static int add_items(struct restore *r, const struct watcher *w, const Epoll *m, struct err *err)
{
    _cleanup_batch_ struct inj_batch b = {0};

    if (inj_begin(&b, &w->p->inj, err) < 0)
        return -err->code;
    for (int disarmed = 1; disarmed >= 0; disarmed--)
        for (size_t i = 0; i < m->n_items; i++) {
            const EpollItem *it = m->items[i];
            int e = 0;

            if (it->disarmed != (disarmed == 1))
                continue;
            if (!in_place(w, it))
                e = add_displaced(r, &b, w, it, err);
            else if (it->disarmed)
                e = add_one(&b, w, it, err);
            if (e < 0)
                return e;
        }
    return add_armed(w, m, &b, err);
}

static int epoll_refill(struct restore *r, struct robject *o, struct err *err)
{
    const Epoll *m = (const Epoll *)o->msg;

    if (!m->n_items)
        return 0;
    for (struct rofd *d = r->ofds; d; d = d->next) {
        struct watcher w = {.p = d->proc, .epfd = (uint32_t)d->remote};
        if (d->object != o || !d->proc)
            continue;
        if (add_items(r, &w, m, err) < 0)
            return err_wrap(err, "process %d: fd %d", w.p->pid, d->remote);
        return 0;
    }
    return 0;
}

const struct rebuild_ops epoll_ops = {
    .kind = KIND_EPOLL,
    .descriptor = &epoll__descriptor,
    .prepare = epoll_prepare,
    .open = epoll_open,
    .refill = epoll_refill,
};
