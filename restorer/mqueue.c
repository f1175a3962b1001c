/*
 * POSIX message queues. One that outlived the tree, on the same boot, is the same inode still: it is emptied
 * and filled anew. Another queue of that name is somebody else's; then the restart is refused. A queue that
 * had no name any more is made under one that nobody uses and unlinked once all have it open. Permissions
 * come last: a queue may forbid its own opening.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <mqueue.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/util.h"
#include "image/mqueue.pb-c.h"
#include "restorer/place.h"

struct queue {
    char name[NAME_MAX + 2];
    bool existed;
};

static const Mqueue *mqueue_of(const struct robject *o)
{
    return (const Mqueue *)o->msg;
}

static int mqueue_prepare(struct restore *r, struct robject *o, struct err *err)
{
    const Mqueue *m = mqueue_of(o);

    if (m->name.len &&
        (m->name.len < 2 || m->name.len > NAME_MAX || m->name.data[0] != '/' ||
         memchr(m->name.data + 1, '/', m->name.len - 1) || memchr(m->name.data, 0, m->name.len)))
        return err_set(err, EINVAL, "a message queue with a name that is none");
    if (m->maxmsg <= 0 || m->msgsize <= 0 || m->msgsize > 1 << 30 || m->n_messages > (uint64_t)m->maxmsg)
        return err_set(err, EINVAL, "message queue %.*s: impossible attributes", (int)m->name.len,
                       (char *)m->name.data);
    for (size_t i = 0; i < m->n_messages; i++)
        if (m->messages[i]->data.len > (uint64_t)m->msgsize)
            return err_set(err, EINVAL, "message queue %.*s: a message that is too long", (int)m->name.len,
                           (char *)m->name.data);
    return 0;
}

static bool same_boot(const struct robject *o)
{
    _cleanup_free_ char *now = NULL;
    const MachineInfo *machine = o->home && o->home->head ? o->home->head->machine : NULL;
    size_t len;

    if (!machine || !machine->boot_id ||
        read_file(AT_FDCWD, "/proc/sys/kernel/random/boot_id", &now, &len) < 0)
        return false;
    return !strncmp(now, machine->boot_id, strcspn(now, "\n"));
}

static int find_again(struct robject *o, struct queue *q, struct err *err)
{
    const Mqueue *m = mqueue_of(o);
    struct mq_attr attr;
    struct stat st;

    o->fd = mq_open(q->name, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (o->fd < 0)
        return errno == ENOENT ? 0 : err_errno(err, "message queue %s", q->name);
    if (fstat(o->fd, &st) < 0 || mq_getattr(o->fd, &attr) < 0)
        return err_errno(err, "message queue %s", q->name);
    if (!same_boot(o) || st.st_ino != m->ino || attr.mq_maxmsg != m->maxmsg || attr.mq_msgsize != m->msgsize)
        return err_set(err, EEXIST, "message queue %s: there is another one of that name now", q->name);
    q->existed = true;
    return 0;
}

static int make_queue(struct robject *o, struct queue *q, struct err *err)
{
    const Mqueue *m = mqueue_of(o);
    struct mq_attr attr = {.mq_maxmsg = m->maxmsg, .mq_msgsize = m->msgsize};

    o->fd = mq_open(q->name, O_RDWR | O_CREAT | O_EXCL | O_NONBLOCK | O_CLOEXEC, 0600, &attr);
    if (o->fd >= 0)
        return 0;
    err_errno(err, "message queue %s of %lld messages of %lld bytes", q->name, (long long)m->maxmsg,
              (long long)m->msgsize);
    return err->code == EINVAL ? err_wrap(err, "beyond /proc/sys/fs/mqueue/msg_max or msgsize_max")
                               : -err->code;
}

static int mqueue_rebuild(struct restore *r, struct robject *o, struct err *err)
{
    const Mqueue *m = mqueue_of(o);
    struct queue *q = restore_alloc(r, sizeof(*q));

    if (!q)
        return err_set(err, ENOMEM, "out of memory");
    o->priv = q;
    if (m->name.len) {
        memcpy(q->name, m->name.data, m->name.len);
        if (find_again(o, q, err) < 0)
            return -err->code;
    } else {
        snprintf(q->name, sizeof(q->name), "/dmtcp-%d-%llu", getpid(), (unsigned long long)o->id);
    }
    return q->existed ? 0 : make_queue(o, q, err);
}

static int mqueue_open(struct restore *r, struct robject *o, struct rofd *d, int *fd, struct err *err)
{
    const struct queue *q = o->priv;

    *fd = mq_open(q->name, (int)(d->msg->flags & (O_ACCMODE | O_NONBLOCK)) | O_CLOEXEC);
    return *fd < 0 ? err_errno(err, "message queue %s", q->name) : 0;
}

static int empty(const struct robject *o, struct err *err)
{
    size_t max = (size_t)mqueue_of(o)->msgsize;
    _cleanup_free_ char *buf = malloc(max + 1);

    if (!buf)
        return err_set(err, ENOMEM, "out of memory");
    while (mq_receive(o->fd, buf, max, NULL) >= 0)
        ;
    return errno == EAGAIN ? 0 : err_errno(err, "emptying it");
}

static int fill(const struct robject *o, struct err *err)
{
    const Mqueue *m = mqueue_of(o);

    for (size_t i = 0; i < m->n_messages; i++) {
        const MqMessage *msg = m->messages[i];

        if (mq_send(o->fd, (const char *)msg->data.data, msg->data.len, msg->priority) < 0)
            return err_errno(err, "putting its messages back");
    }
    return 0;
}

static int mqueue_refill(struct restore *r, struct robject *o, struct err *err)
{
    const Mqueue *m = mqueue_of(o);
    const struct queue *q = o->priv;

    if ((q->existed && empty(o, err) < 0) || fill(o, err) < 0)
        return err_wrap(err, "message queue %s", q->name);
    if (!m->name.len && mq_unlink(q->name) < 0)
        return err_errno(err, "message queue %s: unlinking it", q->name);
    if (!q->existed && ((fchown(o->fd, m->uid, m->gid) < 0 && errno != EPERM) || fchmod(o->fd, m->mode) < 0))
        return err_errno(err, "message queue %s: its owner and mode", q->name);
    return 0;
}

/* The process that was to be notified asks again, through any fd of the queue that it has. */
static int mqueue_arm(struct restore *r, struct robject *o, struct err *err)
{
    const Mqueue *m = mqueue_of(o);
    struct rproc *p = m->notify_pid ? restore_proc(r, m->notify_pid) : NULL;
    struct sigevent ev = {.sigev_notify = m->notify_how,
                          .sigev_signo = m->notify_signo,
                          .sigev_value.sival_ptr = (void *)(uintptr_t)m->notify_value};
    _cleanup_batch_ struct inj_batch b = {0};
    int number = -1;

    if (!m->notify_pid)
        return 0;
    for (struct rofd *d = r->ofds; p && d; d = d->next)
        for (size_t k = 0; d->object == o && p->fdtable && k < p->fdtable->n_fds; k++)
            if (p->fdtable->fds[k]->ofd == d->msg->id)
                number = (int)p->fdtable->fds[k]->fd;
    if (number < 0)
        return err_set(err, EINVAL, "message queue: who is to be notified does not have it open");
    if (inj_begin(&b, &p->inj, err) < 0)
        return -err->code;
    inj_call(&b, BLOB_MUST, SYS_mq_notify, number, inj_data(&b, &ev, sizeof(ev)));
    return inj_run(&b, err) < 0 ? -err->code : inj_check(&b, err, "mq_notify");
}

const struct rebuild_ops mqueue_ops = {
    .kind = KIND_MQUEUE,
    .descriptor = &mqueue__descriptor,
    .prepare = mqueue_prepare,
    .rebuild = mqueue_rebuild,
    .open = mqueue_open,
    .refill = mqueue_refill,
    .arm = mqueue_arm,
};
