/*
 * Shared memory: a memfd, or what the kernel makes for a shared anonymous mapping. The latter has no
 * descriptor, but /proc/self/map_files leads to it where that is permitted; otherwise a memfd does the same
 * under another name. Made before the first process, since processes map it while they are built.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/memfd.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "base/util.h"
#include "image/shm.pb-c.h"
#include "restorer/fd.h"

#define SHM_ANON       1u /* Shm.type */
#define SHM_MEMFD      2u
#define SHM_HUGE_ANON  3u
#define SHM_HUGE_MEMFD 4u

struct rshm {
    int map_read; /* a description for mappings that must not become writable */
    bool given;   /* some description of the program is the one that made it */
};

static const Shm *shm_of(const struct robject *o)
{
    return (const Shm *)o->msg;
}

static bool is_huge(const Shm *m)
{
    return m->type == SHM_HUGE_ANON || m->type == SHM_HUGE_MEMFD;
}

static int shm_prepare(struct restore *r, struct robject *o, struct err *err)
{
    const Shm *m = shm_of(o);
    struct rshm *k = restore_alloc(r, sizeof(*k));

    if (!k)
        return err_set(err, ENOMEM, "out of memory");
    k->map_read = -1;
    o->priv = k;
    if (m->type < SHM_ANON || m->type > SHM_HUGE_MEMFD)
        return err_set(err, EINVAL, "shared memory of unknown type %u", m->type);
    if (m->size > INT64_MAX || m->name.len > 249 || (m->name.len && memchr(m->name.data, '\0', m->name.len)))
        return err_set(err, EINVAL, "shared memory with absurd name or size");
    if (is_huge(m) &&
        (m->huge_size < IMAGE_PAGE || (m->huge_size & (m->huge_size - 1)) || m->size % m->huge_size))
        return err_set(err, EINVAL, "huge pages of %" PRIu64 " bytes", m->huge_size);
    return 0;
}

/* ---- making ---- */

static uint32_t huge_bits(uint64_t size)
{
    return (uint32_t)__builtin_ctzll(size) << MAP_HUGE_SHIFT;
}

/* Through a mapping of our own; -1 when that may not be looked at. */
static int anonymous(const Shm *m)
{
    int flags = MAP_SHARED | MAP_ANONYMOUS |
                (is_huge(m) ? MAP_HUGETLB | (int)huge_bits(m->huge_size) : MAP_NORESERVE);
    char path[80];
    void *p;
    int fd;

    if (!m->size)
        return -1;
    p = mmap(NULL, m->size, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (p == MAP_FAILED)
        return -1;
    snprintf(path, sizeof(path), "/proc/self/map_files/%lx-%lx", (unsigned long)p,
             (unsigned long)p + m->size);
    fd = open(path, O_RDWR | O_CLOEXEC);
    munmap(p, m->size);
    return fd;
}

static int memfd(const Shm *m, struct err *err)
{
    char name[250] = "/dev/zero"; /* as /proc/PID/maps shows what it stands in for */
    unsigned flags = MFD_CLOEXEC;
    int fd;

    if (m->type == SHM_MEMFD || m->type == SHM_HUGE_MEMFD)
        snprintf(name, sizeof(name), "%.*s", (int)m->name.len,
                 m->name.data ? (const char *)m->name.data : "");
    /* Seals are added last; only what has nothing but F_SEAL_SEAL is made with it. */
    if (m->seals & ~(uint32_t)F_SEAL_SEAL || m->memfd_flags & MFD_ALLOW_SEALING)
        flags |= MFD_ALLOW_SEALING;
    if (is_huge(m))
        flags |= MFD_HUGETLB | huge_bits(m->huge_size);
    fd = (int)syscall(SYS_memfd_create, name, flags);
    if (fd < 0)
        return err_errno(err, "memfd_create");
    if (ftruncate(fd, (off_t)m->size) < 0) {
        err_errno(err, "%" PRIu64 " bytes of shared memory", m->size);
        close(fd);
        return -err->code;
    }
    return fd;
}

/* hugetlbfs has no write(2), and this saves a copy: chunks are unpacked into a mapping. */
static int fill_mapped(const struct robject *o, uint8_t *at, uint64_t size, struct err *err)
{
    size_t n;
    const struct image_chunk *c = image_chunks(o->home->image, o->id, &n);

    for (size_t i = 0; i < n; i++) {
        if (c[i].addr >= size || c[i].len > size - c[i].addr)
            return err_set(err, EINVAL, "the image holds content behind its end");
        if (image_read_chunk(o->home->image, &c[i], at + c[i].addr, err) < 0)
            return err_wrap(err, "%s", o->home->path);
    }
    return 0;
}

/* Huge pages are reserved by mapping them, or a page that is missing would be a SIGBUS. */
static int fill_shm(const struct robject *o, struct err *err)
{
    const Shm *m = shm_of(o);
    uint64_t size = (m->size + IMAGE_PAGE - 1) & ~(uint64_t)(IMAGE_PAGE - 1);
    size_t n;
    void *p;
    int r;

    image_chunks(o->home->image, o->id, &n);
    if (!n)
        return 0;
    if (!is_huge(m))
        return fill_file(o, o->fd, m->size, err);
    p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, o->fd, 0);
    if (p == MAP_FAILED)
        return err_errno(err, "%" PRIu64 " bytes of huge pages", size);
    r = fill_mapped(o, p, size, err);
    munmap(p, size);
    return r;
}

