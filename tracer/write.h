/* Images of all processes: written under temporary names, made durable, then named. */
#ifndef TRACER_WRITE_H
#define TRACER_WRITE_H

#include "coordinator/wire.pb-c.h"
#include "tracer/ckpt.h"

struct ckpt_identity {
    const char *computation;
    uint32_t generation;
    int64_t time;        /* seconds since the epoch */
    const char *host_id; /* short, for file names */
};

struct image_set; /* the files of one checkpoint */

/* Write everything but memory. On success *set is the caller's. On failure nothing is left behind. */
int begin_images(struct ckpt *c, const struct ckpt_identity *id, struct image_set **set, struct err *err);

/* The pages that only the processes themselves have; they must stand still. */
int write_frozen(struct ckpt *c, void (*progress)(void *arg, uint64_t bytes), void *arg, struct err *err);

/* The pages of the snapshots, and the end of all images. */
int write_rest(struct ckpt *c, struct image_set *set, void (*progress)(void *arg, uint64_t bytes), void *arg,
               struct err *err);

/* Their names, sizes and programs, for the coordinator; `out` is filled from the arena. */
void describe_images(struct ckpt *c, const struct image_set *set, Wire__PhaseDone *out);

int sync_images(struct image_set *set, struct err *err);
int publish_images(struct image_set *set, struct err *err);
/* The checkpoint has failed, if only on another host: published images are removed. */
void withdraw_images(struct image_set *set);

void free_writers(struct ckpt *c);       /* what is not written by now never will be */
void free_images(struct image_set *set); /* what was not published is gone */

#endif
