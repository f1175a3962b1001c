/*
 * inotify instances. Watches and queued events come last of all, so that nothing that the restart itself does
 * to files is noticed; base/inqueue.c says how events get into a queue.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>

#include "base/inqueue.h"
#include "base/util.h"
#include "image/inotify.pb-c.h"
#include "restorer/place.h"

static const Inotify *inotify_of(const struct robject *o)
{
    return (const Inotify *)o->msg;
}

static bool is_text(const ProtobufCBinaryData *b, size_t max)
{
    return b->len > 0 && b->len <= max && !memchr(b->data, 0, b->len);
}

static int check_watch(const struct restore *r, const InotifyWatch *w, struct err *err)
{
    char path[4096];
    struct stat st;

    if (w->wd <= 0)
        return err_set(err, EINVAL, "inotify watch with the number %d", w->wd);
    if (w->ofd)
        return restore_ofd(r, w->ofd)
                   ? 0
                   : err_set(err, EINVAL, "inotify watch %d: on an open file that is not there", w->wd);
    if (!is_text(&w->path, sizeof(path) - 1))
        return err_set(err, EINVAL, "inotify watch %d: no path", w->wd);
    memcpy(path, w->path.data, w->path.len);
    path[w->path.len] = '\0';
    if (lstat(path, &st) < 0)
        return err_errno(err, "inotify watch %d: %s", w->wd, path);
    if ((st.st_mode & S_IFMT) != (w->mode & S_IFMT))
        return err_set(err, ENOENT, "inotify watch %d: %s is something else now", w->wd, path);
    return 0;
}

static int inotify_prepare(struct restore *r, struct robject *o, struct err *err)
{
    const Inotify *m = inotify_of(o);

    for (size_t i = 0; i < m->n_watches; i++)
        if (check_watch(r, m->watches[i], err) < 0)
            return -err->code;
    for (size_t i = 0; i < m->n_events; i++) {
        const InotifyEvent *e = m->events[i];
        if (e->name.len &&
            (!is_text(&e->name, NAME_MAX) || memchr(e->name.data, '/', e->name.len) ||
             (e->name.data[0] == '.' && (e->name.len == 1 || (e->name.len == 2 && e->name.data[1] == '.')))))
            return err_set(err, EINVAL, "an inotify event with a name that is none");
        if (e->wd <= 0 && !(e->mask & IN_Q_OVERFLOW))
            return err_set(err, EINVAL, "an inotify event of watch %d", e->wd);
    }
    return 0;
}

static int inotify_rebuild(struct restore *r, struct robject *o, struct err *err)
{
    o->fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    return o->fd < 0 ? err_errno(err, "inotify_init1") : 0;
}

static int inotify_open(struct restore *r, struct robject *o, struct rofd *d, int *fd, struct err *err)
{
    *fd = fcntl(o->fd, F_DUPFD_CLOEXEC, 0);
    return *fd < 0 ? err_errno(err, "inotify instance") : 0;
}

static int open_watched(struct restore *r, const InotifyWatch *w, struct err *err)
{
    char path[4096];
    uint32_t number;
    int fd;

    if (w->ofd) {
        struct rproc *p = place_holder(r, w->ofd, &number);
        return p ? inj_get_fd(&p->inj, (int)number, err)
                 : err_set(err, EINVAL, "no process has what it watches");
    }
    memcpy(path, w->path.data, w->path.len);
    path[w->path.len] = '\0';
    fd = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    return fd < 0 ? err_errno(err, "%s", path) : fd;
}

static int fill(const struct robject *o, const struct inqueue_watch *w, struct err *err)
{
    const Inotify *m = inotify_of(o);
    _cleanup_free_ struct inqueue_event *e = calloc(m->n_events + 1, sizeof(*e));
    size_t names = 0;

    for (size_t i = 0; i < m->n_events; i++)
        names += m->events[i]->name.len + 1;
    _cleanup_free_ char *text = malloc(names + 1);
    char *at = text;
    if (!e || !text)
        return err_set(err, ENOMEM, "out of memory");
    for (size_t i = 0; i < m->n_events; i++) {
        const InotifyEvent *in = m->events[i];
        e[i] = (struct inqueue_event){in->wd, in->mask, in->cookie, in->name.len ? at : NULL};
        if (in->name.len)
            memcpy(at, in->name.data, in->name.len);
        at[in->name.len] = '\0';
        at += in->name.len + 1;
    }
    return inqueue_fill(o->fd, w, m->n_watches, e, m->n_events, m->next_wd, err);
}

static int inotify_arm(struct restore *r, struct robject *o, struct err *err)
{
    const Inotify *m = inotify_of(o);
    _cleanup_free_ struct inqueue_watch *w = calloc(m->n_watches + 1, sizeof(*w));
    size_t n = 0;
    int ret = w ? 0 : err_set(err, ENOMEM, "out of memory");

    for (; ret == 0 && n < m->n_watches; n++) {
        w[n] = (struct inqueue_watch){m->watches[n]->wd, m->watches[n]->mask,
                                      open_watched(r, m->watches[n], err)};
        if (w[n].fd < 0)
            ret = err_wrap(err, "inotify watch %d", w[n].wd);
    }
    if (ret == 0 && fill(o, w, err) < 0)
        ret = err_wrap(err, "inotify");
    while (n-- > 0)
        if (w[n].fd >= 0)
            close(w[n].fd);
    return ret;
}

const struct rebuild_ops inotify_ops = {
    .kind = KIND_INOTIFY,
    .descriptor = &inotify__descriptor,
    .prepare = inotify_prepare,
    .rebuild = inotify_rebuild,
    .open = inotify_open,
    .arm = inotify_arm,
};
