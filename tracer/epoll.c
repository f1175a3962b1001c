/*
 * epoll. fdinfo lists what is watched: the fd number under which each was added, and the inode. The number
 * need not lead there any more (the fd was closed, the description lives on in a duplicate), so kcmp(2) is
 * asked which description it is; only a socket's inode alone is proof, because it has no second description.
 */
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "image/epoll.pb-c.h"
#include "tracer/ckpt.h"
#include "tracer/fdinfo.h"

#define KCMP_EPOLL_TFD 7 /* enum kcmp_type */
#define PRIVATE_BITS   ((uint32_t)(EPOLLONESHOT | EPOLLET | EPOLLWAKEUP | EPOLLEXCLUSIVE))

/* struct kcmp_epoll_slot of linux/kcmp.h */
struct epoll_slot {
    uint32_t efd, tfd, toff;
};

static bool epoll_probe(const struct fd_info *fi)
{
    return !strcmp(fi->link, "anon_inode:[eventpoll]");
}

static int epoll_collect(struct ckpt *c, const struct fd_info *fi, struct object *o, struct err *err)
{
    Epoll *m = arena_alloc(c->arena, sizeof(*m));

    o->priv = arena_dup(c->arena, fi, sizeof(*fi));
    if (!m || !o->priv)
        return err_set(err, ENOMEM, "out of memory");
    epoll__init(m);
    o->msg = &m->base;
    m->id = o->id;
    return 0;
}

/* Is description d what the epoll's item (tfd, the toff-th of that number) watches? */
static int is_watched(const struct fd_info *fi, const struct ofd *d, uint32_t tfd, uint32_t toff)
{
    struct epoll_slot slot = {(uint32_t)fi->fd, tfd, toff};
    long r = syscall(SYS_kcmp, ckpt_fd_task(d->proc), ckpt_fd_task(fi->proc), KCMP_EPOLL_TFD, d->fd, &slot);

    return r < 0 ? -errno : r == 0;
}

static bool same_inode(const struct ofd *d, const struct fdinfo_epoll_item *it)
{
    return d->st.st_ino == it->ino && d->st.st_dev == it->dev;
}

/* How many of the items already found have this number: it was added again after a close. */
static uint32_t same_number(const Epoll *m, uint32_t tfd)
{
    uint32_t n = 0;

    for (size_t i = 0; i < m->n_items; i++)
        n += m->items[i]->fd == tfd;
    return n;
}

static int find_watched(struct ckpt *c, const struct object *o, const struct fdinfo_epoll_item *it,
                        struct ofd **found, struct err *err)
{
    const struct fd_info *fi = o->priv;
    struct ofd *d = ckpt_find_ofd(c, fi->proc, (int)it->tfd);
    uint32_t toff;
    int r = 0;

    if (d && S_ISSOCK(d->st.st_mode) && same_inode(d, it)) {
        *found = d;
        return 0;
    }
    toff = same_number((Epoll *)o->msg, it->tfd);
    if (d)
        r = is_watched(fi, d, it->tfd, toff);
    for (struct ofd *x = c->ofds; x && r == 0; x = x->next) {
        if (x == d || x->st.st_ino != it->ino)
            continue;
        d = x;
        r = is_watched(fi, d, it->tfd, toff);
    }
    if (r < 0)
        return err_set(err, -r, "what it watches as fd %u cannot be told: kcmp(2): %s", it->tfd,
                       strerror(-r));
    if (r == 0)
        return err_set(err, ENOTSUP,
                       "it watches, as fd %u, an open file that no process of the computation has open",
                       it->tfd);
    *found = d;
    return 0;
}

static int add_item(struct ckpt *c, struct object *o, const struct fdinfo_epoll_item *it, struct err *err)
{
    Epoll *m = (Epoll *)o->msg;
    EpollItem *i = arena_alloc(c->arena, sizeof(*i));
    struct ofd *d = NULL;

    if (!i)
        return err_set(err, ENOMEM, "out of memory");
    if (find_watched(c, o, it, &d, err) < 0)
        return -err->code;
    epoll_item__init(i);
    i->fd = it->tfd;
    i->events = it->events;
    i->data = it->data;
    i->ofd = d->msg->id;
    /* Fired: only the bits that are no events are left (EP_PRIVATE_BITS in fs/eventpoll.c). */
    i->disarmed = (it->events & EPOLLONESHOT) && !(it->events & ~PRIVATE_BITS);
    arena_push(c->arena, (void ***)&m->items, &m->n_items, i);
    return 0;
}

static int epoll_match(struct ckpt *c, struct object *o, struct err *err)
{
    const struct fd_info *fi = o->priv;
    const char *text = fi->fdinfo;
    struct fdinfo_epoll_item it;
    int r;

    while ((r = fdinfo_epoll(&text, &it, err)) > 0) {
        r = add_item(c, o, &it, err);
        if (r < 0)
            break;
    }
    return r < 0 ? ckpt_fd_err(fi, err) : 0;
}

const struct kind_ops epoll_ops = {
    .kind = KIND_EPOLL,
    .per_description = true,
    .probe = epoll_probe,
    .collect = epoll_collect,
    .match = epoll_match,
};
