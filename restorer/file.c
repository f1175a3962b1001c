/*
 * Files that have a path. A path in an image is a request: it is followed with the rights of who restarts, to
 * a handle (O_PATH, no symlink at its end) whose inode is compared with what the image says, and every
 * description is then opened through that handle, so all get the inode that was checked. What filecheck.c
 * decides is carried out here.
 */
#include "restorer/file.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/log.h"
#include "base/util.h"
#include "restorer/fd.h"

static const File *file_of(const struct robject *o)
{
    return (const File *)o->msg;
}

/* ---- making the inode what it was ---- */

/* Owner and mode as far as we may; a file of an ordinary user is the restarting user's own. fd may be a
 * handle. */
static void set_attributes(const File *m, int fd)
{
    char path[40];

    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    if (geteuid() == 0 && chown(path, m->uid, m->gid) < 0)
        log_trace("file owner: %s", strerror(errno));
    if (chmod(path, m->mode & 07777) < 0)
        log_trace("file mode: %s", strerror(errno));
}

static void set_mtime(const File *m, int fd)
{
    struct timespec t[2] = {{.tv_nsec = UTIME_OMIT}, {m->mtime_ns / 1000000000, m->mtime_ns % 1000000000}};
    char path[40];

    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    if (utimensat(AT_FDCWD, path, t, 0) < 0)
        log_trace("file time: %s", strerror(errno));
}

static int write_content(const struct robject *o, int fd, struct err *err)
{
    const File *m = file_of(o);

    if (ftruncate(fd, 0) < 0 || ftruncate(fd, (off_t)m->size) < 0)
        return err_errno(err, "setting its length to %llu", (unsigned long long)m->size);
    return fill_file(o, fd, m->size, err);
}

/* It was missing: made anew under its name, which must still be free. */
static int recreate(struct robject *o, const char *path, struct err *err)
{
    const File *m = file_of(o);
    _cleanup_close_ int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    int r;

    if (fd < 0)
        return err_errno(err, "making it anew");
    r = write_content(o, fd, err);
    if (r < 0) {
        unlink(path);
        return r;
    }
    set_attributes(m, fd);
    set_mtime(m, fd);
    o->fd = reopen(fd, O_PATH);
    return o->fd < 0 ? err_set(err, -o->fd, "making it anew: %s", strerror(-o->fd)) : 0;
}

static int overwrite(struct robject *o, struct err *err)
{
    _cleanup_close_ int fd = reopen(o->fd, O_RDWR);

    if (fd < 0)
        return err_set(err, -fd, "writing its saved content: %s", strerror(-fd));
    if (write_content(o, fd, err) < 0)
        return -err->code;
    set_mtime(file_of(o), fd);
    return 0;
}

static int cut_back(struct robject *o, const char *path, struct err *err)
{
    const File *m = file_of(o);
    _cleanup_close_ int fd = reopen(o->fd, O_WRONLY);

    if (fd < 0 || ftruncate(fd, (off_t)m->size) < 0) {
        errno = fd < 0 ? -fd : errno;
        return err_errno(err, "cutting it back to %llu bytes", (unsigned long long)m->size);
    }
    return 0;
}

