/*
 * Queued inotify events, and watches with given numbers. The kernel has no call that puts an event into an
 * inotify instance; inqueue.c says how it is done all the same.
 */
#ifndef BASE_INQUEUE_H
#define BASE_INQUEUE_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct inqueue_watch {
    int wd;
    uint32_t mask;
    int fd; /* of what is watched, may be O_PATH */
};

struct inqueue_event {
    int wd; /* -1: IN_Q_OVERFLOW */
    uint32_t mask;
    uint32_t cookie;  /* pairs IN_MOVED_FROM with IN_MOVED_TO; its value is not kept */
    const char *name; /* NULL: none */
};

/*
 * Fill an instance whose queue is empty and that has none of these watches: afterwards its queue holds the
 * events in this order and the watches stand, with their numbers. Numbers that events name and watches do not
 * are those of watches that are gone. next_wd: the number that the next new watch gets, 0: the one after the
 * highest. -EOPNOTSUPP when there is an event that cannot be made.
 */
int inqueue_fill(int fd, const struct inqueue_watch *w, size_t nw, const struct inqueue_event *e, size_t ne,
                 int next_wd, struct err *err);

/* Take all watches in w away without a trace in the queue, which must be empty; *next_wd becomes the next
 * number. */
int inqueue_forget(int fd, const struct inqueue_watch *w, size_t nw, int *next_wd, struct err *err);

/* Can fill and forget work here? 0 or -errno: nowhere to make files, or a kernel without
 * CONFIG_CHECKPOINT_RESTORE. */
int inqueue_possible(struct err *err);

/* Read everything from an instance: appends to *e and *names, both malloc'ed and growing; -errno. */
struct inqueue_list {
    struct inqueue_event *event;
    size_t n, cap;
};
int inqueue_take(int fd, struct inqueue_list *l, struct err *err);
void inqueue_list_free(struct inqueue_list *l);

#endif
