/*
 * Memory that is shared between mappings: anonymous, memfd, huge pages of both. The kernel keeps all of it in
 * files without a name, so an object is known by its inode, whether a descriptor or a mapping leads to it.
 * Also here: telling which of all objects a mapping shows, since most of those without a descriptor are of
 * this kind.
 */
#include "tracer/shm.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <linux/memfd.h>
#include <stdio.h>
#include <string.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>

#include "base/util.h"
#include "image/shm.pb-c.h"
#include "image/vma.h"
#include "tracer/aio.h"
#include "tracer/file.h"
#include "tracer/iouring.h"
#include "tracer/sysv.h"

#define SHM_ANON       1u /* Shm.type */
#define SHM_MEMFD      2u
#define SHM_HUGE_ANON  3u
#define SHM_HUGE_MEMFD 4u

#define STAND_IN "/memfd:/dev/zero (deleted)"

struct shm {
    struct content content;
    bool guessed; /* the size is not known but from mappings */
};

/*
 * The name of a memfd, which may hold anything: "/memfd:NAME (deleted)". One of this name is anonymous memory
 * that a restart had to make so (restorer/shm.c), unless a descriptor leads to it.
 */
static bool is_memfd(const char *link)
{
    return !strncmp(link, "/memfd:", 7) && deleted_suffix(link) && strcmp(link, STAND_IN);
}

static bool shm_probe(const struct fd_info *fi)
{
    if (!S_ISREG(fi->st.st_mode))
        return false;
    return is_memfd(fi->link) || !strcmp(fi->link, STAND_IN) || !strcmp(fi->link, "/dev/zero (deleted)") ||
           !strcmp(fi->link, "/anon_hugepage (deleted)");
}

/* huge: the size of its pages when that is known and not the usual one, else 0. */
static int fill(struct ckpt *c, struct object *o, const char *via, const struct stat *st, const char *link,
                uint64_t huge, struct err *err)
{
    Shm *m = arena_alloc(c->arena, sizeof(*m));
    struct shm *k = arena_alloc(c->arena, sizeof(*k));
    bool memfd = is_memfd(link);
    struct statfs sf;

    if (!m || !k)
        return err_set(err, ENOMEM, "out of memory");
    shm__init(m);
    o->msg = &m->base;
    o->priv = k;
    m->id = o->id;
    m->type = memfd ? SHM_MEMFD : SHM_ANON;
    if (memfd)
        m->name = arena_bytes(c->arena, link + 7, deleted_suffix(link) - 7);
    m->size = (uint64_t)st->st_size;
    m->mode = st->st_mode & 07777;
    m->dev = st->st_dev;
    m->ino = st->st_ino;
    if (via && statfs(via, &sf) == 0)
        huge = (uint32_t)sf.f_type == HUGETLBFS_MAGIC ? (uint64_t)sf.f_bsize : 0;
    if (huge) {
        m->type = memfd ? SHM_HUGE_MEMFD : SHM_HUGE_ANON;
        m->huge_size = huge;
        k->content.huge = true;
    }
    k->guessed = !via;
    k->content.via = via;
    return 0;
}

static int shm_collect(struct ckpt *c, const struct fd_info *fi, struct object *o, struct err *err)
{
    char *via =
        arena_printf(c->arena, "/proc/%d/task/%d/fd/%d", fi->proc->pid, ckpt_fd_task(fi->proc), fi->fd);

    if (!via)
        return err_set(err, ENOMEM, "out of memory");
    return fill(c, o, via, &fi->st, fi->link, 0, err);
}

static int shm_describe(struct ckpt *c, const struct fd_info *fi, struct ofd *d, struct err *err)
{
    struct shm *k = d->object->priv;
    Shm *m = (Shm *)d->object->msg;
    int seals;

    m->size = (uint64_t)fi->st.st_size;
    m->mode = fi->st.st_mode & 07777;
    k->guessed = false;
    content_fd(&k->content, fi);
    if (!strcmp(fi->link, STAND_IN)) {
        m->type = m->huge_size ? SHM_HUGE_MEMFD : SHM_MEMFD;
        m->name = arena_text(c->arena, "/dev/zero");
    }
    if (fi->flags & O_PATH)
        return 0;
    _cleanup_close_ int fd = ckpt_get_fd(fi->proc, fi->fd, err);
    if (fd < 0)
        return fd;
    seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0)
        return 0; /* not a memfd: memory that was opened through /proc/PID/map_files */
    m->seals = (uint32_t)seals;
    m->memfd_flags = seals & F_SEAL_SEAL ? 0 : MFD_ALLOW_SEALING;
    return 0;
}

static int shm_match(struct ckpt *c, struct object *o, struct err *err)
{
    const struct shm *k = o->priv;
    Shm *m = (Shm *)o->msg;

    (void)c;
    (void)err;
    if (k->guessed && m->size < k->content.extent_end)
        m->size = k->content.extent_end;
    return 0;
}

