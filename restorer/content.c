/* Content of what had no name, or was saved on request, out of the page store into a file. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "base/util.h"
#include "restorer/fd.h"

int fill_file(const struct robject *o, int fd, uint64_t size, struct err *err)
{
    _cleanup_free_ void *buf = malloc(IMAGE_CHUNK_MAX);
    size_t n;
    const struct image_chunk *c = image_chunks(o->home->image, o->id, &n);

    if (!buf)
        return err_set(err, ENOMEM, "out of memory");
    for (size_t i = 0; i < n; i++) {
        uint64_t len = c[i].len;
        int e;

        if (c[i].addr >= size)
            return err_set(err, EINVAL, "the image holds content behind its end");
        if (len > size - c[i].addr)
            len = size - c[i].addr; /* the last page's rest */
        if (image_read_chunk(o->home->image, &c[i], buf, err) < 0)
            return err_wrap(err, "%s", o->home->path);
        e = pwrite_full(fd, buf, len, (off_t)c[i].addr);
        if (e < 0) {
            errno = -e;
            return err_errno(err, "writing its content at %" PRIu64, c[i].addr);
        }
    }
    return 0;
}
