/*
 * How events come into the queue of an inotify instance. Each is generated for real, by an operation on a
 * scratch file or directory that is watched under the number that the event is to carry
 * (INOTIFY_IOC_SETNEXTWD chooses it). What is left then is to give the number back to what it belongs to, and
 * that leaves a trace: removing a watch queues IN_IGNORED. It does not when the queue is full: then
 * IN_Q_OVERFLOW is queued instead, but not if one is there already (fs/notify/notification.c:
 * fsnotify_insert_event). So:
 *
 *   1. fill the queue with fillers until it overflows:         f f f f f f f f O
 *   2. read as many fillers as there are events, and one:              f f f f O
 *   3. generate the events; the queue is full again:                   f f f f O e e e
 *   4. remove the scratch watches, add the real ones: nothing is queued
 *   5. read the rest of the fillers and the overflow:                            e e e
 *
 * It takes about 20 ms. What happens to watched files between 1 and 5 by other hands is lost; the caller
 * may look for it with an instance of its own.
 */
#include "base/inqueue.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/inevent.h"
#include "base/util.h"

#define FILLER_WD  0x40000000 /* numbers of the fillers' watches, far from all others */
#define EVENT_SIZE ((int)sizeof(struct inotify_event))

static int add_watches(int fd, const struct inqueue_watch *w, size_t n, struct err *err)
{
    for (size_t i = 0; i < n; i++)
        if (scratch_watch(fd, w[i].fd, NULL, w[i].wd, w[i].mask, true, err) < 0)
            return -err->code;
    return 0;
}

/* ---- fillers ---- */

/* first: the number of the first one's watch; 0: whatever comes next. */
static int start_fillers(struct scratch *s, int first, struct err *err)
{
    char path[48];

    if (first == 0) {
        snprintf(path, sizeof(path), "/proc/self/fd/%d", s->filler[0]);
        s->filler_wd[0] = inotify_add_watch(s->fd, path, IN_ATTRIB);
        if (s->filler_wd[0] < 0)
            return err_errno(err, "inotify watch on a scratch file");
    } else {
        s->filler_wd[0] = first;
        if (scratch_watch(s->fd, s->filler[0], NULL, first, IN_ATTRIB, true, err) < 0)
            return -err->code;
    }
    s->filler_wd[1] = FILLER_WD + 1;
    return scratch_watch(s->fd, s->filler[1], NULL, s->filler_wd[1], IN_ATTRIB, true, err);
}

static void end_fillers(struct scratch *s)
{
    for (int i = 0; i < 2; i++)
        inotify_rm_watch(s->fd, s->filler_wd[i]);
}

/* One event, different from the one before it, or they would become one. */
static int fill_one(struct scratch *s, struct err *err)
{
    return fchmod(s->filler[s->fills++ & 1], 0600) < 0 ? err_errno(err, "scratch file in %s", s->path) : 0;
}

static int queue_length(const struct scratch *s, int *bytes, struct err *err)
{
    return ioctl(s->fd, FIONREAD, bytes) < 0 ? err_errno(err, "length of an inotify queue") : 0;
}

/* Fill the queue until it overflows. It was empty, so its length tells the instance's limit. */
static int fill_up(struct scratch *s, struct err *err)
{
    int before = -1, now = 0;

    while (now != before) {
        before = now;
        for (int i = 0; i < 1024; i++)
            if (fill_one(s, err) < 0)
                return -err->code;
        if (queue_length(s, &now, err) < 0)
            return -err->code;
    }
    s->queued = now / EVENT_SIZE - 1;
    return 0;
}

static int fill_some(struct scratch *s, int n, struct err *err)
{
    for (int i = 0; i < n; i++)
        if (fill_one(s, err) < 0)
            return -err->code;
    s->queued += n;
    return 0;
}

/* Read n events of the smallest size, which fillers and the overflow have, and nothing behind them. */
static int drop(struct scratch *s, int n, struct err *err)
{
    char buf[1024 * sizeof(struct inotify_event)];

    while (n > 0) {
        ssize_t r = read(s->fd, buf, (size_t)(n < 1024 ? n : 1024) * sizeof(struct inotify_event));
        if (r <= 0 || r % EVENT_SIZE)
            return err_set(err, EIO, "an inotify queue did not hold what was put there");
        n -= (int)(r / EVENT_SIZE);
    }
    return 0;
}

static int drop_fillers(struct scratch *s, int n, struct err *err)
{
    s->queued -= n;
    return s->queued < 0 ? err_set(err, EOPNOTSUPP, "its queue is too full") : drop(s, n, err);
}

/* ---- the queue ---- */

static size_t overflow_at(const struct wanted *q)
{
    size_t i = 0;

    while (i < q->ne && !(q->e[i].mask & IN_Q_OVERFLOW))
        i++;
    return i;
}

/* As inotify(7) has it: the name with its NUL, padded to the size of the struct. */
static int bytes_of(const struct inqueue_event *e)
{
    size_t n = e->name ? strlen(e->name) + 1 : 0;

    return EVENT_SIZE + (int)((n + (size_t)EVENT_SIZE - 1) / (size_t)EVENT_SIZE) * EVENT_SIZE;
}

/*
 * Steps 1 to 3. An overflow among the events becomes the one that is needed anyway: the events before it make
 * the queue full. *tail: how many things of the smallest size are to be dropped in the end.
 */
