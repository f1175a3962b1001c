/*
 * Files that have a path: regular files, directories, harmless devices, whatever is open with O_PATH, and
 * what the kernel makes up below /proc and /sys. One record for each inode, whether descriptors, mappings or
 * both refer to it. A regular file that can't be found under its name at a restart is saved with its content.
 */
#include "tracer/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>

#include "base/util.h"
#include "image/file.pb-c.h"

struct file {
    struct content content;
    bool in_table; /* some descriptor refers to it */
    bool guessed;  /* it could not be looked at: its size is not known */
};

/* File systems whose files are views of the kernel's state: their sizes mean nothing and content is never
 * saved. */
static const struct {
    uint32_t magic;
    const char *name;
} made_up[] = {
    {PROC_SUPER_MAGIC, "proc"},     {SYSFS_MAGIC, "sysfs"},
    {CGROUP_SUPER_MAGIC, "cgroup"}, {CGROUP2_SUPER_MAGIC, "cgroup2"},
    {DEBUGFS_MAGIC, "debugfs"},     {TRACEFS_MAGIC, "tracefs"},
    {BPF_FS_MAGIC, "bpf"},          {SECURITYFS_MAGIC, "securityfs"},
    {PSTOREFS_MAGIC, "pstore"},
};

size_t deleted_suffix(const char *link)
{
    static const char suffix[] = " (deleted)";
    size_t n = strlen(link), k = sizeof(suffix) - 1;

    return n > k && !strcmp(link + n - k, suffix) ? n - k : 0;
}

static bool file_probe(const struct fd_info *fi)
{
    if (fi->link[0] != '/')
        return false;
    if (fi->flags & O_PATH)
        return true;
    switch (fi->st.st_mode & S_IFMT) {
    case S_IFREG:
    case S_IFDIR:
    case S_IFCHR:
    case S_IFBLK:
        return true;
    default:
        return false;
    }
}

/* Devices that have no state of their own: null, zero, full, random, urandom, kmsg. */
static bool stateless_device(dev_t rdev)
{
    unsigned n = minor(rdev);

    return major(rdev) == 1 && (n == 3 || n == 5 || (n >= 7 && n <= 9) || n == 11);
}

#define MQUEUE_MAGIC 0x19800202u /* ipc/mqueue.c */

/* *name: of a made-up file system, NULL for an ordinary one. */
static int look_at_fs(const char *via, const char **name, struct err *err)
{
    struct statfs sf;

    *name = NULL;
    if (!via || statfs(via, &sf) < 0)
        return 0;
    if ((uint32_t)sf.f_type == MQUEUE_MAGIC)
        return err_set(err, ENOTSUP, "a POSIX message queue cannot be saved yet");
    if ((uint32_t)sf.f_type == SECRETMEM_MAGIC)
        return err_set(err, ENOTSUP, "secret memory (memfd_secret(2)) cannot be read from outside");
    for (size_t i = 0; i < ARRAY_SIZE(made_up); i++)
        if ((uint32_t)sf.f_type == made_up[i].magic)
            *name = made_up[i].name;
    return 0;
}

/* A file of /proc/PID: what follows "/proc/PID/", and whose it is. NULL: no such path. */
static const char *below_proc_pid(const char *path, pid_t *pid)
{
    int n = 0;

    if (sscanf(path, "/proc/%d%n", pid, &n) != 1 || !n || *pid <= 0)
        return NULL;
    if (path[n] == '/')
        return path + n + 1;
    return path[n] ? NULL : path + n;
}

/* Files of threads exist only once the threads do, which is after a restart has opened all files. */
static bool of_other_thread(const char *rest, pid_t pid)
{
    int tid;

    return sscanf(rest, "task/%d", &tid) == 1 && tid != pid;
}

