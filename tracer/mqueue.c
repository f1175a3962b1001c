/*
 * POSIX message queues. They are files of their own file system, known by inode. Messages can be had only by
 * receiving them, so a helper process (guard.h) receives all and sends them again, through an open file
 * description of the tracer's own; in the order in which they come the queue is as before. Somebody outside
 * who waits to send to a full queue gets his message in between; then one of the tree's does not fit again
 * until room is made, and the checkpoint is refused with the queue as it was but for that.
 *
 * Who has asked to be notified (mq_notify(3)) is told in the text that reading the file gives; with what
 * value is not. So it is provoked: the helper sends a message to the empty queue, takes the signal out of the
 * process before it can see it, and has the process ask again with the value that came.
 */
#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/vfs.h>

#include "base/util.h"
#include "image/mqueue.pb-c.h"
#include "tracer/ckpt.h"
#include "tracer/guard.h"
#include "tracer/packed.h"

#define MQUEUE_MAGIC 0x19800202 /* ipc/mqueue.c */
#define TEXT_SIZE    80         /* FILENT_SIZE there: the size that stat(2) shows */

struct job {
    struct ckpt *c;
    Mqueue *m;
    int fd;             /* of our own, not blocking */
    struct proc *owner; /* who is to be notified, if that takes a value; NULL */
    int owner_fd;       /* the queue, there */
    struct packed *found;
};

/* Of this size are few files, so that few are asked for their file system. */
static bool mqueue_probe(const struct fd_info *fi)
{
    char link[64];
    struct statfs f;

    if (!S_ISREG(fi->st.st_mode) || fi->st.st_size != TEXT_SIZE || (fi->flags & O_PATH))
        return false;
    snprintf(link, sizeof(link), "/proc/%d/task/%d/fd/%d", fi->proc->pid, ckpt_fd_task(fi->proc), fi->fd);
    return statfs(link, &f) == 0 && f.f_type == MQUEUE_MAGIC;
}

static int open_own(const struct proc *p, int fd, int flags, struct err *err)
{
    _cleanup_close_ int copy = ckpt_get_fd(p, fd, err);
    char link[48];
    int own;

    if (copy < 0)
        return copy;
    snprintf(link, sizeof(link), "/proc/self/fd/%d", copy);
    own = open(link, flags | O_NONBLOCK | O_CLOEXEC);
    return own < 0 ? err_errno(err, "opening it to look at its messages") : own;
}

static ProtobufCBinaryData name_of(struct ckpt *c, const char *link)
{
    static const char gone[] = " (deleted)";
    size_t n = strlen(link);

    if (n > sizeof(gone) && !strcmp(link + n - sizeof(gone) + 1, gone))
        return arena_text(c->arena, "");
    return arena_text(c->arena, link);
}

static int mqueue_collect(struct ckpt *c, const struct fd_info *fi, struct object *o, struct err *err)
{
    _cleanup_close_ int fd = open_own(fi->proc, fi->fd, O_RDWR, err);
    Mqueue *m = arena_alloc(c->arena, sizeof(*m));
    char text[TEXT_SIZE + 1] = "";
    struct mq_attr attr;

    if (fd < 0)
        return fd;
    if (!m)
        return err_set(err, ENOMEM, "out of memory");
    mqueue__init(m);
    m->id = o->id;
    m->ino = fi->st.st_ino;
    m->mode = fi->st.st_mode & 07777;
    m->uid = fi->st.st_uid;
    m->gid = fi->st.st_gid;
    m->name = name_of(c, fi->link);
    if (mq_getattr(fd, &attr) < 0 || pread(fd, text, TEXT_SIZE, 0) < 0)
        return err_errno(err, "its attributes");
    m->maxmsg = attr.mq_maxmsg;
    m->msgsize = attr.mq_msgsize;
    if (sscanf(text, "QSIZE:%*u NOTIFY:%d SIGNO:%d NOTIFY_PID:%d", &m->notify_how, &m->notify_signo,
               &m->notify_pid) != 3)
        return err_set(err, EPROTO, "its state, which the kernel describes unintelligibly");
    o->msg = &m->base;
    return 0;
}

