/*
 * Three ways, from the cheap and sure to the dear: what the tree has open itself (programs often do), the
 * file handle (open_by_handle_at(2), which needs CAP_DAC_READ_SEARCH), and a search of the directories around
 * what the processes use, which does for ordinary users. A path counts only if what is there has the inode's
 * number and file system or handle.
 */
#include "tracer/watched.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "base/util.h"

#define SEARCH_MAX 300000u /* directory entries: less than a second */
#define NEAR_MAX   50000u  /* the same where it is looked first */
#define NEAR_DEPTH 4

bool watched_parse(const char *line, struct watched *w)
{
    unsigned long long ino;
    unsigned dev, bytes, type;
    const char *h = strstr(line, "f_handle:"), *end = strchr(line, '\n');

    *w = (struct watched){0};
    if (sscanf(line, "ino:%llx sdev:%x", &ino, &dev) != 2)
        return false;
    w->ino = ino;
    w->dev = makedev(dev >> 20, dev & 0xfffff); /* the kernel's own form: MKDEV of linux/kdev_t.h */
    line = strstr(line, "fhandle-bytes:");
    if (!h || !line || (end && h > end) ||
        sscanf(line, "fhandle-bytes:%x fhandle-type:%x", &bytes, &type) != 2 || bytes > WATCHED_HANDLE_MAX)
        return true;
    h += strlen("f_handle:");
    for (unsigned i = 0; i < bytes; i++)
        if (sscanf(h + 2 * i, "%2hhx", &w->handle[i]) != 1)
            return true;
    w->handle_len = bytes;
    w->handle_type = type;
    return true;
}

static bool same_handle(int dir, const char *path, const struct watched *w)
{
    union {
        struct file_handle h;
        char room[sizeof(struct file_handle) + MAX_HANDLE_SZ];
    } u = {.h.handle_bytes = MAX_HANDLE_SZ};
    int mount;

    return w->handle_len && name_to_handle_at(dir, path, &u.h, &mount, 0) == 0 &&
           u.h.handle_bytes == w->handle_len && u.h.handle_type == (int)w->handle_type &&
           !memcmp(u.h.f_handle, w->handle, w->handle_len);
}

/* Is it this? Some file systems (btrfs, overlayfs) show another device number than the one of their
 * superblock. */
static bool is_it(int dir, const char *path, const struct watched *w, struct stat *st)
{
    if (fstatat(dir, path, st, AT_SYMLINK_NOFOLLOW) < 0 || st->st_ino != w->ino)
        return false;
    return st->st_dev == w->dev || same_handle(dir, path, w);
}

static bool take_path(struct ckpt *c, const char *path, const struct watched *w, struct place *p)
{
    if (path[0] != '/' || !is_it(AT_FDCWD, path, w, &p->st))
        return false;
    p->fd = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    p->path = p->fd >= 0 ? arena_printf(c->arena, "%s", path) : NULL;
    return p->path != NULL;
}

/* ---- what the tree uses ---- */

/* A magic link of /proc: by its text if that is a name of the inode, else by the description behind it. */
static bool try_link(struct ckpt *c, struct proc *q, int fd, const char *link, const struct watched *w,
                     struct place *p)
{
    struct err ignored;

    if (stat(link, &p->st) < 0 || p->st.st_ino != w->ino || p->st.st_dev != w->dev)
        return false;
    _cleanup_free_ char *text = readlink_dup(link);
    if (text && take_path(c, text, w, p))
        return true;
    p->ofd = fd >= 0 ? ckpt_find_ofd(c, q, fd) : NULL;
    p->fd = p->ofd ? ckpt_get_fd(q, fd, &ignored) : -1;
    return p->fd >= 0;
}

static bool find_in_use(struct ckpt *c, const struct watched *w, struct place *p)
{
    char link[64];

    for (size_t i = 0; i < c->nprocs; i++) {
        struct proc *q = c->procs[i];

        for (size_t k = 0; q->fdtable && k < q->fdtable->n_fds; k++) {
            snprintf(link, sizeof(link), "/proc/%d/fd/%u", ckpt_fd_task(q), q->fdtable->fds[k]->fd);
            if (try_link(c, q, (int)q->fdtable->fds[k]->fd, link, w, p))
                return true;
        }
        snprintf(link, sizeof(link), "/proc/%d/cwd", q->pid);
        if (!q->zombie && try_link(c, q, -1, link, w, p))
            return true;
    }
    return false;
}

/* ---- by handle ---- */

static bool open_handle(int mount, const struct watched *w, struct ckpt *c, struct place *p)
{
    union {
        struct file_handle h;
        char room[sizeof(struct file_handle) + MAX_HANDLE_SZ];
    } u = {.h.handle_bytes = w->handle_len, .h.handle_type = (int)w->handle_type};
    char link[48];

    memcpy(u.h.f_handle, w->handle, w->handle_len);
    _cleanup_close_ int fd = open_by_handle_at(mount, &u.h, O_PATH | O_CLOEXEC);
    if (fd < 0)
        return false;
    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    _cleanup_free_ char *text = readlink_dup(link);
    return text && take_path(c, text, w, p);
}