static int locate_proc(struct ckpt *c, File *m, const char *link, struct err *err)
{
    size_t gone = deleted_suffix(link);
    char *path = gone ? arena_dup(c->arena, link, gone + 1) : arena_printf(c->arena, "%s", link);
    const char *rest;
    pid_t pid;

    if (!path)
        return err_set(err, ENOMEM, "out of memory");
    if (gone)
        path[gone] = '\0';
    m->path = arena_text(c->arena, path);
    rest = below_proc_pid(path, &pid);
    if (!rest)
        return gone ? err_set(err, ENOTSUP, "a deleted file of /proc cannot be saved") : 0;
    if (!gone && !ckpt_find_proc(c, pid))
        return 0; /* of somebody outside, who may have ended at the restart */
    if (of_other_thread(rest, pid))
        return err_set(err, ENOTSUP, "a file of a thread below /proc cannot be saved yet");
    m->deleted = gone;
    m->proc_pid = pid;
    m->path = arena_text(c->arena, rest);
    return 0;
}

static bool same_mounts(const struct proc *p)
{
    struct stat ours, theirs;
    char path[48];

    snprintf(path, sizeof(path), "/proc/%d/ns/mnt", p->pid);
    return stat(path, &theirs) < 0 || stat("/proc/self/ns/mnt", &ours) < 0 ||
           (ours.st_ino == theirs.st_ino && ours.st_dev == theirs.st_dev);
}

#define SCAN_MAX 100000 /* entries of a directory */

/*
 * A file that was unlinked under this name and has others: they are often in the same directory. Elsewhere
 * they cannot be found, and the file is saved as if it had none.
 */
const char *file_other_name(struct ckpt *c, const struct stat *st, const char *link)
{
    size_t len = deleted_suffix(link);
    const char *slash = memrchr(link, '/', len), *path = NULL;
    size_t dirlen = slash > link ? (size_t)(slash - link) : 1;
    _cleanup_free_ char *parent = slash ? strndup(link, dirlen) : NULL;
    DIR *dir = parent ? opendir(parent) : NULL;
    const struct dirent *e;
    struct stat now;

    for (int n = 0; dir && !path && n < SCAN_MAX && (e = readdir(dir)); n++)
        if (e->d_ino == st->st_ino && fstatat(dirfd(dir), e->d_name, &now, AT_SYMLINK_NOFOLLOW) == 0 &&
            now.st_ino == st->st_ino && now.st_dev == st->st_dev)
            path = arena_printf(c->arena, "%s/%s", slash == link ? "" : parent, e->d_name);
    if (dir)
        closedir(dir);
    return path;
}

/* Is it what its path leads to? If not it is treated like one that has lost its name. */
static int locate(struct ckpt *c, struct proc *p, File *m, const struct stat *st, const char *link,
                  struct err *err)
{
    size_t gone = deleted_suffix(link);
    const char *other;
    struct stat now;

    m->path = arena_text(c->arena, link);
    if (!m->path.data)
        return err_set(err, ENOMEM, "out of memory");
    if (lstat(link, &now) == 0 && now.st_ino == st->st_ino && now.st_dev == st->st_dev)
        return 0;
    if (S_ISCHR(st->st_mode) && !gone)
        return 0; /* the restart goes by its device number */
    if (gone && st->st_nlink && S_ISREG(st->st_mode) && (other = file_other_name(c, st, link))) {
        m->path = arena_text(c->arena, other);
        return m->path.len ? 0 : err_set(err, ENOMEM, "out of memory");
    }
    if (!gone && !same_mounts(p))
        return err_set(err, ENOTSUP, "it is in another mount namespace, where this path cannot be followed");
    m->deleted = true;
    if (gone) {
        m->path.len = gone;
        m->path.data[gone] = '\0';
    }
    if (!S_ISREG(st->st_mode) && !S_ISDIR(st->st_mode))
        return err_set(err, ENOTSUP, "it has lost its name, and is neither a regular file nor a directory");
    return 0;
}

/*
 * The counters of a Java virtual machine, which only it and its observers look at: any other one that starts
 * removes those of processes that do not exist, so a killed program could never go on.
 */
static bool counters_of_java(const char *path)
{
    const char *name = strrchr(path, '/'), *dir = name ? memrchr(path, '/', (size_t)(name - path)) : NULL;

    return dir && strncmp(dir, "/hsperfdata_", 12) == 0 && name[1] &&
           strspn(name + 1, "0123456789") == strlen(name + 1);
}