/* A directory without a name: removed again as soon as it is open. Nothing can be made in it, as before. */
static int nameless_directory(struct restore *r, struct robject *o, const char *path, struct err *err)
{
    _cleanup_free_ char *other = format("%s/dmtcp-XXXXXX", r->options.tmpdir ? r->options.tmpdir : "/tmp");
    const char *made = mkdir(path, 0700) == 0 ? path : other ? mkdtemp(other) : NULL;

    if (!made)
        return err_errno(err, "making a directory in its place");
    o->fd = open(made, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    rmdir(made);
    if (o->fd < 0)
        return err_errno(err, "making a directory in its place");
    set_attributes(file_of(o), o->fd);
    return 0;
}

static int make(struct restore *r, struct robject *o, struct err *err)
{
    struct rfile *f = o->priv;
    const File *m = file_of(o);
    int e = 0;

    if (f->made)
        return 0;
    f->made = true;
    switch (f->plan) {
    case FILE_AS_IT_IS:
    case FILE_OF_PROCESS:
    case FILE_OF_NOBODY:
        break;
    case FILE_CUT_BACK:
        e = cut_back(o, f->path, err);
        break;
    case FILE_RECREATE:
        e = recreate(o, f->path, err);
        break;
    case FILE_OVERWRITE:
        e = overwrite(o, err);
        break;
    case FILE_NAMELESS:
    default:
        e = S_ISDIR(m->mode) ? nameless_directory(r, o, f->path, err) : nameless_file(r, o, err);
        break;
    }
    return e < 0 ? err_wrap(err, "%s", f->path) : 0;
}

static int file_rebuild(struct restore *r, struct robject *o, struct err *err)
{
    return make(r, o, err);
}

/* ---- mappings ---- */

static int file_map(struct restore *r, struct robject *o, bool write, int *fd, struct err *err)
{
    struct rfile *f = o->priv;
    int *have = write ? &f->map_write : &f->map_read;

    if (make(r, o, err) < 0)
        return -err->code;
    if (o->fd < 0)
        return err_set(err, ENODEV, "%s: a file that cannot be mapped", f->path);
    if (*have < 0)
        *have = reopen(o->fd, write ? O_RDWR : O_RDONLY);
    if (*have < 0) {
        int e = -*have;
        *have = -1;
        return err_set(err, e, "%s: opening it to be mapped: %s", f->path, strerror(e));
    }
    *fd = *have;
    return 0;
}

/* ---- descriptions ---- */

/* A file of /proc/PID, PID being a process of the tree. */
static int open_of_process(struct restore *r, const File *m, uint32_t flags, int *fd, struct err *err)
{
    const struct rproc *p = restore_proc(r, m->proc_pid);
    _cleanup_free_ char *path = NULL;

    if (!p)
        return err_set(err, EINVAL, "/proc/%d: a process that is in no image", m->proc_pid);
    path = format("/proc/%d/%.*s", p->host_pid, (int)m->path.len, (const char *)m->path.data);
    if (!path)
        return err_set(err, ENOMEM, "out of memory");
    *fd = open(path, (int)(flags | O_CLOEXEC | O_NOCTTY));
    return *fd < 0 ? err_errno(err, "%s", path) : 0;
}

/*
 * The same of a process that has ended: a child that ends is as good. It only waits to be killed. rest: the
 * path below /proc/PID.
 */
static int open_of_dead_process(const char *rest, uint32_t flags, int *fd, struct err *err)
{
    _cleanup_free_ char *path = NULL;
    pid_t pid = fork();
    int tid, n = 0;

    if (pid < 0)
        return err_errno(err, "fork");
    if (pid == 0)
        for (;;)
            pause();
    if (sscanf(rest, "task/%d%n", &tid, &n) == 1)
        path = format("/proc/%d/task/%d%s", pid, pid, rest + n);
    else
        path = format("/proc/%d/%s", pid, rest);
    *fd = path ? open(path, (int)(flags | O_CLOEXEC | O_NOCTTY)) : -1;
    if (*fd < 0)
        err_errno(err, "/proc/PID/%s of a process that has ended", rest);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    return *fd < 0 ? -err->code : 0;
}

static bool same_inode(int a, int b)
{
    struct stat x, y;

    return fstat(a, &x) == 0 && fstat(b, &y) == 0 && x.st_ino == y.st_ino && x.st_dev == y.st_dev;
}

/* O_NOFOLLOW and O_PATH cannot go through /proc/self/fd: the path itself is opened, if it leads to the same
 * inode. */
static int open_by_name(const struct robject *o, const char *path, uint32_t flags)
{
    int fd = open(path, (int)(flags | O_CLOEXEC | O_NOCTTY | O_NOFOLLOW));

    if (fd >= 0 && !same_inode(fd, o->fd)) {
        close(fd);
        return -ESTALE;
    }
    return fd < 0 ? -errno : fd;
}

/* Another name of the same inode, so that /proc/PID/fd shows it. */
static int open_by_other_name(const struct robject *o, const Ofd *m, uint32_t flags)
{
    _cleanup_free_ char *path = strndup((const char *)m->path.data, m->path.len);
    _cleanup_close_ int handle = path ? open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC) : -1;

    if (handle < 0 || !same_inode(handle, o->fd))
        return -ESTALE;
    if (flags & (uint32_t)(O_PATH | O_NOFOLLOW))
        return open_by_name(o, path, flags);
    return reopen(handle, flags);
}

static int file_open(struct restore *r, struct robject *o, struct rofd *d, int *fd, struct err *err)
{
    struct rfile *f = o->priv;
    const File *m = file_of(o);
    uint32_t flags = open_flags(d->msg);

    if (f->plan == FILE_OF_PROCESS)
        return m->deleted ? open_of_dead_process(f->path, flags, fd, err)
                          : open_of_process(r, m, flags, fd, err);
    if (f->plan == FILE_OF_NOBODY)
        return open_of_dead_process(file_below_proc_pid(m, f->path), flags, fd, err);
    *fd = -ESTALE;
    if (f->plan == FILE_NAMELESS && nameless_first(f, d, fd))
        return 0;
    if (d->msg->path.len && f->plan != FILE_NAMELESS)
        *fd = open_by_other_name(o, d->msg, flags);
    if (*fd == -ESTALE && f->plan != FILE_NAMELESS && (flags & (uint32_t)(O_PATH | O_NOFOLLOW)))
        *fd = open_by_name(o, f->path, flags);
    if (*fd == -ESTALE)
        *fd = reopen(o->fd, flags);
    if (*fd == -ENOENT && file_below_proc_pid(m, f->path)) /* not in our new pid namespace */
        return open_of_dead_process(file_below_proc_pid(m, f->path), flags, fd, err);
    if (*fd < 0)
        return err_set(err, -*fd, "%s: %s", f->path, strerror(-*fd));
    return 0;
}

/* The mode of a nameless file could have kept us from opening it. */
static int file_refill(struct restore *r, struct robject *o, struct err *err)
{
    const struct rfile *f = o->priv;

    (void)r;
    (void)err;
    if (f->plan == FILE_NAMELESS && S_ISREG(file_of(o)->mode)) {
        set_attributes(file_of(o), o->fd);
        set_mtime(file_of(o), o->fd);
    }
    return 0;
}

const struct rebuild_ops file_ops = {
    .kind = KIND_FILE,
    .descriptor = &file__descriptor,
    .prepare = file_prepare,
    .map = file_map,
    .rebuild = file_rebuild,
    .open = file_open,
    .refill = file_refill,
};