static int shm_write(struct ckpt *c, struct object *o, struct image_writer *w, struct err *err)
{
    const struct shm *k = o->priv;
    const Shm *m = (const Shm *)o->msg;

    (void)c;
    if (content_write(&k->content, o->id, m->size, w, err) < 0)
        return err_wrap(err, "process %d: shared memory", o->proc->pid);
    return 0;
}

const struct kind_ops shm_ops = {
    .kind = KIND_SHM,
    .probe = shm_probe,
    .collect = shm_collect,
    .describe = shm_describe,
    .match = shm_match,
    .write = shm_write,
};

/* ---- mappings ---- */

/*
 * What a mapping shows is looked up once: under the device and inode numbers that /proc/PID/maps tells, which
 * need not be those of stat(2), and its name. The alias has no record of its own.
 */
static const struct kind_ops alias_ops = {.kind = 0};

/*
 * The stat of what is mapped. Not everybody may follow map_files; then the name leads to it, or another one
 * (a semaphore of sem_open(3) was mapped under a name that is gone), or, if it has none, what maps tells
 * must do. *via becomes a path that can be opened, or NULL.
 */
static void look(struct ckpt *c, const struct map *m, const char **via, struct stat *st)
{
    struct stat now;

    if (stat(*via, st) == 0)
        return;
    *via = m->name;
    if (lstat(m->name, st) == 0 && st->st_ino == m->ino && !S_ISLNK(st->st_mode))
        return;
    *st = (struct stat){.st_dev = makedev(m->major, m->minor), .st_ino = m->ino, .st_mode = S_IFREG | 0600};
    *via = deleted_suffix(m->name) ? file_other_name(c, st, m->name) : NULL;
    if (*via && lstat(*via, &now) == 0 && now.st_ino == m->ino)
        *st = now;
}

static int refuse(const struct map *m, struct err *err)
{
    if (m->name[0] != '/')
        return err_set(err, ENOTSUP, "memory of this kind cannot be saved yet");
    return 0;
}

struct object *shm_object(struct ckpt *c, struct proc *p, const char *via, const struct stat *st,
                          const char *name, uint64_t huge, struct err *err)
{
    struct object *o = ckpt_find_object(c, &shm_ops, st->st_dev, st->st_ino, NULL, 0);

    if (o)
        return o;
    o = ckpt_add_object(c, &shm_ops, st->st_dev, st->st_ino, NULL, 0);
    if (!o) {
        err_set(err, ENOMEM, "out of memory");
        return NULL;
    }
    o->proc = p;
    return fill(c, o, via, st, name, huge, err) < 0 ? NULL : o;
}

static struct object *find_or_make(struct ckpt *c, struct proc *p, const char *via, const struct map *m,
                                   struct err *err)
{
    uint64_t dev = makedev(m->major, m->minor);
    size_t len = strlen(m->name);
    struct object *alias = ckpt_find_object(c, &alias_ops, dev, m->ino, m->name, len), *o;
    struct fd_info fi = {.link = m->name};
    struct stat st;
    char *name;

    if (alias)
        return alias->priv;
    if (refuse(m, err) < 0)
        return NULL;
    look(c, m, &via, &st);
    name = arena_printf(c->arena, "%s", m->name);
    via = via == m->name ? name : via;
    fi.st = st;
    if (shm_probe(&fi))
        o = shm_object(c, p, via, &st, m->name, map_flag(m, "ht") ? m->page_size : 0, err);
    else
        o = file_object(c, p, via, &st, name, err);
    if (!o)
        return NULL;
    alias = ckpt_add_object(c, &alias_ops, dev, m->ino, m->name, len);
    if (alias)
        alias->priv = o;
    return o;
}

/* Mappings that are neither file nor shared memory of this kind: *is says whether it is one. */
static struct object *other_kind(struct ckpt *c, struct proc *p, const struct map *m, bool *is,
                                 struct err *err)
{
    *is = true;
    if (!strncmp(m->name, "/SYSV", 5) && deleted_suffix(m->name))
        return sysv_mapping_object(c, p, m, err);
    if (!strcmp(m->name, "anon_inode:[io_uring]"))
        return iouring_mapping_object(c, p, m, err);
    if (!strcmp(m->name, "/[aio] (deleted)"))
        return aio_mapping_object(c, p, m, err);
    *is = false;
    return NULL;
}

struct object *ckpt_mapping_object(struct ckpt *c, struct proc *p, const char *via, const struct map *m,
                                   struct err *err)
{
    struct extent e = {.start = m->start, .end = m->end, .offset = m->offset};
    bool write = m->perms[3] == 's' && map_flag(m, "mw"), other;
    struct object *o = other_kind(c, p, m, &other, err);
    int r;

    if (!other)
        o = find_or_make(c, p, via, m, err);
    else if (o)
        return o;
    if (!o) {
        err_wrap(err, "%s", m->name);
        return NULL;
    }
    if (o->ops == &shm_ops)
        r = content_extent(c, &((struct shm *)o->priv)->content, p, e.start, e.end, e.offset, err);
    else
        r = file_mapped(c, o, p, via, &e, write, err);
    return r < 0 ? NULL : o;
}
