/* See util.h. */
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>

#define FILE_LIMIT (256u << 20)

int read_full(int fd, void *buf, size_t len)
{
    for (size_t done = 0; done < len;) {
        ssize_t n = read(fd, (char *)buf + done, len - done);
        if (n == 0)
            return -ENODATA;
        if (n < 0 && errno != EINTR)
            return -errno;
        done += n > 0 ? (size_t)n : 0;
    }
    return 0;
}

int write_full(int fd, const void *buf, size_t len)
{
    for (size_t done = 0; done < len;) {
        ssize_t n = write(fd, (const char *)buf + done, len - done);
        if (n < 0 && errno != EINTR)
            return -errno;
        done += n > 0 ? (size_t)n : 0;
    }
    return 0;
}

int pread_full(int fd, void *buf, size_t len, off_t off)
{
    for (size_t done = 0; done < len;) {
        ssize_t n = pread(fd, (char *)buf + done, len - done, off + (off_t)done);
        if (n == 0)
            return -ENODATA;
        if (n < 0 && errno != EINTR)
            return -errno;
        done += n > 0 ? (size_t)n : 0;
    }
    return 0;
}

int pwrite_full(int fd, const void *buf, size_t len, off_t off)
{
    for (size_t done = 0; done < len;) {
        ssize_t n = pwrite(fd, (const char *)buf + done, len - done, off + (off_t)done);
        if (n < 0 && errno != EINTR)
            return -errno;
        done += n > 0 ? (size_t)n : 0;
    }
    return 0;
}

int read_file(int dirfd, const char *path, char **data, size_t *len)
{
    _cleanup_close_ int fd = openat(dirfd, path, O_RDONLY | O_CLOEXEC);
    _cleanup_free_ char *buf = NULL;
    size_t cap = 4096, n = 0;

    if (fd < 0)
        return -errno;
    buf = malloc(cap);
    while (buf) {
        ssize_t got = read(fd, buf + n, cap - n - 1);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return -errno;
        n += (size_t)got;
        if (got == 0) {
            buf[n] = '\0';
            *data = buf;
            buf = NULL;
            if (len)
                *len = n;
            return 0;
        }
        if (cap - n < 2048) {
            char *more = cap < FILE_LIMIT ? realloc(buf, cap * 2) : NULL;
            if (!more)
                return cap < FILE_LIMIT ? -ENOMEM : -EFBIG;
            buf = more;
            cap *= 2;
        }
    }
    return -ENOMEM;
}

int read_proc(char **data, size_t *len, struct err *err, const char *fmt, ...)
{
    char path[PATH_MAX] = "/proc/";
    va_list ap;
    int r;

    va_start(ap, fmt);
    vsnprintf(path + 6, sizeof(path) - 6, fmt, ap);
    va_end(ap);
    r = read_file(AT_FDCWD, path, data, len);
    if (r < 0)
        return err_set(err, -r, "%s: %s", path, strerror(-r));
    return 0;
}

char *readlink_dup(const char *path)
{
    char buf[PATH_MAX + 1];
    ssize_t n = readlink(path, buf, sizeof(buf) - 1);

    if (n < 0)
        return NULL;
    buf[n] = '\0';
    return strdup(buf);
}

char *format(const char *fmt, ...)
{
    char *s = NULL;
    va_list ap;

    va_start(ap, fmt);
    if (vasprintf(&s, fmt, ap) < 0)
        s = NULL;
    va_end(ap);
    return s;
}

void *grow(void *array, size_t n, size_t *cap, size_t element_size)
{
    size_t want = *cap ? *cap * 2 : 16;
    void *p;

    if (n < *cap)
        return array;
    p = reallocarray(array, want, element_size);
    if (p)
        *cap = want;
    return p;
}

bool sync_wanted(void)
{
    const char *no = getenv("DMTCP_NO_FSYNC");

    return !no || strcmp(no, "1");
}

int sync_fd(int fd)
{
    return sync_wanted() ? fsync(fd) : 0;
}

/* The hard limit may be raised to fs.nr_open, not beyond; prlimit(2), CAP_SYS_RESOURCE. */
void raise_open_files_limit(void)
{
    _cleanup_free_ char *text = NULL;
    struct rlimit limit;
    rlim_t most = 0;
    size_t len;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return;
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    if (read_file(AT_FDCWD, "/proc/sys/fs/nr_open", &text, &len) == 0)
        most = strtoul(text, NULL, 10);
    if (most > limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max = most;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

int64_t monotonic_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * 1000000000ll + ts.tv_nsec;
}

int64_t monotonic_ms(void)
{
    return monotonic_ns() / 1000000;
}

int64_t birth_time(int dirfd, const char *path, int flags)
{
    struct statx x;

    if (statx(dirfd, path, flags, STATX_BTIME, &x) < 0 || !(x.stx_mask & STATX_BTIME))
        return 0;
    return x.stx_btime.tv_sec * 1000000000ll + x.stx_btime.tv_nsec;
}
