/*
 * Small things that everything uses: cleanup attributes, whole reads and writes, growing arrays.
 */
#ifndef BASE_UTIL_H
#define BASE_UTIL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/types.h>
#include <unistd.h>

#include "base/err.h"

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

static inline void cleanup_free(void *p)
{
    free(*(void **)p);
}

static inline void cleanup_close(int *fd)
{
    if (*fd >= 0)
        close(*fd);
}

#define _cleanup_free_  __attribute__((cleanup(cleanup_free)))
#define _cleanup_close_ __attribute__((cleanup(cleanup_close)))

/* Take the fd out of a variable with _cleanup_close_. */
static inline int take_fd(int *fd)
{
    int v = *fd;

    *fd = -1;
    return v;
}

/* Read or write exactly len bytes; 0 or -errno (end of file: -ENODATA). EINTR is handled. */
int read_full(int fd, void *buf, size_t len);
int write_full(int fd, const void *buf, size_t len);
int pread_full(int fd, void *buf, size_t len, off_t off);
int pwrite_full(int fd, const void *buf, size_t len, off_t off);

/* As many open files as we may have: the hard limit, with CAP_SYS_RESOURCE what the kernel allows (fs.nr_open). */
void raise_open_files_limit(void);

/* CLOCK_MONOTONIC. */
int64_t monotonic_ns(void);
int64_t monotonic_ms(void);

/* When a file was made, ns since the epoch (statx(2), with its flags); 0: not known. */
int64_t birth_time(int dirfd, const char *path, int flags);

/*
 * A whole small file (such as one of /proc) into fresh memory, NUL-terminated; the caller frees
 * *data. dirfd as in openat(2). Returns 0 or -errno; -EFBIG above 256 MiB.
 */
int read_file(int dirfd, const char *path, char **data, size_t *len);

/* The same with a printf-style path below /proc; sets err. */
int read_proc(char **data, size_t *len, struct err *err, const char *fmt, ...) __attribute__((format(printf, 4, 5)));

/*
 * fsync(2), unless the environment has DMTCP_NO_FSYNC=1: then it does nothing. That is for measuring only: after a
 * crash of the machine such a checkpoint may be incomplete.
 */
int sync_fd(int fd);
bool sync_wanted(void);

/* readlink into fresh memory; NULL and errno on failure. */
char *readlink_dup(const char *path);

/* printf into fresh memory; NULL when memory is out. */
char *format(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/*
 * Make room for one more element in a growing array of n elements with capacity *cap;
 * returns the array (perhaps moved) or NULL when memory is out (the old one stays valid).
 */
void *grow(void *array, size_t n, size_t *cap, size_t element_size);

#endif