/* POSIX shared memory and named semaphores: memory that has a name, not files. */
static bool is_memory(const char *path, const struct stat *st)
{
    struct statfs sf;

    return S_ISREG(st->st_mode) && !strncmp(path, "/dev/shm/", 9) && statfs("/dev/shm", &sf) == 0 &&
           (uint32_t)sf.f_type == TMPFS_MAGIC;
}

static int fill(struct ckpt *c, struct proc *p, File *m, const char *via, const struct stat *st,
                const char *link, struct err *err)
{
    const char *made;

    if (look_at_fs(via, &made, err) < 0)
        return -err->code;
    if (S_ISBLK(st->st_mode))
        return err_set(err, ENOTSUP, "a block device cannot be saved");
    if (S_ISCHR(st->st_mode) && !stateless_device(st->st_rdev))
        return err_set(err, ENOTSUP, "device %u:%u cannot be saved", major(st->st_rdev), minor(st->st_rdev));
    m->mode = st->st_mode;
    m->dev = st->st_dev;
    m->ino = st->st_ino;
    m->size = S_ISREG(st->st_mode) ? (uint64_t)st->st_size : 0;
    m->mtime_ns = st->st_mtim.tv_sec * 1000000000ll + st->st_mtim.tv_nsec;
    m->btime_ns = via ? birth_time(AT_FDCWD, via, 0) : 0;
    m->rdev = st->st_rdev;
    m->uid = st->st_uid;
    m->gid = st->st_gid;
    m->nlink = st->st_nlink;
    m->mapped_only = true;
    m->overwrite = c->options.allow_file_overwrite;
    m->memory = is_memory(link, st);
    m->disposable = S_ISREG(st->st_mode) && counters_of_java(link);
    if (made)
        m->fs_type = arena_text(c->arena, made);
    if (made && !strcmp(made, "proc"))
        return locate_proc(c, m, link, err);
    return locate(c, p, m, st, link, err);
}

/* O_PATH says nothing about what the file is good for, so devices and sockets are fine then. */
static int fill_path_only(struct ckpt *c, struct proc *p, File *m, const char *via, const struct stat *st,
                          const char *link, struct err *err)
{
    struct stat harmless = *st;

    if (S_ISCHR(st->st_mode) || S_ISBLK(st->st_mode))
        harmless.st_mode = (st->st_mode & ~(mode_t)S_IFMT) | S_IFSOCK;
    if (fill(c, p, m, via, &harmless, link, err) < 0)
        return -err->code;
    m->mode = st->st_mode;
    return 0;
}

static struct file *new_file(struct ckpt *c, struct object *o, struct err *err)
{
    struct file *f = arena_alloc(c->arena, sizeof(*f));
    File *m = arena_alloc(c->arena, sizeof(*m));

    if (!f || !m) {
        err_set(err, ENOMEM, "out of memory");
        return NULL;
    }
    file__init(m);
    m->id = o->id;
    o->msg = &m->base;
    o->priv = f;
    return f;
}

struct object *file_object(struct ckpt *c, struct proc *p, const char *via, const struct stat *st,
                           const char *link, struct err *err)
{
    struct object *o = ckpt_find_object(c, &file_ops, st->st_dev, st->st_ino, NULL, 0);
    struct file *f;

    if (o)
        return o;
    o = ckpt_add_object(c, &file_ops, st->st_dev, st->st_ino, NULL, 0);
    if (!o) {
        err_set(err, ENOMEM, "out of memory");
        return NULL;
    }
    o->proc = p;
    f = new_file(c, o, err);
    if (!f || fill(c, p, (File *)o->msg, via, st, link, err) < 0)
        return NULL;
    f->content.via = via;
    f->guessed = !via;
    return o;
}

