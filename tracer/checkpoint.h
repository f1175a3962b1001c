/* The phases of a checkpoint on this host, in the order in which the coordinator calls them. */
#ifndef TRACER_CHECKPOINT_H
#define TRACER_CHECKPOINT_H

#include "tracer/ckpt.h"
#include "tracer/follow.h"
#include "tracer/write.h"

struct checkpoint {
    struct ckpt c;
    struct image_set *images;
    struct follow *follow; /* borrowed, while there may be snapshots */
    int64_t frozen_at, thawed_at; /* CLOCK_MONOTONIC, ns; 0: not yet */
    bool running;                 /* everyone has been let go */
};

int checkpoint_freeze(struct checkpoint *k, struct follow *f, const struct ckpt_options *o, struct err *err);
int checkpoint_collect(struct checkpoint *k, struct err *err);
int checkpoint_match(struct checkpoint *k, struct err *err);
int checkpoint_peek_send(struct checkpoint *k, struct err *err);
int checkpoint_peek_receive(struct checkpoint *k, struct err *err);
/*
 * Begin the images and write what needs the processes to stand still: when f is not NULL as little as possible,
 * since snapshots keep the memory (they are hidden in f). Then the rest, before or after resume.
 */
int checkpoint_write(struct checkpoint *k, const struct ckpt_identity *id, struct follow *f,
                     void (*progress)(void *, uint64_t), void *arg, struct err *err);
int checkpoint_write_rest(struct checkpoint *k, void (*progress)(void *, uint64_t), void *arg, struct err *err);
/* Let everyone go as it was. May be called at any time, again too. */
void checkpoint_resume(struct checkpoint *k);
/* After resume: free everything; images that were not published are gone. */
void checkpoint_free(struct checkpoint *k);

#endif
