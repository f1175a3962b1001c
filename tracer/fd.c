/*
 * Descriptor tables. Every process's /proc/PID/fd is read; which descriptors are the same open file
 * description is what kcmp(2) tells. It gives an order, so the descriptors are sorted: by inode and access
 * mode first, which needs no system call, and by kcmp within. That is n log n also for ten thousand
 * descriptors. Position and status flags are no part of the key: somebody outside who shares a description
 * may change them between two looks.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>

#include "base/util.h"
#include "tracer/ckpt.h"
#include "tracer/fdinfo.h"
#include "tracer/lock.h"
#include "tracer/procfs.h"
#include "tracer/socket.h"

#define KCMP_FILE  0 /* enum kcmp_type; linux/kcmp.h is not in all header packages */
#define KCMP_FILES 2
#ifndef PIDFD_THREAD
#define PIDFD_THREAD O_EXCL
#endif
#define F_GETOWNER_UIDS_ 17

struct entry {
    struct fd_info fi;
    struct entry *same; /* the first of this description, perhaps itself */
    struct ofd *ofd;
    size_t rank; /* place in the order of processes and fds */
};

struct survey {
    struct ckpt *c;
    struct entry **all; /* ascending by process and fd; entries are in the arena */
    size_t n, cap;
    int kcmp_errno;
};

static void survey_free(struct survey *s)
{
    free(s->all);
}

pid_t ckpt_fd_task(const struct proc *p)
{
    for (size_t i = 0; i < p->nthreads; i++)
        if (!p->threads[i].gone && !(p->leader_dead && p->threads[i].tid == p->pid))
            return p->threads[i].tid;
    return p->pid;
}

int ckpt_get_fd(const struct proc *p, int fd, struct err *err)
{
    _cleanup_close_ int own = -1;
    int pidfd = p->pidfd, copy;

    if (p->leader_dead || pidfd < 0) {
        pid_t tid = ckpt_fd_task(p);
        own = pidfd = (int)syscall(SYS_pidfd_open, tid, tid == p->pid ? 0 : PIDFD_THREAD);
        if (pidfd < 0)
            return err_errno(err, "pidfd_open(2) of thread %d", tid);
    }
    copy = (int)syscall(SYS_pidfd_getfd, pidfd, fd, 0);
    if (copy < 0)
        return err_errno(err, "fetching a copy of it (pidfd_getfd(2))");
    return copy;
}

int ckpt_fd_err(const struct fd_info *fi, struct err *err)
{
    const struct proc *p = fi->proc;
    const char *name = p->process && p->process->comm.len ? (char *)p->process->comm.data : "?";

    if (fi->fd < 0)
        return err_wrap(err, "process %d (%s): %s", p->pid, name, fi->link);
    return err_wrap(err, "process %d (%s): fd %d: %s", p->pid, name, fi->fd, fi->link);
}

/* ---- reading the tables ---- */

static char *link_text(struct ckpt *c, int dir, const char *name)
{
    char buf[PATH_MAX + 64];
    ssize_t n = readlinkat(dir, name, buf, sizeof(buf) - 1);

    if (n < 0)
        return NULL;
    buf[n] = '\0';
    return arena_dup(c->arena, buf, (size_t)n + 1);
}

int ckpt_read_fd(struct ckpt *c, struct proc *p, const int dirs[2], int fd, struct fd_info *fi, struct err *err)
{
    _cleanup_free_ char *text = NULL;
    struct fdinfo info;
    char name[16];
    size_t len;
    int r;

    snprintf(name, sizeof(name), "%d", fd);
    *fi = (struct fd_info){.proc = p, .fd = fd, .stream = -1, .link = link_text(c, dirs[0], name)};
    if (!fi->link)
        return err_errno(err, "process %d: fd %d", p->pid, fd);
    if (fstatat(dirs[0], name, &fi->st, 0) < 0) {
        err_errno(err, "looking at it");
        return ckpt_fd_err(fi, err);
    }
    r = read_file(dirs[1], name, &text, &len);
    if (r < 0) {
        err_set(err, -r, "fdinfo: %s", strerror(-r));
        return ckpt_fd_err(fi, err);
    }
    if (fdinfo_parse(text, &info, err) < 0)
        return ckpt_fd_err(fi, err);
    fi->flags = info.flags;
    fi->pos = info.pos;
    fi->mnt_id = info.mnt_id;
    fi->fdinfo = arena_dup(c->arena, text, len + 1);
    return fi->fdinfo ? 0 : err_set(err, ENOMEM, "out of memory");
}