int file_mapped(struct ckpt *c, struct object *o, struct proc *p, const char *via, const struct extent *e,
                bool write, struct err *err)
{
    struct file *f = o->priv;
    File *m = (File *)o->msg;

    m->mapped = true;
    m->written |= write;
    if (!f->content.via)
        f->content.via = via;
    if (m->memory && !m->deleted) { /* ordinary users may not open what /proc/PID/map_files shows */
        f->content.via = arena_printf(c->arena, "%.*s", (int)m->path.len, (const char *)m->path.data);
        if (!f->content.via)
            return err_set(err, ENOMEM, "out of memory");
    }
    return m->deleted || m->disposable || m->memory
               ? content_extent(c, &f->content, p, e->start, e->end, e->offset, err)
               : 0;
}

struct object *ckpt_file_object(struct ckpt *c, struct proc *p, const char *via, const struct stat *st,
                                const char *link, struct err *err)
{
    struct fd_info fi = {.proc = p, .fd = -1, .link = (char *)link};
    struct object *o;

    fi.st = *st;
    o = shm_ops.probe(&fi) ? shm_object(c, p, via, st, link, 0, err) : file_object(c, p, via, st, link, err);
    if (!o)
        ckpt_fd_err(&fi, err);
    return o;
}

static char *fd_path(struct ckpt *c, const struct fd_info *fi)
{
    return arena_printf(c->arena, "/proc/%d/task/%d/fd/%d", fi->proc->pid, ckpt_fd_task(fi->proc), fi->fd);
}

static int file_collect(struct ckpt *c, const struct fd_info *fi, struct object *o, struct err *err)
{
    char *via = fd_path(c, fi);

    if (!via)
        return err_set(err, ENOMEM, "out of memory");
    if (!new_file(c, o, err))
        return -err->code;
    if (fi->flags & O_PATH)
        return fill_path_only(c, fi->proc, (File *)o->msg, via, &fi->st, fi->link, err);
    return fill(c, fi->proc, (File *)o->msg, via, &fi->st, fi->link, err);
}

static int file_describe(struct ckpt *c, const struct fd_info *fi, struct ofd *d, struct err *err)
{
    struct file *f = d->object->priv;
    File *m = (File *)d->object->msg;
    size_t len = deleted_suffix(fi->link);

    if (!(fi->flags & O_PATH) && S_ISCHR(fi->st.st_mode) && !stateless_device(fi->st.st_rdev))
        return err_set(err, ENOTSUP, "device %u:%u cannot be saved", major(fi->st.st_rdev),
                       minor(fi->st.st_rdev));
    m->mapped_only = false;
    m->size = S_ISREG(m->mode) ? (uint64_t)fi->st.st_size : 0;
    f->guessed = false;
    if (!(fi->flags & O_PATH)) {
        f->in_table = true;
        m->written |= (fi->flags & O_ACCMODE) != O_RDONLY;
    }
    content_fd(&f->content, fi);
    len = len ? len : strlen(fi->link);
    if (!m->proc_pid && (len != m->path.len || memcmp(fi->link, m->path.data, len)))
        d->msg->path = arena_bytes(c->arena, fi->link, len);
    return 0;
}

static int file_match(struct ckpt *c, struct object *o, struct err *err)
{
    const struct file *f = o->priv;
    File *m = (File *)o->msg;

    (void)err;
    if (!S_ISREG(m->mode) || m->fs_type.len)
        return 0;
    m->content_saved =
        m->deleted || m->disposable || m->memory || (c->options.save_open_files && f->in_table);
    if (f->guessed && m->size < f->content.extent_end)
        m->size = f->content.extent_end;
    return 0;
}

static int file_write(struct ckpt *c, struct object *o, struct image_writer *w, struct err *err)
{
    const struct file *f = o->priv;
    const File *m = (const File *)o->msg;

    (void)c;
    if (!m->content_saved)
        return 0;
    if (content_write(&f->content, o->id, m->size, w, err) < 0)
        return err_wrap(err, "process %d: %.*s", o->proc->pid, (int)m->path.len, (const char *)m->path.data);
    return 0;
}

const struct kind_ops file_ops = {
    .kind = KIND_FILE,
    .probe = file_probe,
    .collect = file_collect,
    .describe = file_describe,
    .match = file_match,
    .write = file_write,
};