static int mqueue_wrap(const struct object *o, struct err *err)
{
    const Mqueue *m = (const Mqueue *)o->msg;

    return err_wrap(err, "process %d: fd %d: message queue %.*s", o->proc->pid, o->fd, (int)m->name.len,
                    (const char *)m->name.data);
}

/* ---- in the helper ---- */

static int receive_all(struct job *j, struct err *err)
{
    size_t max = (size_t)j->m->msgsize;
    _cleanup_free_ char *buf = malloc(max + 1);
    unsigned priority;
    ssize_t n;

    if (!buf)
        return err_set(err, ENOMEM, "out of memory");
    while ((n = mq_receive(j->fd, buf, max, &priority)) >= 0) {
        MqMessage *msg = arena_alloc(j->c->arena, sizeof(*msg));
        mq_message__init(msg);
        msg->priority = priority;
        msg->data = arena_bytes(j->c->arena, buf, (size_t)n);
        arena_push(j->c->arena, (void ***)&j->m->messages, &j->m->n_messages, msg);
    }
    return errno == EAGAIN ? 0 : err_errno(err, "receiving its messages");
}

static int send_all(struct job *j, struct err *err)
{
    for (size_t i = 0; i < j->m->n_messages; i++) {
        const MqMessage *msg = j->m->messages[i];
        if (mq_send(j->fd, (const char *)msg->data.data, msg->data.len, msg->priority) < 0)
            return err_errno(err, "putting message %zu of %zu back", i + 1, j->m->n_messages);
    }
    return 0;
}

/* Is the signal pending already? Then one more of it could not be told from it. */
static int is_pending(struct job *j, bool *yes, struct err *err)
{
    _cleanup_batch_ struct inj_batch b = {0};
    uint64_t set = 0, at;

    if (inj_begin(&b, &j->owner->inj, err) < 0)
        return -err->code;
    at = inj_data(&b, &set, sizeof(set));
    inj_call(&b, 0, SYS_rt_sigpending, at, sizeof(set));
    if (inj_run(&b, err) < 0)
        return -err->code;
    memcpy(&set, inj_at(&b, at), sizeof(set));
    *yes = set & (1ull << (j->m->notify_signo - 1));
    return 0;
}

/* Take the signal from the process; *value is what came with it, 0 if it ignores the signal and none came. */
static int take_signal(struct job *j, uint64_t *value, struct err *err)
{
    uint64_t set = 1ull << (j->m->notify_signo - 1), at;
    _cleanup_batch_ struct inj_batch b = {0};
    struct timespec now = {0};
    siginfo_t info = {0};
    uint32_t call;

    if (inj_begin(&b, &j->owner->inj, err) < 0)
        return -err->code;
    at = inj_data(&b, &info, sizeof(info));
    call = inj_call(&b, 0, SYS_rt_sigtimedwait, inj_data(&b, &set, sizeof(set)), at,
                    inj_data(&b, &now, sizeof(now)), sizeof(set));
    if (inj_run(&b, err) < 0)
        return -err->code;
    *value = 0;
    if (inj_ret(&b, call) > 0) {
        memcpy(&info, inj_at(&b, at), sizeof(info));
        *value = (uint64_t)(uintptr_t)info.si_value.sival_ptr;
    }
    return 0;
}

static int ask_again(struct job *j, uint64_t value, struct err *err)
{
    struct sigevent ev = {.sigev_notify = SIGEV_SIGNAL,
                          .sigev_signo = j->m->notify_signo,
                          .sigev_value.sival_ptr = (void *)(uintptr_t)value};
    _cleanup_batch_ struct inj_batch b = {0};
    uint32_t call;

    if (inj_begin(&b, &j->owner->inj, err) < 0)
        return -err->code;
    call = inj_call(&b, 0, SYS_mq_notify, j->owner_fd, inj_data(&b, &ev, sizeof(ev)));
    if (inj_run(&b, err) < 0)
        return -err->code;
    if (inj_failed(inj_ret(&b, call)))
        return err_set(err, (int)-inj_ret(&b, call), "asking again for notification: %s",
                       strerror((int)-inj_ret(&b, call)));
    return 0;
}