static int read_entry(struct survey *s, struct proc *p, const int dirs[2], int fd, struct err *err)
{
    struct entry *e = arena_alloc(s->c->arena, sizeof(*e));
    struct entry **more = grow(s->all, s->n, &s->cap, sizeof(*more));

    if (more)
        s->all = more;
    if (!e || !more)
        return err_set(err, ENOMEM, "out of memory");
    if (ckpt_read_fd(s->c, p, dirs, fd, &e->fi, err) < 0)
        return -err->code;
    e->rank = s->n;
    s->all[s->n++] = e;
    return 0;
}

/* The parasites' control sockets are in the table of every process that shares it. */
static bool is_ours(const struct survey *s, const struct proc *owner, int fd)
{
    for (size_t i = 0; i < s->c->nprocs; i++) {
        const struct proc *p = s->c->procs[i];
        if (p->injected && p->files_proc == owner && p->inj.remote_ctl == fd)
            return true;
    }
    return false;
}

static int same_table(const struct proc *p, struct err *err)
{
    pid_t first = ckpt_fd_task(p);

    for (size_t i = 0; i < p->nthreads; i++) {
        pid_t tid = p->threads[i].tid;
        if (tid == first || p->threads[i].gone || (p->leader_dead && tid == p->pid))
            continue;
        if (syscall(SYS_kcmp, first, tid, KCMP_FILES, 0, 0) > 0)
            return err_set(err, ENOTSUP,
                           "process %d: thread %d has file descriptors of its own (unshare(2)), which cannot "
                           "be saved yet",
                           p->pid, tid);
    }
    return 0;
}