static int queue_events(struct scratch *s, const struct wanted *q, int *tail, struct err *err)
{
    int before = (int)overflow_at(q), n = (int)q->ne, after = n - before - 1, limit;

    if (fill_up(s, err) < 0)
        return -err->code;
    limit = s->queued;
    if (before == n) {
        *tail = limit - n;
        if (drop_fillers(s, n + 1, err) < 0)
            return -err->code;
        return scratch_events(s, q, 0, q->ne, err);
    }
    *tail = limit - before - (after ? after + 1 : 0);
    if (*tail < 0)
        return err_set(err, EOPNOTSUPP, "its queue has overflown and is too full to be made again");
    if (drop(s, limit + 1, err) < 0 || fill_some(s, limit - before, err) < 0 ||
        scratch_events(s, q, 0, (size_t)before, err) < 0 || fill_one(s, err) < 0)
        return -err->code;
    if (after && drop(s, after + 1, err) < 0)
        return -err->code;
    return scratch_events(s, q, (size_t)before + 1, q->ne, err);
}

/* The queue must be as long as it should be: then it is full, and holds nothing that nobody asked for. */
static int check_length(struct scratch *s, const struct wanted *q, int tail, struct err *err)
{
    int expected = tail * EVENT_SIZE, now;

    for (size_t i = 0; i < q->ne; i++)
        expected += bytes_of(&q->e[i]);
    if (queue_length(s, &now, err) < 0)
        return -err->code;
    return now == expected
               ? 0
               : err_set(err, EIO, "an inotify queue came out %d bytes long instead of %d", now, expected);
}

static int highest(const struct wanted *q)
{
    int top = 0;

    for (size_t i = 0; i < q->nw; i++)
        top = q->w[i].wd > top ? q->w[i].wd : top;
    for (size_t i = 0; i < q->ne; i++)
        top = q->e[i].wd > top ? q->e[i].wd : top;
    return top;
}

static int fill_queue(struct scratch *s, const struct wanted *q, struct err *err)
{
    int tail = 0;

    if (scratch_make(s, err) < 0 || start_fillers(s, FILLER_WD, err) < 0 ||
        queue_events(s, q, &tail, err) < 0 || check_length(s, q, tail, err) < 0)
        return -err->code;
    for (size_t i = 0; i < q->ne; i++)
        inotify_rm_watch(s->fd, q->e[i].wd); /* those that events have removed already are no error */
    end_fillers(s);
    if (add_watches(s->fd, q->w, q->nw, err) < 0 || check_length(s, q, tail, err) < 0)
        return -err->code;
    return drop(s, tail, err);
}

int inqueue_fill(int fd, const struct inqueue_watch *w, size_t nw, const struct inqueue_event *e, size_t ne,
                 int next_wd, struct err *err)
{
    _cleanup_scratch_ struct scratch s = SCRATCH(fd);
    const struct wanted q = {w, nw, e, ne};
    int top = highest(&q);

    if (ne ? fill_queue(&s, &q, err) < 0 : add_watches(fd, w, nw, err) < 0)
        return -err->code;
    if (!next_wd && !top)
        return 0;
    return scratch_next_wd(fd, next_wd ? next_wd : top < INT_MAX ? top + 1 : 1, err);
}

int inqueue_forget(int fd, const struct inqueue_watch *w, size_t nw, int *next_wd, struct err *err)
{
    _cleanup_scratch_ struct scratch s = SCRATCH(fd);

    if (scratch_make(&s, err) < 0 || start_fillers(&s, 0, err) < 0 || fill_up(&s, err) < 0)
        return -err->code;
    *next_wd = s.filler_wd[0];
    for (size_t i = 0; i < nw; i++)
        inotify_rm_watch(fd, w[i].wd);
    end_fillers(&s);
    return drop(&s, s.queued + 1, err);
}

int inqueue_possible(struct err *err)
{
    _cleanup_close_ int fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    _cleanup_scratch_ struct scratch s = SCRATCH(fd);

    if (fd < 0)
        return err_errno(err, "inotify_init1");
    return scratch_make(&s, err) < 0 || start_fillers(&s, FILLER_WD, err) < 0 ? -err->code : 0;
}

/* ---- reading ---- */

static int append(struct inqueue_list *l, const struct inotify_event *e, struct err *err)
{
    struct inqueue_event *more = grow(l->event, l->n, &l->cap, sizeof(*more));
    char *name = e->len && e->name[0] ? strndup(e->name, e->len) : NULL;

    if (more)
        l->event = more;
    if (!more || (e->len && e->name[0] && !name)) {
        free(name);
        return err_set(err, ENOMEM, "out of memory");
    }
    l->event[l->n++] =
        (struct inqueue_event){.wd = e->wd, .mask = e->mask, .cookie = e->cookie, .name = name};
    return 0;
}

int inqueue_take(int fd, struct inqueue_list *l, struct err *err)
{
    _cleanup_free_ char *buf = malloc(65536);
    int waiting = 0;

    if (!buf)
        return err_set(err, ENOMEM, "out of memory");
    while (ioctl(fd, FIONREAD, &waiting) == 0 && waiting > 0) { /* so that a read never blocks */
        ssize_t n = read(fd, buf, 65536);
        if (n <= 0)
            return err_errno(err, "reading an inotify queue");
        for (ssize_t at = 0; at + EVENT_SIZE <= n;) {
            const struct inotify_event *e = (const struct inotify_event *)(const void *)(buf + at);
            if (append(l, e, err) < 0)
                return -err->code;
            at += EVENT_SIZE + (ssize_t)e->len;
        }
    }
    return 0;
}

void inqueue_list_free(struct inqueue_list *l)
{
    for (size_t i = 0; i < l->n; i++)
        free((void *)(uintptr_t)l->event[i].name);
    free(l->event);
    *l = (struct inqueue_list){0};
}
