/*
 * fanotify groups. Flags and marks are in fdinfo. Queued events are not taken: they name real files, so there
 * is no way to put them back. The running program keeps them; after a restart it finds FAN_Q_OVERFLOW in
 * their place, which tells it, in the interface's own words, that events were lost. A group whose queue
 * cannot overflow (FAN_UNLIMITED_QUEUE), or of whose events somebody waits for an answer, must have none when
 * it is saved.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/fanotify.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/log.h"
#include "base/util.h"
#include "image/fanotify.pb-c.h"
#include "tracer/ckpt.h"
#include "tracer/watched.h"

static bool fanotify_probe(const struct fd_info *fi)
{
    return !strcmp(fi->link, "anon_inode:[fanotify]");
}

static int fanotify_collect(struct ckpt *c, const struct fd_info *fi, struct object *o, struct err *err)
{
    Fanotify *m = arena_alloc(c->arena, sizeof(*m));
    const char *line = strstr(fi->fdinfo, "fanotify flags:");

    if (!m)
        return err_set(err, ENOMEM, "out of memory");
    fanotify__init(m);
    m->id = o->id;
    o->msg = &m->base;
    o->priv = fi->fdinfo;
    if (!line || sscanf(line, "fanotify flags:%x event-flags:%x", &m->flags, &m->event_flags) != 2)
        return err_set(err, EPROTO, "its flags, which fdinfo describes unintelligibly");
    return 0;
}

static int fanotify_wrap(const struct object *o, struct err *err)
{
    return err_wrap(err, "process %d: fd %d: fanotify", o->proc->pid, o->fd);
}

/* A mount point by number, or any mount of a file system. */
static bool find_mount(struct ckpt *c, const struct proc *p, unsigned id, dev_t dev, FanotifyMark *m)
{
    _cleanup_free_ char *text = NULL;
    unsigned mount, ma, mi;
    struct err ignored;
    char *save = NULL, point[4096];

    if (read_proc(&text, NULL, &ignored, "%d/mountinfo", p->pid) < 0)
        return false;
    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        if (sscanf(line, "%u %*d %u:%u %*s %4095s", &mount, &ma, &mi, point) != 4)
            continue;
        if (m->type == FAN_MARK_MOUNT ? mount == id : makedev(ma, mi) == dev) {
            m->path = arena_text(c->arena, point);
            return true;
        }
    }
    return false;
}

static int place_mark(struct ckpt *c, const struct proc *p, const char *line, FanotifyMark *m,
                      struct err *err)
{
    struct watched w;
    struct place place;
    unsigned id = 0, dev = 0;

    if (sscanf(line, "fanotify mnt_id:%x", &id) == 1)
        m->type = FAN_MARK_MOUNT;
    else if (sscanf(line, "fanotify sdev:%x", &dev) == 1)
        m->type = FAN_MARK_FILESYSTEM;
    if (m->type)
        return find_mount(c, p, id, makedev(dev >> 20, dev & 0xfffff), m)
                   ? 0
                   : err_set(err, ENOENT, "a mark on a mount that is not there any more");
    if (!watched_parse(line + strlen("fanotify "), &w))
        return err_set(err, EPROTO, "a mark that fdinfo describes unintelligibly");
    if (watched_find(c, p, &w, &place, err) < 0)
        return -err->code;
    if (place.path)
        m->path = arena_text(c->arena, place.path);
    else
        m->ofd = place.ofd->msg->id;
    close(place.fd);
    return 0;
}

static int add_mark(struct ckpt *c, struct object *o, const char *line, struct err *err)
{
    Fanotify *group = (Fanotify *)o->msg;
    FanotifyMark *m = arena_alloc(c->arena, sizeof(*m));
    const char *flags = strstr(line, "mflags:");
    unsigned mask, ignored;

    if (!m)
        return err_set(err, ENOMEM, "out of memory");
    fanotify_mark__init(m);
    if (!flags || sscanf(flags, "mflags:%x mask:%x ignored_mask:%x", &m->flags, &mask, &ignored) != 3)
        return err_set(err, EPROTO, "a mark that fdinfo describes unintelligibly");
    m->mask = mask;
    m->ignored_mask = ignored;
    if (place_mark(c, o->proc, line, m, err) < 0)
        return -err->code;
    arena_push(c->arena, (void ***)&group->marks, &group->n_marks, m);
    return 0;
}

static int fanotify_match(struct ckpt *c, struct object *o, struct err *err)
{
    for (const char *p = o->priv; (p = strstr(p, "\nfanotify ")); p++)
        if (strncmp(p + 1, "fanotify flags:", 15) && add_mark(c, o, p + 1, err) < 0)
            return fanotify_wrap(o, err);
    return 0;
}

static int fanotify_peek(struct ckpt *c, struct object *o, struct err *err)
{
    Fanotify *m = (Fanotify *)o->msg;
    _cleanup_close_ int fd = ckpt_get_fd(o->proc, o->fd, err);
    int waiting = 0;

    if (fd < 0)
        return fanotify_wrap(o, err);
    m->pending = ioctl(fd, FIONREAD, &waiting) == 0 && waiting > 0;
    if (!m->pending)
        return 0;
    if ((m->flags & FAN_UNLIMITED_QUEUE) || (m->flags & (FAN_CLASS_CONTENT | FAN_CLASS_PRE_CONTENT))) {
        err_set(err, EOPNOTSUPP, "it has events that were not read, which cannot be saved");
        return fanotify_wrap(o, err);
    }
    log_note("process %d: fd %d: fanotify events that it has not read are kept by the running program; after "
             "a restart it "
             "finds FAN_Q_OVERFLOW in their place",
             o->proc->pid, o->fd);
    return 0;
}

const struct kind_ops fanotify_ops = {
    .kind = KIND_FANOTIFY,
    .per_description = true,
    .probe = fanotify_probe,
    .collect = fanotify_collect,
    .match = fanotify_match,
    .peek_receive = fanotify_peek,
};
