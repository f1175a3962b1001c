/*
 * See file.h. A file without a name (O_TMPFILE) is best, because even SIGKILL leaves nothing of it;
 * linkat(2) gives it its name through /proc/self/fd, which unlike AT_EMPTY_PATH needs no
 * capability. linkat() does not replace, so where the name is taken the file gets a temporary name
 * first and is renamed over it.
 */
#include "image/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "base/util.h"

#define TRIES 16

struct image_file {
    int dirfd;
    int fd;
    bool synced;
    bool named; /* tmp exists in the directory */
    char *name;
    char *tmp;
};

/* A fresh temporary name in f->tmp. */
static int new_tmp(struct image_file *f, struct err *err)
{
    uint32_t random;

    if (getrandom(&random, sizeof(random), 0) != sizeof(random))
        return err_errno(err, "getrandom");
    free(f->tmp);
    f->tmp = format("%s.tmp.%08x", f->name, random);
    return f->tmp ? 0 : err_set(err, ENOMEM, "out of memory");
}

static int open_named(struct image_file *f, struct err *err)
{
    for (int i = 0; i < TRIES; i++) {
        if (new_tmp(f, err) < 0)
            return -err->code;
        f->fd = openat(f->dirfd, f->tmp, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (f->fd >= 0) {
            f->named = true;
            return 0;
        }
        if (errno != EEXIST)
            break;
    }
    return err_errno(err, "cannot create %s", f->name);
}

int image_file_create(struct image_file **out, int dirfd, const char *name, struct err *err)
{
    struct image_file *f;

    *out = NULL;
    if (!*name || strchr(name, '/'))
        return err_set(err, EINVAL, "'%s' is not a file name", name);
    f = calloc(1, sizeof(*f));
    if (!f)
        return err_set(err, ENOMEM, "out of memory");
    f->fd = -1;
    f->dirfd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    f->name = strdup(name);
    if (f->dirfd < 0 || !f->name) {
        err_errno(err, "cannot open the directory of %s", name);
        image_file_free(f);
        return -err->code;
    }
    f->fd = openat(f->dirfd, ".", O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
    /* EISDIR is how a kernel without O_TMPFILE answers, EOPNOTSUPP a file system without it. */
    if (f->fd < 0 && errno != EOPNOTSUPP && errno != EISDIR && errno != ENOENT && errno != EINVAL)
        err_errno(err, "cannot create %s", name);
    else if (f->fd >= 0 || open_named(f, err) == 0)
        *out = f;
    if (!*out)
        image_file_free(f);
    return *out ? 0 : -err->code;
}

int image_file_fd(const struct image_file *f)
{
    return f->fd;
}

int image_file_sync(struct image_file *f, struct err *err)
{
    if (sync_fd(f->fd) < 0)
        return err_errno(err, "%s: cannot sync", f->name);
    f->synced = true;
    return 0;
}

/* Name a file that has none: as `name` if that is free. *done tells whether it was. */
static int link_file(struct image_file *f, bool *done, struct err *err)
{
    char path[32];

    snprintf(path, sizeof(path), "/proc/self/fd/%d", f->fd);
    *done = linkat(AT_FDCWD, path, f->dirfd, f->name, AT_SYMLINK_FOLLOW) == 0;
    for (int i = 0; !*done && errno == EEXIST && i < TRIES; i++) {
        if (new_tmp(f, err) < 0)
            return -err->code;
        if (linkat(AT_FDCWD, path, f->dirfd, f->tmp, AT_SYMLINK_FOLLOW) == 0) {
            f->named = true;
            return 0;
        }
    }
    return *done ? 0 : err_errno(err, "cannot name %s", f->name);
}

int image_file_publish(struct image_file *f, int durable, struct err *err)
{
    bool done = false;

    if (durable && !f->synced && image_file_sync(f, err) < 0)
        return -err->code;
    if (!f->named && link_file(f, &done, err) < 0)
        return -err->code;
    if (!done && renameat(f->dirfd, f->tmp, f->dirfd, f->name) < 0)
        return err_errno(err, "cannot name %s", f->name);
    f->named = false;
    return 0;
}

void image_file_free(struct image_file *f)
{
    if (!f)
        return;
    if (f->named)
        unlinkat(f->dirfd, f->tmp, 0);
    if (f->fd >= 0)
        close(f->fd);
    if (f->dirfd >= 0)
        close(f->dirfd);
    free(f->tmp);
    free(f->name);
    free(f);
}

int image_dir_sync(int dirfd, struct err *err)
{
    _cleanup_close_ int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0 || sync_fd(fd) < 0)
        return err_errno(err, "cannot sync the directory");
    return 0;
}
