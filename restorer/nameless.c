/*
 * Files without a name. /proc/PID/fd and maps show the name that a file had, so it is made under that name,
 * if that is free, and unlinked at once; one that never had a name is made with O_TMPFILE in its directory,
 * as it was. Where neither is possible: the temporary directory, and if that is full or read-only, memory.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/log.h"
#include "base/util.h"
#include "restorer/fd.h"
#include "restorer/file.h"

#define TMPFILE_BIT 020000000u /* __O_TMPFILE of asm-generic/fcntl.h */

static int named_and_unlinked(const char *path)
{
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);

    if (fd >= 0)
        unlink(path);
    return fd;
}

static int tmpfile_beside(const char *path)
{
    _cleanup_free_ char *dir = strdup(path);
    char *slash = dir ? strrchr(dir, '/') : NULL;

    if (!slash)
        return -1;
    slash[slash == dir ? 1 : 0] = '\0';
    return open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
}

/* "#1234", as the kernel calls what O_TMPFILE makes (d_mark_tmpfile in fs/dcache.c). */
static bool never_had_name(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash && slash[1] == '#' && slash[2] && strspn(slash + 2, "0123456789") == strlen(slash + 2);
}

static int try_content(struct robject *o, int fd, struct err *err)
{
    const File *m = (const File *)o->msg;

    if (ftruncate(fd, (off_t)m->size) < 0)
        return err_errno(err, "a file of %llu bytes", (unsigned long long)m->size);
    return fill_file(o, fd, m->size, err);
}

static bool no_room(const struct err *err)
{
    return err->code == ENOSPC || err->code == EDQUOT || err->code == EFBIG;
}

static uint32_t making_flags(uint32_t flags)
{
    return flags & (O_ACCMODE | TMPFILE_BIT | (uint32_t)O_PATH);
}

/*
 * Only a handle is kept: while a description that can write is open, the file could not become a process's
 * executable. The one that made it stays if the program has the like, because no open(2) gives its flags.
 */
static int keep(struct restore *r, struct robject *o, int fd, uint32_t flags, struct err *err)
{
    const File *m = (const File *)o->msg;
    struct rfile *f = o->priv;
    bool wanted = false;

    for (struct rofd *d = r->ofds; d && (flags & TMPFILE_BIT); d = d->next)
        wanted |= d->object == o && making_flags(d->msg->flags) == making_flags(flags);
    if (fchmod(fd, 0600 | (m->mode & 0111)) < 0)
        log_trace("file mode: %s", strerror(errno));
    f->original_flags = flags;
    f->original = wanted ? fd : -1;
    o->fd = reopen(fd, O_PATH);
    if (!wanted)
        close(fd);
    return o->fd < 0 ? err_set(err, -o->fd, "a file without a name: %s", strerror(-o->fd)) : 0;
}

int nameless_file(struct restore *r, struct robject *o, struct err *err)
{
    const struct rfile *f = o->priv;
    const char *tmpdir = r->options.tmpdir ? r->options.tmpdir : "/tmp";
    _cleanup_free_ char *inside = format("%s/.", tmpdir);
    bool tmp = never_had_name(f->path);

    for (int way = 0; way < 4; way++) {
        _cleanup_close_ int fd = -1;

        if (way == 0)
            fd = tmp ? -1 : named_and_unlinked(f->path);
        else if (way == 1)
            fd = tmpfile_beside(f->path);
        else if (way == 2)
            fd = inside ? tmpfile_beside(inside) : -1;
        else
            fd = memfd_create("deleted file", MFD_CLOEXEC);
        if (fd < 0)
            continue;
        if (try_content(o, fd, err) == 0)
            return keep(r, o, take_fd(&fd), O_RDWR | (way == 1 || way == 2 ? TMPFILE_BIT | O_DIRECTORY : 0u),
                        err);
        if (!no_room(err))
            return -err->code;
    }
    return err->code ? -err->code : err_set(err, EACCES, "no place for its content");
}

bool nameless_first(struct rfile *f, const struct rofd *d, int *fd)
{
    if (f->original < 0 || making_flags(d->msg->flags) != making_flags(f->original_flags))
        return false;
    *fd = f->original;
    f->original = -1;
    return true;
}
