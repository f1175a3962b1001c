/*
 * The helper of the test programs (see check.h). It uses nothing that a checkpoint could hide from
 * the test: no stdio, no heap, no descriptor that stays open.
 */
#include "tests/programs/check.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define POLL_SECONDS  0.005
#define GAP_SECONDS   0.03 /* a poll that takes longer than this was not running */
#define MAX_GAPS      512
#define GIVE_UP_AFTER 900.0 /* seconds without --go: whoever started this is gone */

struct gap {
    double from, to;
};

static struct {
    char go[512], out[512], dir[512];
    bool broken;
    int failures;
    struct gap gaps[MAX_GAPS];
    int gap_count;
} self;

double check_now(clockid_t clock)
{
    struct timespec ts;

    clock_gettime(clock, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

void check_sleep(double seconds)
{
    struct timespec ts = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};

    while (nanosleep(&ts, &ts) < 0 && errno == EINTR)
        ;
}

static void say_line(const char *kind, const char *text)
{
    char line[1200];
    int len = snprintf(line, sizeof(line), "%s%s\n", kind, text);
    int fd;

    if (len >= (int)sizeof(line))
        len = sizeof(line) - 1;
    fd = open(self.out, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
    if (fd >= 0) {
        if (write(fd, line, (size_t)len) < 0)
            self.failures++;
        close(fd);
    }
    if (write(STDOUT_FILENO, line, (size_t)len) < 0) {
        /* standard output may be closed or lead nowhere: --out is what counts */
    }
}

static void say(const char *kind, const char *fmt, va_list ap)
{
    char text[1100];

    vsnprintf(text, sizeof(text), fmt, ap);
    say_line(kind, text);
}

static void set_place(char *to, size_t size, const char *path)
{
    char cwd[256] = "";

    if (path[0] != '/' && getcwd(cwd, sizeof(cwd)))
        snprintf(to, size, "%s/%s", cwd, path);
    else
        snprintf(to, size, "%s", path);
}

void check_init(int argc, char **argv)
{
    char copy[512];
    int i;

    for (i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--go") && i + 1 < argc)
            set_place(self.go, sizeof(self.go), argv[++i]);
        else if (!strcmp(argv[i], "--out") && i + 1 < argc)
            set_place(self.out, sizeof(self.out), argv[++i]);
        else if (!strcmp(argv[i], "--break"))
            self.broken = true;
    }
    if (!self.go[0] || !self.out[0]) {
        static const char usage[] = "usage: PROGRAM --go FILE --out FILE [--break]\n";

        if (write(STDERR_FILENO, usage, sizeof(usage) - 1) < 0)
            _exit(2);
        _exit(2);
    }
    /* Processes of other users may report too. */
    i = open(self.out, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    if (i >= 0) {
        if (fchmod(i, 0666) < 0)
            self.failures++;
        close(i);
    }
    snprintf(copy, sizeof(copy), "%s", self.out);
    snprintf(self.dir, sizeof(self.dir), "%s", dirname(copy));
}

bool check_broken(void)
{
    return self.broken;
}

const char *check_dir(void)
{
    return self.dir;
}

const char *check_path(const char *name)
{
    static _Thread_local char paths[4][800];
    static _Thread_local unsigned next;
    char *path = paths[next++ % 4];

    snprintf(path, sizeof(paths[0]), "%s/%s", self.dir, name);
    return path;
}

static void move_place(char *place, const char *dir)
{
    char name[512];
    const char *slash = strrchr(place, '/');

    snprintf(name, sizeof(name), "%s", slash ? slash + 1 : place);
    snprintf(place, sizeof(self.go), "%.200s/%.200s", dir, name);
}

void check_set_dir(const char *dir)
{
    move_place(self.go, dir);
    move_place(self.out, dir);
    snprintf(self.dir, sizeof(self.dir), "%s", dir);
}

void check_ready(void)
{
    say_line("ready", "");
}

bool check_go(void)
{
    return access(self.go, F_OK) == 0;
}

static void note_gap(double from, double to)
{
    int n = self.gap_count;

    if (n < MAX_GAPS) {
        self.gaps[n] = (struct gap){from, to};
        __atomic_store_n(&self.gap_count, n + 1, __ATOMIC_RELEASE);
    }
}

void check_wait_go(void)
{
    double start = check_now(CLOCK_MONOTONIC), before = start, now;

    while (!check_go()) {
        check_sleep(POLL_SECONDS);
        now = check_now(CLOCK_MONOTONIC);
        if (now - before > POLL_SECONDS + GAP_SECONDS)
            note_gap(before + POLL_SECONDS, now);
        else if (now < before)
            check_fail("CLOCK_MONOTONIC went back: before %.6f, after %.6f", before, now);
        if (now - start > GIVE_UP_AFTER)
            check_die("nobody made %s", self.go);
        before = now;
    }
}

void check_wait(void)
{
    check_ready();
    check_wait_go();
}

void check_idle(void)
{
    while (!check_go())
        check_sleep(POLL_SECONDS);
}

double check_gap(double from, double to)
{
    double sum = 0;
    int i, n = __atomic_load_n(&self.gap_count, __ATOMIC_ACQUIRE);

    for (i = 0; i < n; i++) {
        double a = self.gaps[i].from > from ? self.gaps[i].from : from;
        double b = self.gaps[i].to < to ? self.gaps[i].to : to;

        if (b > a)
            sum += b - a;
    }
    return sum;
}

void check_note(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    say("NOTE: ", fmt, ap);
    va_end(ap);
}

void check_fail(const char *fmt, ...)
{
    va_list ap;

    __atomic_add_fetch(&self.failures, 1, __ATOMIC_RELAXED);
    va_start(ap, fmt);
    say("FAIL: ", fmt, ap);
    va_end(ap);
}

void check_skip(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    say("SKIP: ", fmt, ap);
    va_end(ap);
    _exit(77);
}

void check_die(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    say("BROKEN: ", fmt, ap);
    va_end(ap);
    _exit(2);
}

long check_must(long result, const char *what, const char *file, int line)
{
    if (result == -1)
        check_die("%s:%d: %s: %s", file, line, what, strerror(errno));
    return result;
}

bool check_true(bool cond, const char *fmt, ...)
{
    va_list ap;

    if (cond)
        return true;
    __atomic_add_fetch(&self.failures, 1, __ATOMIC_RELAXED);
    va_start(ap, fmt);
    say("FAIL: ", fmt, ap);
    va_end(ap);
    return false;
}

bool check_num(long long before, long long after, const char *fmt, ...)
{
    char what[300];
    va_list ap;

    if (before == after)
        return true;
    va_start(ap, fmt);
    vsnprintf(what, sizeof(what), fmt, ap);
    va_end(ap);
    if (before >= -4096 && before <= 4096 && after >= -4096 && after <= 4096)
        check_fail("%s: before %lld, after %lld", what, before, after);
    else
        check_fail("%s: before %lld (%#llx), after %lld (%#llx)", what, before, before, after, after);
    return false;
}

bool check_str(const char *before, const char *after, const char *what)
{
    if (!strcmp(before, after))
        return true;
    check_fail("%s: before '%s', after '%s'", what, before, after);
    return false;
}

bool check_mem(const void *before, const void *after, size_t len, const char *what)
{
    const unsigned char *a = before, *b = after;
    size_t i;

    for (i = 0; i < len; i++) {
        if (a[i] != b[i]) {
            check_fail("%s: byte %zu of %zu: before 0x%02x, after 0x%02x", what, i, len, a[i], b[i]);
            return false;
        }
    }
    return true;
}

bool check_text(const char *before, const char *after, const char *what)
{
    int line = 1;

    while (*before || *after) {
        int a = (int)strcspn(before, "\n"), b = (int)strcspn(after, "\n");

        if (a != b || strncmp(before, after, (size_t)a)) {
            check_fail("%s: line %d: before '%.*s', after '%.*s'", what, line, a, before, b, after);
            return false;
        }
        before += a + (before[a] == '\n');
        after += b + (after[b] == '\n');
        line++;
    }
    return true;
}

bool check_range(double low, double high, double got, const char *what)
{
    if (got >= low && got <= high)
        return true;
    check_fail("%s: expected between %.3f and %.3f, got %.3f", what, low, high, got);
    return false;
}

/* One step of splitmix64 from a position: no state, so any part can be checked alone. */
static uint64_t pattern(uint64_t seed, uint64_t i)
{
    uint64_t z = seed * 0x9e3779b97f4a7c15u + (i + 1) * 0xbf58476d1ce4e5b9u;

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

void check_fill(void *p, size_t len, uint64_t seed)
{
    unsigned char *bytes = p;
    size_t i;

    for (i = 0; i < len; i += 8) {
        uint64_t v = pattern(seed, i / 8);

        memcpy(bytes + i, &v, len - i < 8 ? len - i : 8);
    }
}

bool check_filled(const void *p, size_t len, uint64_t seed, const char *what)
{
    const unsigned char *bytes = p;
    size_t i;

    for (i = 0; i < len; i += 8) {
        uint64_t v = pattern(seed, i / 8);

        if (memcmp(bytes + i, &v, len - i < 8 ? len - i : 8)) {
            check_fail("%s: %zu bytes at %p: wrong content at offset %#zx", what, len, p, i);
            return false;
        }
    }
    return true;
}

void check_child(pid_t pid, const char *what)
{
    int status = 0;
    pid_t got;

    do
        got = waitpid(pid, &status, 0);
    while (got < 0 && errno == EINTR);
    if (got != pid)
        check_fail("%s: waitpid(%d): returned %d (%s)", what, pid, got, strerror(errno));
    else if (status != 0)
        check_fail("%s: child %d ended with wait status %#x", what, pid, (unsigned)status);
}

int check_end(void)
{
    if (self.failures)
        return 1;
    say_line("PASS", "");
    return 0;
}

int check_status(void)
{
    return self.failures ? 1 : 0;
}

size_t check_slurp(const char *path, char *buf, size_t size)
{
    size_t len = 0;
    ssize_t n;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        check_die("%s: %s", path, strerror(errno));
    while (len + 1 < size && (n = read(fd, buf + len, size - 1 - len)) > 0)
        len += (size_t)n;
    close(fd);
    buf[len] = 0;
    return len;
}

void check_spit(const char *path, const void *data, size_t len)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);

    if (fd < 0 || write(fd, data, len) != (ssize_t)len)
        check_die("%s: %s", path, strerror(errno));
    close(fd);
}

char *check_status_line(const char *pid, const char *key, char *buf, size_t size)
{
    char text[8192], path[64], *at;
    size_t keylen = strlen(key);

    snprintf(path, sizeof(path), "/proc/%s/status", pid);
    check_slurp(path, text, sizeof(text));
    buf[0] = 0;
    for (at = text; at; at = strchr(at, '\n')) {
        at += *at == '\n';
        if (!strncmp(at, key, keylen) && at[keylen] == ':') {
            at += keylen + 1;
            at += strspn(at, " \t");
            snprintf(buf, size, "%.*s", (int)strcspn(at, "\n"), at);
            break;
        }
    }
    return buf;
}

bool check_remaining(double then, double left, double now_left, const char *what)
{
    double now = check_now(CLOCK_MONOTONIC), passed = now - then;

    return check_range(left - passed - 0.3, left - passed + check_gap(then, now) + 0.3, now_left, what);
}
