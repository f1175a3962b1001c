/*
 * What is to be done about each file, before anything is touched. The rules: type and device number must be
 * the same. What processes have mapped must be unchanged, because its clean pages are in no image. What the
 * tree wrote and has grown is cut back, so that output is not doubled; what is shorter, gone or another file
 * is refused, unless its content was saved.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/log.h"
#include "base/util.h"
#include "restorer/file.h"

static const char *type_name(uint32_t mode)
{
    switch (mode & S_IFMT) {
    case S_IFREG:
        return "a regular file";
    case S_IFDIR:
        return "a directory";
    case S_IFCHR:
        return "a character device";
    case S_IFBLK:
        return "a block device";
    case S_IFIFO:
        return "a FIFO";
    case S_IFSOCK:
        return "a socket";
    case S_IFLNK:
        return "a symbolic link";
    default:
        return "of an unknown type";
    }
}

/* The numbers of devices and inodes mean something only where they were read. */
static bool same_host(const struct robject *o)
{
    char name[256] = "";

    gethostname(name, sizeof(name) - 1);
    return o->home->head && o->home->head->host_name && !strcmp(o->home->head->host_name, name);
}

static bool same_time(const File *m, const struct stat *st)
{
    int64_t now = st->st_mtim.tv_sec * 1000000000ll + st->st_mtim.tv_nsec;
    bool whole = m->mtime_ns % 1000000000 == 0 || st->st_mtim.tv_nsec == 0; /* archives keep seconds only */

    return now == m->mtime_ns || (whole && now / 1000000000 == m->mtime_ns / 1000000000);
}

static bool another_file(const struct robject *o, const File *m, const struct stat *st)
{
    int64_t born;

    if (!same_host(o) || st->st_dev != m->dev)
        return false;
    if (st->st_ino != m->ino)
        return true;
    /* The number of a file that was removed is soon another one's. */
    born = m->btime_ns ? birth_time(o->fd, "", AT_EMPTY_PATH) : 0;
    return born && born != m->btime_ns;
}

/* Its content is in the image: use what is there if it is the same, else put the saved content where it
 * belongs. */
static int plan_saved(const struct robject *o, const File *m, const struct stat *st, struct rfile *f,
                      struct err *err)
{
    if (m->memory && !another_file(o, m, st)) { /* whatever its time: mappings change it and do not tell */
        f->plan = FILE_OVERWRITE;
        return 0;
    }
    if ((uint64_t)st->st_size == m->size && same_time(m, st)) {
        f->plan = FILE_AS_IT_IS;
        return 0;
    }
    if (m->overwrite || (m->written && same_host(o) && !another_file(o, m, st))) {
        f->plan = FILE_OVERWRITE;
        return 0;
    }
    if (!m->written) { /* whoever changed it wants to keep that; the program only reads */
        f->plan = FILE_NAMELESS;
        log_note("%s has changed since the checkpoint: the program goes on reading what it was", f->path);
        return 0;
    }
    return err_set(
        err, EEXIST,
        "%s is not the file that was saved (dmtcp_launch --allow-file-overwrite permits to replace it)",
        f->path);
}

/* Said here and not when it happens: the driver has no terminal. */
static void plan_cut(const File *m, uint64_t size, struct rfile *f)
{
    f->plan = FILE_CUT_BACK;
    log_note("%s has grown from %" PRIu64 " to %" PRIu64 " bytes since the checkpoint: it is cut back",
             f->path, m->size, size);
}

#define HINT " (--skip-file-checks: go on nevertheless)"

static int plan_unsaved(struct restore *r, const struct robject *o, const File *m, const struct stat *st,
                        struct rfile *f, struct err *err)
{
    uint64_t size = (uint64_t)st->st_size;

    f->plan = FILE_AS_IT_IS;
    if (m->fs_type.len)
        return 0; /* the kernel makes up its content and length */
    if (r->options.skip_file_checks) {
        if (m->written && size > m->size && !another_file(o, m, st))
            plan_cut(m, size, f);
        return 0;
    }
    if (m->written && another_file(o, m, st))
        return err_set(err, ESTALE, "%s is another file than at the checkpoint" HINT, f->path);
    if (size < m->size)
        return err_set(err, ESTALE,
                       "%s is shorter than at the checkpoint (%" PRIu64 " bytes, was %" PRIu64 ")" HINT,
                       f->path, size, m->size);
    if (m->mapped && !m->written && (size != m->size || !same_time(m, st)))
        return err_set(err, ESTALE, "%s has changed since the checkpoint, and is mapped" HINT, f->path);
    if (m->written && size > m->size)
        plan_cut(m, size, f);
    return 0;
}

