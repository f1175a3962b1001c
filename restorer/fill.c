/*
 * Contents of private memory: every chunk of the image is checked, decompressed if need be, and put into the
 * process, by several threads when there is much of it. Raw chunks go from the page cache straight to the process.
 *
 * Into anonymous memory the kernel copies by userfaultfd(2): UFFDIO_COPY makes a page and fills it, where
 * process_vm_writev(2) faults one in that is zeroed first (a third less time). It is registered with the process for that
 * time only. What it does not take (pages that are there already, file mappings, advice for huge pages) is
 * written afterwards.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "base/util.h"
#include "image/vma.h"
#include "restorer/core.h"

#define WORKERS_MAX 2u          /* page faults, not computing, are the cost: more do not help */
#define INLINE_MAX  (2ull << 20) /* less than this is not worth a thread, nor a userfaultfd */

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif

struct fill {
    struct image *image;
    pid_t pid;
    const Mm *mm;
    int uffd;            /* -1: write */
    bool *done;          /* of each chunk */
    const struct image_chunk *chunk;
    size_t n;
    atomic_size_t next;
    atomic_bool failed;
    pthread_mutex_t lock;
    struct err err;
};

static int write_chunk(const struct fill *f, const void *data, const struct image_chunk *c, struct err *err)
{
    for (uint64_t done = 0; done < c->len;) {
        struct iovec l = {(char *)data + done, c->len - done}, r = {(void *)(c->addr + done), c->len - done};
        ssize_t n = process_vm_writev(f->pid, &l, 1, &r, 1, 0);

        if (n <= 0)
            return err_errno(err, "writing %llu bytes at %#llx", (unsigned long long)(c->len - done),
                             (unsigned long long)(c->addr + done));
        done += (uint64_t)n;
    }
    return 0;
}

/* The mapping that all of the chunk lies in, if userfaultfd can fill it as it would have been. */
static const Vma *whole_in(const Mm *mm, const struct image_chunk *c)
{
    size_t lo = 0, hi = mm->n_vmas;
    const Vma *v;

    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (mm->vmas[mid]->end <= c->addr)
            lo = mid + 1;
        else
            hi = mid;
    }
    v = lo < mm->n_vmas ? mm->vmas[lo] : NULL;
    if (!v || v->start > c->addr || v->end < c->addr + c->len || v->kind != VMA_ANON || (v->flags & MAP_HUGETLB) ||
        (v->advice & (VMA_ADV_HUGEPAGE | VMA_ADV_DROPPABLE)))
        return NULL;
    return v;
}

static bool copy_chunk(const struct fill *f, const void *data, const struct image_chunk *c)
{
    struct uffdio_copy u = {.dst = c->addr, .src = (uint64_t)data, .len = c->len};

    return ioctl(f->uffd, UFFDIO_COPY, &u) == 0 && u.copy == (int64_t)c->len;
}

static int fill_one(const struct fill *f, size_t i, uint8_t *buf, struct err *err)
{
    const struct image_chunk *c = &f->chunk[i];
    const void *data;

    if (f->done[i] || (f->uffd >= 0 && !whole_in(f->mm, c)))
        return 0;
    data = image_chunk_get(f->image, c, buf, err);
    if (!data)
        return -err->code;
    if (f->uffd < 0)
        return write_chunk(f, data, c, err);
    f->done[i] = copy_chunk(f, data, c);
    return 0;
}

static void *worker(void *arg)
{
    struct fill *f = arg;
    uint8_t *buf = aligned_alloc(IMAGE_PAGE, IMAGE_CHUNK_MAX);
    struct err err = {0};

    if (!buf)
        err_set(&err, ENOMEM, "out of memory");
    while (!err.code && !atomic_load(&f->failed)) {
        size_t i = atomic_fetch_add(&f->next, 1);
        if (i >= f->n)
            break;
        fill_one(f, i, buf, &err);
    }
    free(buf);
    if (err.code) {
        pthread_mutex_lock(&f->lock);
        if (!atomic_exchange(&f->failed, true))
            f->err = err;
        pthread_mutex_unlock(&f->lock);
    }
    return NULL;
}

static void run(struct fill *f, bool helped)
{
    pthread_t thread[WORKERS_MAX];
    unsigned n = 0;

    atomic_store(&f->next, 0);
    while (helped && n < WORKERS_MAX - 1 && pthread_create(&thread[n], NULL, worker, f) == 0)
        n++;
    worker(f);
    while (n)
        pthread_join(thread[--n], NULL);
}

/* The mappings that have something to be copied; their number in the process goes to *remote. -1: it cannot be had. */
static int open_uffd(const struct fill *f, struct rproc *p, int64_t *remote)
{
    struct uffdio_api api = {.api = UFFD_API};
    const Vma *last = NULL;
    struct err ignored;
    int fd;

    if (inj_syscall(&p->inj, remote, &ignored, SYS_userfaultfd,
                    (uint64_t[6]){O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY}) < 0 || inj_failed(*remote))
        return -1;
    fd = inj_get_fd(&p->inj, (int)*remote, &ignored);
    if (fd >= 0 && ioctl(fd, UFFDIO_API, &api) < 0) {
        close(fd);
        fd = -1;
    }
    for (size_t i = 0; fd >= 0 && i < f->n; i++) {
        const Vma *v = whole_in(f->mm, &f->chunk[i]);
        if (!v || v == last)
            continue;
        struct uffdio_register u = {.range = {v->start, v->end - v->start}, .mode = UFFDIO_REGISTER_MODE_MISSING};
        ioctl(fd, UFFDIO_REGISTER, &u); /* if not, nothing can be copied there */
        last = v;
    }
    return fd;
}

/* As much as can be. The end of the last descriptor takes it off the mappings. */
static int copy_all(struct fill *f, struct rproc *p, struct err *err)
{
    int64_t remote = -1, ret;

    f->uffd = open_uffd(f, p, &remote);
    if (f->uffd >= 0) {
        run(f, true);
        close(f->uffd);
    }
    f->uffd = -1;
    if (remote < 0)
        return 0;
    return inj_syscall(&p->inj, &ret, err, SYS_close, (uint64_t[6]){(uint64_t)remote});
}

int fill_private(struct restore *r, struct rproc *p, struct err *err)
{
    struct fill f = {.image = p->mm_home->image, .pid = p->inj.pid, .mm = p->mm, .uffd = -1,
                     .lock = PTHREAD_MUTEX_INITIALIZER};
    uint64_t bytes = 0;

    f.chunk = image_chunks(f.image, IMAGE_SPACE_PRIVATE, &f.n);
    _cleanup_free_ bool *done = calloc(f.n + 1, sizeof(*done));
    f.done = done;
    if (!done)
        return err_set(err, ENOMEM, "out of memory");
    for (size_t i = 0; i < f.n; i++)
        bytes += f.chunk[i].len;
    if (bytes > INLINE_MAX && copy_all(&f, p, err) < 0)
        return -err->code;
    if (!atomic_load(&f.failed))
        run(&f, bytes > INLINE_MAX);
    if (!atomic_load(&f.failed))
        return 0;
    *err = f.err;
    return err_wrap(err, "%s", p->mm_home->path);
}
