/*
 * Content of what had no name, or was saved on request, out of the page store into a file. Much of it is
 * read, checked and decompressed by two threads; more would only wait for the file system.
 */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/util.h"
#include "restorer/fd.h"

#define WORKERS    2
#define INLINE_MAX 32u /* chunks; fewer are not worth a thread */

struct job {
    const struct robject *object;
    const struct image_chunk *chunk;
    size_t n;
    int fd;
    uint64_t size;
    atomic_size_t next;
    atomic_bool failed;
};

struct worker {
    struct job *job;
    struct err err;
};

static int put_chunk(const struct job *j, const struct image_chunk *c, void *buf, struct err *err)
{
    uint64_t len = c->len;
    int e;

    if (c->addr >= j->size)
        return err_set(err, EINVAL, "the image holds content behind its end");
    if (len > j->size - c->addr)
        len = j->size - c->addr; /* the last page's rest */
    if (image_read_chunk(j->object->home->image, c, buf, err) < 0)
        return err_wrap(err, "%s", j->object->home->path);
    e = pwrite_full(j->fd, buf, len, (off_t)c->addr);
    if (e < 0) {
        errno = -e;
        return err_errno(err, "writing its content at %" PRIu64, c->addr);
    }
    return 0;
}

static void *work(void *arg)
{
    struct worker *w = arg;
    struct job *j = w->job;
    _cleanup_free_ void *buf = malloc(IMAGE_CHUNK_MAX);

    if (!buf)
        err_set(&w->err, ENOMEM, "out of memory");
    while (!w->err.code && !atomic_load(&j->failed)) {
        size_t i = atomic_fetch_add(&j->next, 1);
        if (i >= j->n)
            break;
        put_chunk(j, &j->chunk[i], buf, &w->err);
    }
    if (w->err.code)
        atomic_store(&j->failed, true);
    return NULL;
}

int fill_file(const struct robject *o, int fd, uint64_t size, struct err *err)
{
    struct job j = {.object = o, .fd = fd, .size = size};
    struct worker w[WORKERS] = {{.job = &j}, {.job = &j}};
    pthread_t thread;
    bool helped;

    j.chunk = image_chunks(o->home->image, o->id, &j.n);
    helped = j.n > INLINE_MAX && pthread_create(&thread, NULL, work, &w[1]) == 0;
    work(&w[0]);
    if (helped)
        pthread_join(thread, NULL);
    for (int i = 0; i < WORKERS; i++)
        if (w[i].err.code) {
            *err = w[i].err;
            return -err->code;
        }
    return 0;
}
