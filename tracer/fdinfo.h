/*
 * /proc/PID/fdinfo/N parsed (proc(5); the show_fdinfo functions of the kernel). The text is treated as
 * hostile: every number is checked, nothing is believed to be there. Texts end with NUL.
 */
#ifndef TRACER_FDINFO_H
#define TRACER_FDINFO_H

#include <stdint.h>

#include "base/err.h"

struct fdinfo {
    int64_t pos;
    uint32_t flags; /* as open(2), O_CLOEXEC is the descriptor's */
    int mnt_id;     /* -1: not said */
    uint64_t ino;   /* 0: not said (before Linux 5.14) */
};
int fdinfo_parse(const char *text, struct fdinfo *f, struct err *err);

/* What follows "key:" and blanks at the beginning of a line; NULL when there is no such line. */
const char *fdinfo_find(const char *text, const char *key);

/* The number in that line, in base 8, 10 or 16. -ENOENT when there is no such line, -EBADMSG when it is no
 * number. */
int fdinfo_number(const char *text, const char *key, int base, uint64_t *value, struct err *err);

struct fdinfo_timer {
    int clockid;
    uint64_t ticks;
    uint32_t settime_flags;
    uint64_t value_ns, interval_ns;
};
int fdinfo_timerfd(const char *text, struct fdinfo_timer *t, struct err *err);

struct fdinfo_epoll_item {
    uint32_t tfd, events;
    uint64_t data;
    uint64_t ino;
    uint64_t dev; /* of the file system, as st_dev */
};
/* The next item at or after *text, which moves behind it. 1, 0 when there is none, -EBADMSG. */
int fdinfo_epoll(const char **text, struct fdinfo_epoll_item *item, struct err *err);

#endif
