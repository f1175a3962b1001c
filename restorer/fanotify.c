/*
 * fanotify groups. Marks come last of all, so that nothing the restart itself does is noticed. Where events
 * had not been read there is FAN_Q_OVERFLOW. It is brought about: more files are opened in a marked scratch
 * directory than the queue can hold, and the events before the overflow are read away.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/fanotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/util.h"
#include "image/fanotify.pb-c.h"
#include "restorer/place.h"

static const Fanotify *fanotify_of(const struct robject *o)
{
    return (const Fanotify *)o->msg;
}

static int fanotify_prepare(struct restore *r, struct robject *o, struct err *err)
{
    const Fanotify *m = fanotify_of(o);

    for (size_t i = 0; i < m->n_marks; i++) {
        const FanotifyMark *k = m->marks[i];
        char path[4096];
        struct stat st;

        if (k->ofd ? !restore_ofd(r, k->ofd)
                   : !k->path.len || k->path.len >= sizeof(path) || memchr(k->path.data, 0, k->path.len))
            return err_set(err, EINVAL, "a fanotify mark on nothing");
        if (k->ofd)
            continue;
        memcpy(path, k->path.data, k->path.len);
        path[k->path.len] = '\0';
        if (lstat(path, &st) < 0)
            return err_errno(err, "fanotify mark: %s", path);
    }
    return 0;
}

static int fanotify_rebuild(struct restore *r, struct robject *o, struct err *err)
{
    const Fanotify *m = fanotify_of(o);

    o->fd = fanotify_init((m->flags & ~(uint32_t)FAN_NONBLOCK) | FAN_CLOEXEC, m->event_flags);
    return o->fd < 0 ? err_errno(err, "fanotify_init") : 0;
}

static int fanotify_open(struct restore *r, struct robject *o, struct rofd *d, int *fd, struct err *err)
{
    *fd = fcntl(o->fd, F_DUPFD_CLOEXEC, 0);
    return *fd < 0 ? err_errno(err, "fanotify group") : 0;
}

/* ---- the overflow ---- */

struct scratch {
    char path[32];
    int dir;
    unsigned files;
};

static void name_of(char name[16], unsigned i)
{
    snprintf(name, 16, "%09u", i); /* all of one length, so all events are */
}

static void end_scratch(struct scratch *s)
{
    char name[16];

    if (s->dir < 0)
        return;
    for (unsigned i = 0; i < s->files; i++) {
        name_of(name, i);
        unlinkat(s->dir, name, 0);
    }
    close(s->dir);
    rmdir(s->path);
}