static int read_table(struct survey *s, struct proc *p, struct err *err)
{
    _cleanup_close_ int fd_dir = -1, info_dir = -1;
    _cleanup_free_ int *fds = NULL;
    char path[64], info_path[72];
    bool alone = true;
    size_t n;

    if (same_table(p, err) < 0)
        return -err->code;
    snprintf(path, sizeof(path), "/proc/%d/task/%d/fd", p->pid, ckpt_fd_task(p));
    snprintf(info_path, sizeof(info_path), "%sinfo", path);
    fd_dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    info_dir = fd_dir < 0 ? -1 : open(info_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (info_dir < 0)
        return err_errno(err, "process %d: its file descriptors", p->pid);
    if (list_numbers(path, &fds, &n, err) < 0)
        return -err->code;
    for (size_t i = 0; i < s->c->nprocs; i++)
        alone &= s->c->procs[i] == p || s->c->procs[i]->files_proc != p;
    for (size_t i = 0; i < n; i++) {
        if (alone ? p->injected && fds[i] == p->inj.remote_ctl : is_ours(s, p, fds[i]))
            continue;
        if (read_entry(s, p, (int[2]){fd_dir, info_dir}, fds[i], err) < 0)
            return -err->code;
    }
    return 0;
}

/* Mark what is the same inode as a standard stream of a launched process. There are few of those. */
static void mark_streams(struct survey *s)
{
    for (size_t i = 0; i < s->n; i++) {
        const struct fd_info *root = &s->all[i]->fi;
        if (!root->proc->is_root || root->fd > 2 || (root->streams & 1u << root->fd))
            continue;
        for (size_t j = 0; j < s->n; j++) {
            struct fd_info *fi = &s->all[j]->fi;
            if (fi->st.st_ino != root->st.st_ino || fi->st.st_dev != root->st.st_dev)
                continue;
            fi->streams |= 1u << root->fd;
            if (fi->stream < 0 || root->fd < fi->stream)
                fi->stream = root->fd;
        }
    }
}

/* ---- which are the same description ---- */

#define COMPARE(a, b)                                                                                        \
    do {                                                                                                     \
        if ((a) != (b))                                                                                      \
            return (a) < (b) ? -1 : 1;                                                                       \
    } while (0)

static int compare_files(struct survey *s, const struct fd_info *a, const struct fd_info *b)
{
    const uint32_t fixed = O_ACCMODE | O_PATH;

    COMPARE(a->st.st_dev, b->st.st_dev);
    COMPARE(a->st.st_ino, b->st.st_ino);
    COMPARE(a->flags & fixed, b->flags & fixed);
    switch (syscall(SYS_kcmp, ckpt_fd_task(a->proc), ckpt_fd_task(b->proc), KCMP_FILE, a->fd, b->fd)) {
    case 0:
        return 0;
    case 1:
        return -1;
    case 2:
        return 1;
    case -1:
        s->kcmp_errno = errno;
        return 0;
    default:
        s->kcmp_errno = EPROTO;
        return 0;
    }
}

static int by_file(const void *x, const void *y, void *arg)
{
    const struct entry *a = *(struct entry *const *)x, *b = *(struct entry *const *)y;
    int r = compare_files(arg, &a->fi, &b->fi);

    return r ? r : a->rank < b->rank ? -1 : 1;
}

static int find_same(struct survey *s, struct err *err)
{
    _cleanup_free_ struct entry **sorted = malloc((s->n + 1) * sizeof(struct entry *));

    if (!sorted)
        return err_set(err, ENOMEM, "out of memory");
    if (s->n)
        memcpy(sorted, s->all, s->n * sizeof(*sorted));
    qsort_r(sorted, s->n, sizeof(*sorted), by_file, s);
    for (size_t i = 0; i < s->n; i++)
        sorted[i]->same =
            i && compare_files(s, &sorted[i - 1]->fi, &sorted[i]->fi) == 0 ? sorted[i - 1]->same : sorted[i];
    if (s->kcmp_errno)
        return err_set(err, s->kcmp_errno,
                       "which descriptors are the same open file cannot be told: kcmp(2): %s",
                       strerror(s->kcmp_errno));
    return 0;
}

/* ---- descriptions and objects ---- */

static const struct kind_ops *kind_of(const struct fd_info *fi, struct err *err)
{
    for (size_t i = 0; tracer_kinds[i]; i++)
        if (tracer_kinds[i]->probe && tracer_kinds[i]->probe(fi))
            return tracer_kinds[i];
    if (S_ISSOCK(fi->st.st_mode))
        socket_refuse(fi, err);
    else
        err_set(err, ENOTSUP, "this kind of file cannot be saved yet");
    return NULL;
}

static struct object *object_of(struct ckpt *c, const struct fd_info *fi, struct err *err)
{
    const struct kind_ops *ops = kind_of(fi, err);
    struct object probe = {
        .ops = ops, .dev = fi->st.st_dev, .ino = fi->st.st_ino, .proc = fi->proc, .fd = fi->fd};
    struct object *o = NULL;

    if (!ops)
        return NULL;
    if (!ops->per_description) {
        if (ops->identify && ops->identify(c, fi, &probe, err) < 0)
            return NULL;
        o = ckpt_find_object(c, ops, probe.dev, probe.ino, probe.key, probe.key_len);
    }
    if (o)
        return o;
    o = ckpt_add_object(c, ops, probe.dev, probe.ino, probe.key, probe.key_len);
    if (!o) {
        err_set(err, ENOMEM, "out of memory");
        return NULL;
    }
    o->proc = fi->proc;
    o->fd = fi->fd;
    return ops->collect && ops->collect(c, fi, o, err) < 0 ? NULL : o;
}

/* Who gets its SIGIO. All asked of a copy: nothing but the description itself can answer, and no /proc text
 * does. */
static int owner_of(const struct fd_info *fi, Ofd *m, struct err *err)
{
    struct f_owner_ex owner = {0};
    uint32_t uids[2] = {0};
    int sig;

    if (fi->flags & O_PATH)
        return 0;
    _cleanup_close_ int fd = ckpt_get_fd(fi->proc, fi->fd, err);
    if (fd < 0)
        return fd;
    if (fcntl(fd, F_GETOWN_EX, &owner) < 0 || (sig = fcntl(fd, F_GETSIG)) < 0)
        return err_errno(err, "asking for its owner");
    m->owner_sig = (uint32_t)sig;
    if (owner.pid == 0)
        return 0;
    m->owner_type = (uint32_t)owner.type;
    m->owner = owner.pid;
    if (fcntl(fd, F_GETOWNER_UIDS_, uids) == 0) { /* needs CONFIG_CHECKPOINT_RESTORE */
        m->owner_uid = uids[0];
        m->owner_euid = uids[1];
    }
    return 0;
}

int ckpt_add_ofd(struct ckpt *c, const struct fd_info *fi, struct ofd **out, struct err *err)
{
    struct object *o = object_of(c, fi, err);
    struct ofd *d = arena_alloc(c->arena, sizeof(*d));
    Ofd *m = arena_alloc(c->arena, sizeof(*m));

    if (!o)
        return -err->code;
    if (!d || !m)
        return err_set(err, ENOMEM, "out of memory");
    ofd__init(m);
    *d = (struct ofd){.msg = m, .object = o, .proc = fi->proc, .fd = fi->fd, .st = fi->st};
    m->id = ++c->next_id;
    m->kind = o->ops->kind;
    m->object = o->id;
    m->flags = fi->flags & ~(uint32_t)O_CLOEXEC;
    m->pos = fi->pos;
    if (owner_of(fi, m, err) < 0 || (o->ops->describe && o->ops->describe(c, fi, d, err) < 0))
        return -err->code;
    if (!c->ofds_tail)
        c->ofds_tail = &c->ofds;
    *c->ofds_tail = d;
    c->ofds_tail = &d->next;
    *out = d;
    return 0;
}

/*
 * What TIOCGPTPEER has opened with O_CLOEXEC keeps that among its status flags (ptm_open_peer() in drivers/tty/pty.c), so
 * fdinfo shows it of every descriptor of it, be that closed at exec or not. The process itself is asked.
 */
static bool closed_at_exec(const struct entry *e)
{
    struct proc *p = e->fi.proc;
    struct err ignored;
    int64_t ret;

    if (!(e->fi.flags & O_CLOEXEC) || e->same->ofd->object->ops->kind != KIND_TTY || !p->injected)
        return e->fi.flags & O_CLOEXEC;
    if (inj_syscall(&p->inj, &ret, &ignored, SYS_fcntl, (uint64_t[6]){(uint64_t)e->fi.fd, F_GETFD}) < 0 || inj_failed(ret))
        return true;
    return ret & FD_CLOEXEC;
}

static int add_to_table(struct ckpt *c, struct entry *e, struct err *err)
{
    struct proc *p = e->fi.proc;
    size_t n = p->fdtable->n_fds, same = n;
    Fd *f = arena_alloc(c->arena, sizeof(*f));

    if (!f)
        return err_set(err, ENOMEM, "out of memory");
    fd__init(f);
    f->fd = (uint32_t)e->fi.fd;
    f->cloexec = closed_at_exec(e);
    f->ofd = e->same->ofd->msg->id;
    arena_push(c->arena, (void ***)&p->fdtable->fds, &p->fdtable->n_fds, f);
    arena_push(c->arena, (void ***)&p->ofds, &same, e->same->ofd);
    return p->fdtable->n_fds == n + 1 && same == n + 1 ? 0 : err_set(err, ENOMEM, "out of memory");
}

static int build(struct survey *s, struct err *err)
{
    for (size_t i = 0; i < s->n; i++) {
        struct entry *e = s->all[i];
        if (e->same == e && ckpt_add_ofd(s->c, &e->fi, &e->ofd, err) < 0)
            return ckpt_fd_err(&e->fi, err);
        if (add_to_table(s->c, e, err) < 0)
            return -err->code;
        if (collect_locks(s->c, &e->fi, e->same->ofd, e->fi.proc->fdtable, err) < 0)
            return ckpt_fd_err(&e->fi, err);
    }
    return 0;
}

int collect_fds(struct ckpt *c, struct err *err)
{
    __attribute__((cleanup(survey_free))) struct survey s = {.c = c};

    for (size_t i = 0; i < c->nprocs; i++) {
        struct proc *p = c->procs[i];
        if (p->zombie)
            continue;
        p->fdtable = arena_alloc(c->arena, sizeof(*p->fdtable));
        if (!p->fdtable)
            return err_set(err, ENOMEM, "out of memory");
        fd_table__init(p->fdtable);
        if (!p->shares_files && read_table(&s, p, err) < 0)
            return -err->code;
    }
    mark_streams(&s);
    if (find_same(&s, err) < 0)
        return -err->code;
    return build(&s, err) < 0 ? -err->code : collect_in_flight(c, err);
}

struct ofd *ckpt_find_ofd(struct ckpt *c, struct proc *p, int fd)
{
    const FdTable *t;
    size_t low = 0, high;

    (void)c;
    p = p->files_proc ? p->files_proc : p;
    t = p->fdtable;
    high = t ? t->n_fds : 0;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (t->fds[mid]->fd == (uint32_t)fd)
            return p->ofds[mid];
        if (t->fds[mid]->fd < (uint32_t)fd)
            low = mid + 1;
        else
            high = mid;
    }
    return NULL;
}