static int add_seals(const struct robject *o, struct err *err)
{
    const Shm *m = shm_of(o);
    int seals = fcntl(o->fd, F_GET_SEALS);

    if (seals < 0 || !(m->seals & ~(uint32_t)seals))
        return 0;
    if (fcntl(o->fd, F_ADD_SEALS, (int)(m->seals & ~(uint32_t)seals)) < 0)
        return err_errno(err, "sealing shared memory (%#x)", m->seals);
    return 0;
}

/* What runs as a program must not be open for writing anywhere; nobody could write it before either. */
static int make_executable(struct restore *r, struct robject *o, struct err *err)
{
    bool runs = false;
    int fd;

    for (size_t i = 0; i < r->nprocs; i++)
        runs |= r->procs[i].process && r->procs[i].process->exe_file == o->id;
    if (!runs)
        return 0;
    if (fchmod(o->fd, shm_of(o)->mode & 07777) < 0)
        return err_errno(err, "mode of shared memory");
    if (add_seals(o, err) < 0)
        return -err->code;
    fd = reopen(o->fd, O_RDONLY);
    if (fd < 0)
        return err_set(err, -fd, "shared memory: %s", strerror(-fd));
    close(o->fd);
    o->fd = fd;
    ((struct rshm *)o->priv)->given = true;
    return 0;
}

static int shm_make(struct restore *r, struct robject *o, struct err *err)
{
    const Shm *m = shm_of(o);

    if (o->fd >= 0)
        return 0;
    if (m->type == SHM_ANON || m->type == SHM_HUGE_ANON)
        o->fd = anonymous(m);
    if (o->fd < 0)
        o->fd = memfd(m, err);
    if (o->fd < 0 || fill_shm(o, err) < 0)
        return -err->code;
    return make_executable(r, o, err);
}

static int shm_rebuild(struct restore *r, struct robject *o, struct err *err)
{
    return shm_make(r, o, err);
}

static int shm_map(struct restore *r, struct robject *o, bool write, int *fd, struct err *err)
{
    struct rshm *k = o->priv;

    if (shm_make(r, o, err) < 0)
        return -err->code;
    *fd = o->fd;
    if (write)
        return 0;
    if (k->map_read < 0)
        k->map_read = reopen(o->fd, O_RDONLY);
    *fd = k->map_read;
    return *fd < 0 ? err_set(err, -*fd, "shared memory: %s", strerror(-*fd)) : 0;
}

/* memfd_create(2) gives a description that no open(2) gives: the first one for both ways is it. */
static int shm_open_(struct restore *r, struct robject *o, struct rofd *d, int *fd, struct err *err)
{
    struct rshm *k = o->priv;
    uint32_t flags = open_flags(d->msg);

    (void)r;
    if (!k->given && (flags & (uint32_t)(O_ACCMODE | O_PATH)) == O_RDWR) {
        *fd = fcntl(o->fd, F_DUPFD_CLOEXEC, 0);
        k->given = *fd >= 0;
        return *fd < 0 ? err_errno(err, "shared memory") : 0;
    }
    *fd = reopen(o->fd, flags);
    return *fd < 0 ? err_set(err, -*fd, "shared memory: %s", strerror(-*fd)) : 0;
}

/* All that opens or writes it has happened. A seal against writing is refused while a writable mapping
 * exists. */
static int shm_arm(struct restore *r, struct robject *o, struct err *err)
{
    const Shm *m = shm_of(o);
    struct stat st;

    (void)r;
    if (m->type != SHM_MEMFD && m->type != SHM_HUGE_MEMFD)
        return 0;
    if (fstat(o->fd, &st) == 0 && (st.st_mode & 07777) != m->mode && fchmod(o->fd, m->mode & 07777) < 0)
        return err_errno(err, "mode of shared memory");
    return add_seals(o, err);
}

const struct rebuild_ops shm_ops = {
    .kind = KIND_SHM,
    .descriptor = &shm__descriptor,
    .prepare = shm_prepare,
    .map = shm_map,
    .rebuild = shm_rebuild,
    .open = shm_open_,
    .arm = shm_arm,
};