static int provoke(struct job *j, uint64_t *value, struct err *err)
{
    _cleanup_free_ char *buf = malloc((size_t)j->m->msgsize + 1);

    if (!buf)
        return err_set(err, ENOMEM, "out of memory");
    if (mq_send(j->fd, "", 0, 0) < 0)
        return err_errno(err, "provoking its notification");
    if (take_signal(j, value, err) < 0)
        return -err->code;
    return mq_receive(j->fd, buf, (size_t)j->m->msgsize, NULL) < 0
               ? err_errno(err, "provoking its notification")
               : 0;
}

static int look(void *arg, struct err *err)
{
    struct job *j = arg;
    struct err first = {0};
    uint64_t value = 0;
    bool pending = false;

    if (j->owner && is_pending(j, &pending, err) < 0)
        return -err->code;
    if (pending)
        return err_set(err, EOPNOTSUPP,
                       "process %d has asked to be notified by signal %d, which it has pending already",
                       j->m->notify_pid, j->m->notify_signo);
    if (receive_all(j, &first) < 0 || (j->owner && provoke(j, &value, &first) < 0))
        *err = first;
    j->m->notify_value = value;
    /* Whatever happened, what was received goes back, and who was to be notified is again. */
    if (send_all(j, first.code ? &(struct err){0} : err) < 0 && !first.code)
        return -err->code;
    if (j->owner && ask_again(j, value, first.code ? &(struct err){0} : err) < 0 && !first.code)
        return -err->code;
    return first.code ? -first.code : packed_put(j->found, &j->m->base, err);
}

/* ---- in the tracer ---- */

/* The process that is to be notified, and the queue there. SIGEV_NONE needs neither. */
static int find_owner(struct ckpt *c, struct object *o, struct job *j, struct err *err)
{
    struct proc *p = ckpt_find_proc(c, j->m->notify_pid);

    if (!p)
        return err_set(err, EOPNOTSUPP,
                       "process %d, which is not in the computation, is to be notified of messages",
                       j->m->notify_pid);
    if (j->m->notify_how == SIGEV_NONE)
        return 0;
    if (j->m->notify_how != SIGEV_SIGNAL || j->m->notify_signo < 1 || j->m->notify_signo > 64)
        return err_set(err, EOPNOTSUPP, "notification by a thread (SIGEV_THREAD) cannot be saved");
    j->owner_fd = -1;
    for (size_t i = 0; i < (p->files_proc ? p->files_proc : p)->fdtable->n_fds; i++)
        if ((p->files_proc ? p->files_proc : p)->ofds[i]->object == o)
            j->owner_fd = (int)(p->files_proc ? p->files_proc : p)->fdtable->fds[i]->fd;
    if (j->owner_fd < 0)
        return err_set(err, EOPNOTSUPP,
                       "process %d is to be notified of messages but has the queue open no more", p->pid);
    j->owner = p;
    return 0;
}

static int peek(struct ckpt *c, struct object *o, struct err *err)
{
    struct job j = {.c = c, .m = (Mqueue *)o->msg, .found = packed_alloc()};
    _cleanup_close_ int fd = open_own(o->proc, o->fd, O_RDWR, err);
    struct mq_attr attr;
    Mqueue *m = NULL;
    int r = fd < 0 ? fd : 0;

    if (!j.found)
        return err_set(err, ENOMEM, "out of memory");
    j.fd = fd;
    if (r == 0 && mq_getattr(fd, &attr) < 0)
        r = err_errno(err, "its attributes");
    if (r == 0 && j.m->notify_pid)
        r = find_owner(c, o, &j, err);
    if (r == 0 && (attr.mq_curmsgs || j.owner)) {
        r = guarded(look, &j, err);
        m = r == 0 ? packed_get(c, j.found, &mqueue__descriptor, err) : NULL;
        if (m)
            *j.m = *m;
        else if (r == 0)
            r = -err->code;
    }
    packed_free(j.found);
    return r;
}

static int mqueue_peek(struct ckpt *c, struct object *o, struct err *err)
{
    return peek(c, o, err) < 0 ? mqueue_wrap(o, err) : 0;
}

const struct kind_ops mqueue_ops = {
    .kind = KIND_MQUEUE,
    .probe = mqueue_probe,
    .collect = mqueue_collect,
    .peek_receive = mqueue_peek,
};
