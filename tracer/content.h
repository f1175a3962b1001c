/*
 * Reading what a file or shared memory holds, when it is to be in the image: through a descriptor of some
 * process, a path of /proc, or, where neither may be opened, through the mappings themselves.
 */
#ifndef TRACER_CONTENT_H
#define TRACER_CONTENT_H

#include "tracer/ckpt.h"

struct extent {
    struct proc *proc;
    uint64_t start, end, offset;
    struct extent *next;
};

struct content {
    struct proc *proc; /* who has fd, NULL: nobody */
    int fd;
    uint32_t fd_flags;
    const char *via; /* a path to open, NULL: none */
    struct extent *extents;
    bool huge;           /* huge pages: of these mincore(2) knows only what this one process has touched */
    uint64_t extent_end; /* the highest offset that a mapping shows */
};

/* Another way to it; the best is kept. */
void content_fd(struct content *k, const struct fd_info *fi);
int content_extent(struct ckpt *c, struct content *k, struct proc *p, uint64_t start, uint64_t end,
                   uint64_t offset, struct err *err);

/* Put all pages of the first `size` bytes that are not zero into space `id` of the image. Holes are not read.
 */
int content_write(const struct content *k, uint64_t id, uint64_t size, struct image_writer *w,
                  struct err *err);

#endif
