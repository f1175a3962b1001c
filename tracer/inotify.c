/*
 * inotify instances. The watches are in fdinfo. Queued events can be had only by reading them, so they are
 * taken, and put back by the trick of base/inqueue.c, in a helper process that outlives the tracer (guard.h).
 * What happens to the watched files meanwhile by other hands is seen by a second instance and added.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/inqueue.h"
#include "base/util.h"
#include "image/inotify.pb-c.h"
#include "tracer/ckpt.h"
#include "tracer/guard.h"
#include "tracer/packed.h"
#include "tracer/watched.h"

/* The watches with what they watch, open. */
struct instance {
    Inotify *m;
    const char *fdinfo;
    uint32_t flags;
    struct inqueue_watch *w;
};

static bool inotify_probe(const struct fd_info *fi)
{
    return !strcmp(fi->link, "anon_inode:inotify");
}

static int inotify_collect(struct ckpt *c, const struct fd_info *fi, struct object *o, struct err *err)
{
    struct instance *in = arena_alloc(c->arena, sizeof(*in));
    Inotify *m = arena_alloc(c->arena, sizeof(*m));

    if (!in || !m)
        return err_set(err, ENOMEM, "out of memory");
    inotify__init(m);
    m->id = o->id;
    *in = (struct instance){.m = m, .fdinfo = fi->fdinfo, .flags = fi->flags};
    o->msg = &m->base;
    o->priv = in;
    return 0;
}

static int add_watch(struct ckpt *c, struct object *o, const char *line, struct err *err)
{
    struct instance *in = o->priv;
    InotifyWatch *m = arena_alloc(c->arena, sizeof(*m));
    const char *mask = strstr(line, "mask:"), *ino = strstr(line, "ino:");
    struct watched w;
    struct place place;

    if (!m)
        return err_set(err, ENOMEM, "out of memory");
    inotify_watch__init(m);
    if (sscanf(line, "inotify wd:%d", &m->wd) != 1 || !mask || sscanf(mask, "mask:%x", &m->mask) != 1 ||
        !ino || !watched_parse(ino, &w))
        return err_set(err, EPROTO, "an inotify watch that fdinfo describes unintelligibly");
    if (watched_find(c, o->proc, &w, &place, err) < 0)
        return -err->code;
    m->dev = place.st.st_dev;
    m->ino = place.st.st_ino;
    m->mode = place.st.st_mode;
    if (place.path)
        m->path = arena_text(c->arena, place.path);
    else
        m->ofd = place.ofd->msg->id;
    in->w[in->m->n_watches] = (struct inqueue_watch){m->wd, m->mask, place.fd};
    arena_push(c->arena, (void ***)&in->m->watches, &in->m->n_watches, m);
    return 0;
}

static int inotify_wrap(const struct object *o, struct err *err)
{
    return err_wrap(err, "process %d: fd %d: inotify", o->proc->pid, o->fd);
}

static int inotify_match(struct ckpt *c, struct object *o, struct err *err)
{
    struct instance *in = o->priv;
    size_t lines = 0;

    for (const char *p = in->fdinfo; (p = strstr(p, "inotify wd:")); p++)
        lines++;
    in->w = arena_alloc(c->arena, (lines + 1) * sizeof(*in->w));
    if (!in->w)
        return err_set(err, ENOMEM, "out of memory");
    for (const char *p = in->fdinfo; (p = strstr(p, "inotify wd:")); p++)
        if (add_watch(c, o, p, err) < 0)
            return inotify_wrap(o, err);
    return 0;
}

/* ---- queued events, in the helper process ---- */

struct job {
    struct instance *in;
    int fd;         /* a copy of the instance */
    int second;     /* an instance of our own that watches the same */
    int *second_wd; /* its number for each watch */
    struct packed *found;
};

static int watch_too(struct job *j, struct err *err)
{
    char path[48];

    for (size_t i = 0; i < j->in->m->n_watches; i++) {
        snprintf(path, sizeof(path), "/proc/self/fd/%d", j->in->w[i].fd);
        j->second_wd[i] = inotify_add_watch(j->second, path, j->in->w[i].mask & ~(uint32_t)IN_ONESHOT);
        if (j->second_wd[i] < 0)
            return err_errno(err, "inotify watch %d", j->in->w[i].wd);
    }
    return 0;
}

/* What the second instance has seen, in the numbers of the first. */
static int take_second(struct job *j, struct inqueue_list *l, struct err *err)
{
    size_t from = l->n;

    if (inqueue_take(j->second, l, err) < 0)
        return -err->code;
    for (size_t i = from; i < l->n; i++)
        for (size_t k = 0; k < j->in->m->n_watches; k++)
            if (l->event[i].wd == j->second_wd[k]) {
                l->event[i].wd = j->in->w[k].wd;
                break;
            }
    return 0;
}