static int make_scratch(struct scratch *s, unsigned files, struct err *err)
{
    char name[16];

    snprintf(s->path, sizeof(s->path), "/dev/shm/.dmtcp-XXXXXX");
    if (!mkdtemp(s->path)) {
        snprintf(s->path, sizeof(s->path), "/tmp/.dmtcp-XXXXXX");
        if (!mkdtemp(s->path))
            return err_errno(err, "a scratch directory");
    }
    s->dir = open(s->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    for (; s->dir >= 0 && s->files < files; s->files++) {
        name_of(name, s->files);
        int fd = openat(s->dir, name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        if (fd < 0)
            return err_errno(err, "scratch file");
        close(fd);
    }
    return s->dir < 0 ? err_errno(err, "a scratch directory") : 0;
}

static unsigned queue_limit(void)
{
    _cleanup_free_ char *text = NULL;
    size_t len;

    if (read_file(AT_FDCWD, "/proc/sys/fs/fanotify/max_queued_events", &text, &len) < 0)
        return 16384;
    return (unsigned)strtoul(text, NULL, 10);
}

/* Read n events and nothing behind them. All are of the size of the first. */
static int drop(int fd, unsigned n, struct err *err)
{
    size_t one = 0, room = 256;

    while (n > 0) {
        _cleanup_free_ char *buf = malloc(room);
        ssize_t got = buf ? read(fd, buf, room) : -1;

        if (got <= 0)
            return err_errno(err, "reading the queue");
        for (ssize_t at = 0; at < got; n--) {
            struct fanotify_event_metadata e;
            memcpy(&e, buf + at, sizeof(e));
            if (e.event_len < sizeof(e) || (e.mask & FAN_Q_OVERFLOW) || n == 0)
                return err_set(err, EIO, "its queue did not hold what was put there");
            if (e.fd >= 0)
                close(e.fd);
            one = e.event_len;
            at += (ssize_t)one;
        }
        room = one * (n < 512 ? n : 512);
    }
    return 0;
}

static int make_overflow(int fd, struct err *err)
{
    const uint64_t mask = FAN_OPEN | FAN_EVENT_ON_CHILD;
    __attribute__((cleanup(end_scratch))) struct scratch s = {.dir = -1};
    unsigned limit = queue_limit();
    char name[16];

    if (make_scratch(&s, limit + 1, err) < 0)
        return -err->code;
    if (fanotify_mark(fd, FAN_MARK_ADD, mask, s.dir, NULL) < 0)
        return err_errno(err, "marking %s", s.path);
    for (unsigned i = 0; i < s.files; i++) {
        name_of(name, i);
        _cleanup_close_ int file = openat(s.dir, name, O_RDONLY | O_CLOEXEC);
        if (file < 0)
            return err_errno(err, "scratch file");
    }
    if (fanotify_mark(fd, FAN_MARK_REMOVE, mask, s.dir, NULL) < 0)
        return err_errno(err, "marking %s", s.path);
    return drop(fd, limit, err);
}

/* ---- marks ---- */

static int open_marked(struct restore *r, const FanotifyMark *k, struct err *err)
{
    char path[4096];
    uint32_t number;
    int fd;

    if (k->ofd) {
        struct rproc *p = place_holder(r, k->ofd, &number);
        return p ? inj_get_fd(&p->inj, (int)number, err)
                 : err_set(err, EINVAL, "no process has what it marks");
    }
    memcpy(path, k->path.data, k->path.len);
    path[k->path.len] = '\0';
    fd = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    return fd < 0 ? err_errno(err, "%s", path) : fd;
}

static int mark(int group, const FanotifyMark *k, int fd, struct err *err)
{
    const unsigned ignore = 0x400; /* FAN_MARK_IGNORE, which takes the place of FAN_MARK_IGNORED_MASK */
    unsigned add = FAN_MARK_ADD | k->type | (k->flags & ~(FAN_MARK_IGNORED_SURV_MODIFY | ignore));
    unsigned how = k->flags & ignore ? ignore : FAN_MARK_IGNORED_MASK;
    char path[48];

    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    if (k->mask && fanotify_mark(group, add, k->mask, AT_FDCWD, path) < 0)
        return err_errno(err, "mask %#llx", (unsigned long long)k->mask);
    if (k->ignored_mask && fanotify_mark(group, add | how | (k->flags & FAN_MARK_IGNORED_SURV_MODIFY),
                                         k->ignored_mask, AT_FDCWD, path) < 0)
        return err_errno(err, "ignored mask %#llx", (unsigned long long)k->ignored_mask);
    return 0;
}

static int fanotify_arm(struct restore *r, struct robject *o, struct err *err)
{
    const Fanotify *m = fanotify_of(o);

    if (m->pending && make_overflow(o->fd, err) < 0)
        return err_wrap(err, "fanotify: an overflow in the place of its events");
    for (size_t i = 0; i < m->n_marks; i++) {
        _cleanup_close_ int fd = open_marked(r, m->marks[i], err);
        if (fd < 0 || mark(o->fd, m->marks[i], fd, err) < 0)
            return err_wrap(err, "fanotify mark on %.*s", (int)m->marks[i]->path.len,
                            (char *)m->marks[i]->path.data);
    }
    return 0;
}

const struct rebuild_ops fanotify_ops = {
    .kind = KIND_FANOTIFY,
    .descriptor = &fanotify__descriptor,
    .prepare = fanotify_prepare,
    .rebuild = fanotify_rebuild,
    .open = fanotify_open,
    .arm = fanotify_arm,
};