/* Any mount of the file system will do to open the handle, but only one that shows the inode gives it a path.
 */
static bool find_by_handle(struct ckpt *c, const struct proc *proc, const struct watched *w, struct place *p)
{
    _cleanup_free_ char *text = NULL;
    struct err ignored;
    unsigned ma, mi;
    char *save = NULL, point[4096], path[4200];

    if (!w->handle_len || read_proc(&text, NULL, &ignored, "%d/mountinfo", proc->pid) < 0)
        return false;
    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        if (sscanf(line, "%*d %*d %u:%u %*s %4095s", &ma, &mi, point) != 3 || makedev(ma, mi) != w->dev)
            continue;
        snprintf(path, sizeof(path), "/proc/%d/root%s", proc->pid, point);
        _cleanup_close_ int mount = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
        if (mount >= 0 && open_handle(mount, w, c, p))
            return true;
    }
    return false;
}

/* ---- by searching ---- */

struct search {
    struct ckpt *c;
    const struct watched *w;
    struct place *p;
    unsigned left;
};

static bool search_dir(struct search *s, const char *path, unsigned depth);

static bool search_entry(struct search *s, const char *path, const struct dirent *e, unsigned depth)
{
    char child[4096];

    if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..") ||
        snprintf(child, sizeof(child), "%s/%s", strcmp(path, "/") ? path : "", e->d_name) >=
            (int)sizeof(child))
        return false;
    if (e->d_ino == s->w->ino && take_path(s->c, child, s->w, s->p))
        return true;
    return depth && (e->d_type == DT_DIR || e->d_type == DT_UNKNOWN) && search_dir(s, child, depth);
}

/* The entries first, then what is below them: what is near is found soon. */
static bool search_dir(struct search *s, const char *path, unsigned depth)
{
    bool found = false;
    struct stat st;
    DIR *d;

    if (lstat(path, &st) < 0 || !S_ISDIR(st.st_mode) || st.st_dev != s->w->dev)
        return false;
    if (st.st_ino == s->w->ino && take_path(s->c, path, s->w, s->p))
        return true;
    d = opendir(path);
    for (int below = 0; d && below < 2 && !found && (!below || depth > 1); below++) {
        rewinddir(d);
        for (struct dirent *e = readdir(d); e && s->left && !found; e = readdir(d)) {
            s->left--;
            found = search_entry(s, path, e, below ? depth - 1 : 0);
        }
    }
    if (d)
        closedir(d);
    return found;
}

/* From a directory upwards, each with all that is below it. */
static bool search_around(struct search *s, const char *start)
{
    char path[4096];

    snprintf(path, sizeof(path), "%s", start);
    while (path[0] == '/' && s->left) {
        char *slash = strrchr(path, '/');
        if (search_dir(s, path, ~0u))
            return true;
        if (!path[1])
            break;
        slash[slash == path] = '\0';
    }
    return false;
}

/*
 * What is watched and not the program's own is mostly near the top of its file system: what of the system
 * changes (the time zone, settings, fonts). From below, a search of everything would not come there soon.
 */
static bool search_tops(struct search *s)
{
    _cleanup_free_ char *text = NULL;
    char *save = NULL, point[4096];
    struct err ignored;
    unsigned ma, mi;

    if (read_proc(&text, NULL, &ignored, "%d/mountinfo", getpid()) < 0)
        return false;
    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
        if (sscanf(line, "%*d %*d %u:%u %*s %4095s", &ma, &mi, point) == 3 && makedev(ma, mi) == s->w->dev &&
            search_dir(s, point, NEAR_DEPTH))
            return true;
    return false;
}

static bool search_cwds(struct search *s, bool near)
{
    char link[64];

    for (size_t i = 0; i < s->c->nprocs; i++) {
        const struct proc *q = s->c->procs[i];

        snprintf(link, sizeof(link), "/proc/%d/cwd", q->pid);
        _cleanup_free_ char *cwd = q->zombie ? NULL : readlink_dup(link);
        if (cwd && (near ? search_dir(s, cwd, NEAR_DEPTH) : search_around(s, cwd)))
            return true;
    }
    return false;
}

static bool find_by_search(struct ckpt *c, const struct watched *w, struct place *p)
{
    struct search s = {c, w, p, NEAR_MAX};

    if (search_cwds(&s, true))
        return true;
    s.left = NEAR_MAX;
    if (search_tops(&s))
        return true;
    s.left = SEARCH_MAX;
    return search_cwds(&s, false) || search_around(&s, "/tmp") || search_around(&s, "/dev/shm");
}

int watched_find(struct ckpt *c, const struct proc *p, const struct watched *w, struct place *found,
                 struct err *err)
{
    *found = (struct place){.fd = -1};
    if (find_in_use(c, w, found) || find_by_handle(c, p, w, found) || find_by_search(c, w, found))
        return 0;
    return err_set(
        err, ENOENT,
        "it watches inode %llu of device %u:%u, whose name cannot be found (without CAP_DAC_READ_SEARCH the "
        "directories around the working directory are searched)",
        (unsigned long long)w->ino, major(w->dev), minor(w->dev));
}
