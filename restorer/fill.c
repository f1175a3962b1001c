/*
 * Contents of private memory: every chunk of the image is checked, decompressed if need be, and written into the
 * process with process_vm_writev(2), by several threads when there is much of it. Raw chunks
 * go from the page cache straight to the process.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "base/util.h"
#include "restorer/core.h"

#define WORKERS_MAX 2u          /* page faults, not computing, are the cost: more do not help */
#define INLINE_MAX  (2ull << 20) /* less than this is not worth a thread */

struct fill {
    struct image *image;
    pid_t pid;
    const struct image_chunk *chunk;
    size_t n;
    atomic_size_t next;
    atomic_bool failed;
    pthread_mutex_t lock;
    struct err err;
};

static int put(const struct fill *f, const void *data, const struct image_chunk *c, struct err *err)
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

static int fill_one(const struct fill *f, const struct image_chunk *c, uint8_t *buf, struct err *err)
{
    const void *raw = image_chunk_raw(f->image, c, err);

    if (raw)
        return put(f, raw, c, err);
    if (err->code || image_read_chunk(f->image, c, buf, err) < 0)
        return -err->code;
    return put(f, buf, c, err);
}

static void *worker(void *arg)
{
    struct fill *f = arg;
    uint8_t *buf = malloc(IMAGE_CHUNK_MAX);
    struct err err = {0};

    if (!buf)
        err_set(&err, ENOMEM, "out of memory");
    while (!err.code && !atomic_load(&f->failed)) {
        size_t i = atomic_fetch_add(&f->next, 1);
        if (i >= f->n)
            break;
        fill_one(f, &f->chunk[i], buf, &err);
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

int fill_private(struct restore *r, struct rproc *p, struct err *err)
{
    struct fill f = {.image = p->mm_home->image, .pid = p->inj.pid, .lock = PTHREAD_MUTEX_INITIALIZER};
    pthread_t thread[WORKERS_MAX];
    uint64_t bytes = 0;
    unsigned n = 0;

    f.chunk = image_chunks(f.image, IMAGE_SPACE_PRIVATE, &f.n);
    for (size_t i = 0; i < f.n; i++)
        bytes += f.chunk[i].len;
    while (bytes > INLINE_MAX && n < WORKERS_MAX - 1 && pthread_create(&thread[n], NULL, worker, &f) == 0)
        n++;
    worker(&f);
    while (n)
        pthread_join(thread[--n], NULL);
    if (!atomic_load(&f.failed))
        return 0;
    *err = f.err;
    return err_wrap(err, "%s", p->mm_home->path);
}