/* A disposable file whose place is gone or taken: nobody but the program needs to see it. */
static bool place_is_gone(const char *path)
{
    _cleanup_free_ char *dir = strdup(path);
    char *slash = dir ? strrchr(dir, '/') : NULL;

    if (slash)
        slash[slash == dir ? 1 : 0] = '\0';
    return !slash || access(dir, W_OK | X_OK) < 0;
}

const char *file_below_proc_pid(const File *m, const char *path)
{
    int pid, n = 0;

    if (m->fs_type.len != 4 || memcmp(m->fs_type.data, "proc", 4) ||
        sscanf(path, "/proc/%d%n", &pid, &n) != 1)
        return NULL;
    return path[n] == '/' ? path + n + 1 : path[n] ? NULL : path + n;
}

static int plan_missing(const File *m, struct rfile *f, struct err *err)
{
    if (errno == ENOENT && file_below_proc_pid(m, f->path)) {
        f->plan = FILE_OF_NOBODY;
        return 0;
    }
    if (m->disposable && m->content_saved && (errno != ENOENT || place_is_gone(f->path))) {
        f->plan = FILE_NAMELESS;
        return 0;
    }
    if (errno != ENOENT && errno != ENOTDIR)
        return err_errno(err, "%s", f->path);
    if (!m->content_saved)
        return err_set(err, ENOENT, "%s is gone since the checkpoint", f->path);
    f->plan = FILE_RECREATE;
    return 0;
}

static int plan_named(struct restore *r, struct robject *o, const File *m, struct rfile *f, struct err *err)
{
    struct stat st;

    o->fd = open(f->path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (o->fd < 0)
        return plan_missing(m, f, err);
    if (fstat(o->fd, &st) < 0)
        return err_errno(err, "%s", f->path);
    if (m->disposable && m->content_saved &&
        (!S_ISREG(st.st_mode) || !same_host(o) || another_file(o, m, &st))) {
        close(o->fd);
        o->fd = -1;
        f->plan = FILE_NAMELESS;
        return 0;
    }
    if ((st.st_mode & S_IFMT) != (m->mode & S_IFMT))
        return err_set(err, ESTALE, "%s is %s, and was %s at the checkpoint", f->path, type_name(st.st_mode),
                       type_name(m->mode));
    if ((S_ISCHR(st.st_mode) || S_ISBLK(st.st_mode)) && st.st_rdev != m->rdev)
        return err_set(err, ESTALE, "%s is device %u:%u, and was %u:%u at the checkpoint", f->path,
                       major(st.st_rdev), minor(st.st_rdev), major(m->rdev), minor(m->rdev));
    if (!S_ISREG(st.st_mode))
        return 0;
    return m->content_saved ? plan_saved(o, m, &st, f, err) : plan_unsaved(r, o, m, &st, f, err);
}

static int check_record(const File *m, struct err *err)
{
    bool absolute = m->path.len && m->path.data[0] == '/';

    if (memchr(m->path.data ? m->path.data : (const uint8_t *)"", '\0', m->path.len) ||
        m->path.len >= PATH_MAX)
        return err_set(err, EINVAL, "a path that cannot be one");
    if (m->proc_pid ? absolute : !absolute)
        return err_set(err, EINVAL, "%.*s: a path that should be %s", (int)m->path.len,
                       (const char *)m->path.data, m->proc_pid ? "relative" : "absolute");
    if (m->proc_pid && (m->path.len >= 2 && memmem(m->path.data, m->path.len, "..", 2)))
        return err_set(err, EINVAL, "%.*s: a path that leaves /proc/PID", (int)m->path.len,
                       (const char *)m->path.data);
    if (m->size > INT64_MAX || m->proc_pid < 0)
        return err_set(err, EINVAL, "%.*s: absurd numbers", (int)m->path.len, (const char *)m->path.data);
    return 0;
}

int file_prepare(struct restore *r, struct robject *o, struct err *err)
{
    const File *m = (const File *)o->msg;
    struct rfile *f = restore_alloc(r, sizeof(*f));

    if (!f)
        return err_set(err, ENOMEM, "out of memory");
    f->map_read = f->map_write = f->original = -1;
    o->priv = f;
    if (check_record(m, err) < 0)
        return -err->code;
    f->path = restore_text(r, &m->path);
    if (!f->path)
        return err_set(err, ENOMEM, "out of memory");
    if (m->proc_pid) {
        f->plan = FILE_OF_PROCESS;
        return m->deleted || restore_proc(r, m->proc_pid)
                   ? 0
                   : err_set(err, EINVAL, "/proc/%d: in no image", m->proc_pid);
    }
    if (!m->deleted)
        return plan_named(r, o, m, f, err);
    if (!S_ISDIR(m->mode) && !(S_ISREG(m->mode) && m->content_saved))
        return err_set(err, EINVAL, "%s: without name and content", f->path);
    f->plan = FILE_NAMELESS;
    return 0;
}