static void truncate_list(struct inqueue_list *l, size_t n)
{
    while (l->n > n)
        free((void *)(uintptr_t)l->event[--l->n].name);
}

/* Everything that is in the queue goes out; all of it, and what happened since, goes in again, until nothing
 * did. */
static int rebuild_queue(struct job *j, struct inqueue_list *l, struct err *err)
{
    struct inqueue_list again = {0};
    int next, r = 0;
    size_t n;

    do {
        n = l->n;
        if (inqueue_forget(j->fd, j->in->w, j->in->m->n_watches, &next, err) < 0 ||
            inqueue_fill(j->fd, j->in->w, j->in->m->n_watches, l->event, l->n, next, err) < 0)
            return err_wrap(err, "putting its events back");
        if (!j->in->m->next_wd)
            j->in->m->next_wd = next;
        r = take_second(j, l, err);
        if (r == 0 && l->n != n)
            r = inqueue_take(j->fd, &again, err);
        inqueue_list_free(&again);
    } while (r == 0 && l->n != n);
    return r;
}

static int pack(struct job *j, const struct inqueue_list *l, struct err *err)
{
    Inotify *m = j->in->m;
    InotifyEvent *e = calloc(l->n + 1, sizeof(*e)), **p = calloc(l->n + 1, sizeof(*p));

    if (!e || !p)
        return err_set(err, ENOMEM, "out of memory");
    for (size_t i = 0; i < l->n; i++) {
        inotify_event__init(&e[i]);
        e[i].wd = l->event[i].wd;
        e[i].mask = l->event[i].mask;
        e[i].cookie = l->event[i].cookie;
        if (l->event[i].name)
            e[i].name =
                (ProtobufCBinaryData){strlen(l->event[i].name), (uint8_t *)(uintptr_t)l->event[i].name};
        p[i] = &e[i];
    }
    m->events = p;
    m->n_events = l->n;
    return packed_put(j->found, &m->base, err);
}

static int save_events(void *arg, struct err *err)
{
    struct inqueue_list l = {0};
    struct job *j = arg;
    size_t seen;

    j->second = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    j->second_wd = calloc(j->in->m->n_watches + 1, sizeof(*j->second_wd));
    if (j->second < 0 || !j->second_wd)
        return err_errno(err, "a second instance");
    if (watch_too(j, err) < 0 || inqueue_take(j->fd, &l, err) < 0)
        return -err->code;
    /* What both have seen until now is in the list already. */
    seen = l.n;
    if (take_second(j, &l, err) < 0)
        return -err->code;
    truncate_list(&l, seen);
    return rebuild_queue(j, &l, err) < 0 ? -err->code : pack(j, &l, err);
}

static int take_events(struct ckpt *c, struct job *j, struct err *err)
{
    Inotify *m;

    if (j->in->flags & O_ASYNC)
        return err_set(err, EOPNOTSUPP,
                       "it has queued events and O_ASYNC: putting them back would send signals");
    if (inqueue_possible(err) < 0)
        return err_wrap(err, "it has queued events, which cannot be put back here");
    if (guarded(save_events, j, err) < 0)
        return -err->code;
    m = packed_get(c, j->found, &inotify__descriptor, err);
    if (!m)
        return -err->code;
    *j->in->m = *m;
    return 0;
}

static int inotify_peek(struct ckpt *c, struct object *o, struct err *err)
{
    struct job j = {.in = o->priv, .second = -1};
    int waiting = 0, r;

    _cleanup_close_ int fd = ckpt_get_fd(o->proc, o->fd, err);
    if (fd < 0)
        return inotify_wrap(o, err);
    if (ioctl(fd, FIONREAD, &waiting) < 0 || waiting == 0)
        return 0;
    j.fd = fd;
    j.found = packed_alloc();
    if (!j.found)
        return err_set(err, ENOMEM, "out of memory");
    r = take_events(c, &j, err);
    packed_free(j.found);
    return r < 0 ? inotify_wrap(o, err) : 0;
}

static void inotify_release(struct ckpt *c, struct object *o)
{
    struct instance *in = o->priv;

    for (size_t i = 0; in && in->w && i < in->m->n_watches; i++)
        if (in->w[i].fd >= 0)
            close(in->w[i].fd);
}

const struct kind_ops inotify_ops = {
    .kind = KIND_INOTIFY,
    .per_description = true,
    .probe = inotify_probe,
    .collect = inotify_collect,
    .match = inotify_match,
    .peek_receive = inotify_peek,
    .release = inotify_release,
};
