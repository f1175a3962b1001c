/*
 * The manifest as text. It is read by dmtcp_restart, perhaps years later and from a directory that somebody
 * else could write, so parsing trusts nothing; and it is the commit point of a checkpoint, so writing is
 * durable before it is visible.
 */
#include "base/manifest.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/util.h"

#define HEADER      "dmtcp-manifest"
#define VERSION     1
#define HOSTS_MAX   65536
#define STRINGS_MAX 65536 /* bytes in one string */

struct manifest *manifest_new(const char *computation, unsigned generation, int64_t time)
{
    struct manifest *m = calloc(1, sizeof(*m));

    if (!m)
        return NULL;
    m->computation = strdup(computation);
    m->generation = generation;
    m->time = time;
    if (!m->computation) {
        free(m);
        return NULL;
    }
    return m;
}

void manifest_free(struct manifest *m)
{
    if (!m)
        return;
    for (size_t i = 0; i < m->n_hosts; i++) {
        free(m->host[i].hostname);
        free(m->host[i].boot_id);
        free(m->host[i].ckptdir);
    }
    for (size_t i = 0; i < m->n_images; i++) {
        free(m->image[i].program);
        free(m->image[i].path);
    }
    free(m->host);
    free(m->image);
    free(m->computation);
    free(m);
}

static void cleanup_manifest(struct manifest **m)
{
    manifest_free(*m);
}

int manifest_add_host(struct manifest *m, const char *hostname, const char *boot_id, uint64_t pidns,
                      const char *ckptdir)
{
    struct manifest_host *hosts = grow(m->host, m->n_hosts, &m->cap_hosts, sizeof(*hosts));
    struct manifest_host h = {strdup(hostname), strdup(boot_id), pidns, strdup(ckptdir)};

    if (hosts)
        m->host = hosts;
    if (!hosts || !h.hostname || !h.boot_id || !h.ckptdir) {
        free(h.hostname);
        free(h.boot_id);
        free(h.ckptdir);
        return -ENOMEM;
    }
    hosts[m->n_hosts] = h;
    return (int)m->n_hosts++;
}

int manifest_add_image(struct manifest *m, unsigned host, const char *path, uint64_t size,
                       const char *program, int pid, int foreground)
{
    struct manifest_image *images = grow(m->image, m->n_images, &m->cap_images, sizeof(*images));
    struct manifest_image i = {host, size, pid, foreground, strdup(program), strdup(path)};

    if (images)
        m->image = images;
    if (!images || !i.program || !i.path) {
        free(i.program);
        free(i.path);
        return -ENOMEM;
    }
    images[m->n_images] = i;
    return (int)m->n_images++;
}

char *manifest_path(const char *dir, const char *computation, unsigned generation)
{
    return format("%s/" MANIFEST_PREFIX "%s_%05u", dir, computation, generation);
}

static void put_string(FILE *f, const char *s)
{
    fputs(" \"", f);
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        if (c < 0x20 || c > 0x7e || c == '"' || c == '\\')
            fprintf(f, "\\x%02x", c);
        else
            fputc(c, f);
    }
    fputc('"', f);
}

char *manifest_format(const struct manifest *m)
{
    char *text = NULL;
    size_t len;
    FILE *f = open_memstream(&text, &len);

    if (!f)
        return NULL;
    fprintf(f, HEADER " %d\ncomputation", VERSION);
    put_string(f, m->computation);
    fprintf(f, "\ngeneration %u\ntime %" PRId64 "\n", m->generation, m->time);
    for (size_t i = 0; i < m->n_hosts; i++) {
        fprintf(f, "host %zu", i);
        put_string(f, m->host[i].hostname);
        put_string(f, m->host[i].boot_id);
        fprintf(f, " %" PRIu64, m->host[i].pidns);
        put_string(f, m->host[i].ckptdir);
        fputc('\n', f);
    }
    for (size_t i = 0; i < m->n_images; i++) {
        const struct manifest_image *image = &m->image[i];
        fprintf(f, "image %u %" PRIu64 " %d %s", image->host, image->size, image->pid,
                image->foreground ? "f" : "-");
        put_string(f, image->program);
        put_string(f, image->path);
        fputc('\n', f);
    }
    fprintf(f, "end %zu\n", m->n_images);
    if (fclose(f) != 0) {
        free(text);
        return NULL;
    }
    return text;
}

/* Where parsing is. A line is cut into words by need(): each takes what comes next or fails. */
struct scan {
    const char *at, *end;
    unsigned line;
    struct err *err;
};

static int bad(struct scan *s, const char *what)
{
    return err_set(s->err, EINVAL, "line %u: %s", s->line, what);
}

static int word(struct scan *s, const char *w)
{
    size_t n = strlen(w);

    if ((size_t)(s->end - s->at) < n || memcmp(s->at, w, n) != 0)
        return 0;
    s->at += n;
    return 1;
}

static int number(struct scan *s, uint64_t max, uint64_t *value)
{
    uint64_t v = 0;
    const char *start;

    if (!word(s, " "))
        return bad(s, "a number is missing");
    start = s->at;
    for (; s->at < s->end && *s->at >= '0' && *s->at <= '9'; s->at++) {
        unsigned digit = (unsigned)(*s->at - '0');
        if (v > (max - digit) / 10)
            return bad(s, "a number is too large");
        v = v * 10 + digit;
    }
    if (s->at == start)
        return bad(s, "a number is missing");
    *value = v;
    return 0;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static int quoted(struct scan *s, char **value)
{
    const char *close;
    char *out;
    size_t n = 0;

    if (!word(s, " \""))
        return bad(s, "a quoted string is missing");
    close = memchr(s->at, '"', (size_t)(s->end - s->at));
    if (!close || close - s->at > STRINGS_MAX || memchr(s->at, '\n', (size_t)(close - s->at)))
        return bad(s, "a quoted string does not end");
    out = malloc((size_t)(close - s->at) + 1);
    if (!out)
        return err_set(s->err, ENOMEM, "out of memory");
    while (s->at < close) {
        int high, low;
        if (*s->at != '\\') {
            out[n++] = *s->at++;
            if (out[n - 1] != '\0')
                continue;
        } else if (close - s->at >= 4 && s->at[1] == 'x' && (high = hex_digit(s->at[2])) >= 0 &&
                   (low = hex_digit(s->at[3])) >= 0 && high + low > 0) {
            out[n++] = (char)(high << 4 | low);
            s->at += 4;
            continue;
        }
        free(out);
        return bad(s, "a quoted string has a bad escape");
    }
    out[n] = '\0';
    s->at = close + 1;
    free(*value);
    *value = out;
    return 0;
}

static int end_of_line(struct scan *s)
{
    if (!word(s, "\n"))
        return bad(s, "unexpected text");
    s->line++;
    return 0;
}

static int parse_head(struct scan *s, struct manifest *m)
{
    uint64_t version = 0, generation = 0, time = 0;

    if (!word(s, HEADER))
        return err_set(s->err, EINVAL, "not a manifest");
    if (number(s, UINT32_MAX, &version) < 0)
        return -EINVAL;
    if (version != VERSION)
        return err_set(s->err, EINVAL, "version %" PRIu64 " of the format, this program knows %d", version,
                       VERSION);
    if (end_of_line(s) < 0)
        return -EINVAL;
    if (!word(s, "computation"))
        return bad(s, "\"computation\" is missing");
    if (quoted(s, &m->computation) < 0 || end_of_line(s) < 0)
        return -s->err->code;
    if (!word(s, "generation"))
        return bad(s, "\"generation\" is missing");
    if (number(s, INT32_MAX, &generation) < 0 || end_of_line(s) < 0)
        return -EINVAL;
    if (!word(s, "time"))
        return bad(s, "\"time\" is missing");
    if (number(s, INT64_MAX, &time) < 0 || end_of_line(s) < 0)
        return -EINVAL;
    m->generation = (unsigned)generation;
    m->time = (int64_t)time;
    return 0;
}

static int parse_host(struct scan *s, struct manifest *m)
{
    _cleanup_free_ char *hostname = NULL, *boot_id = NULL, *ckptdir = NULL;
    uint64_t number_given = 0, pidns = 0;
    int r;

    r = number(s, HOSTS_MAX, &number_given);
    if (r == 0)
        r = quoted(s, &hostname);
    if (r == 0)
        r = quoted(s, &boot_id);
    if (r == 0)
        r = number(s, UINT64_MAX, &pidns);
    if (r == 0)
        r = quoted(s, &ckptdir);
    if (r < 0)
        return r;
    if (number_given != m->n_hosts)
        return bad(s, "hosts are not numbered in order");
    r = manifest_add_host(m, hostname, boot_id, pidns, ckptdir);
    return r < 0 ? err_set(s->err, ENOMEM, "out of memory") : end_of_line(s);
}

static int parse_image(struct scan *s, struct manifest *m)
{
    _cleanup_free_ char *program = NULL, *path = NULL;
    uint64_t host = 0, size = 0, pid = 0;
    int foreground = 0, r;

    r = number(s, HOSTS_MAX, &host);
    if (r == 0)
        r = number(s, INT64_MAX, &size);
    if (r == 0)
        r = number(s, INT32_MAX, &pid);
    if (r < 0)
        return r;
    if (word(s, " f"))
        foreground = 1;
    else if (!word(s, " -"))
        return bad(s, "unknown flags");
    r = quoted(s, &program);
    if (r == 0)
        r = quoted(s, &path);
    if (r < 0)
        return r;
    if (host >= m->n_hosts)
        return bad(s, "an image of a host that is not listed");
    if (path[0] != '/')
        return bad(s, "the path of an image is not absolute");
    r = manifest_add_image(m, (unsigned)host, path, size, program, (int)pid, foreground);
    return r < 0 ? err_set(s->err, ENOMEM, "out of memory") : end_of_line(s);
}

int manifest_parse(const char *text, size_t len, struct manifest **out, struct err *err)
{
    struct scan s = {text, text + len, 1, err};
    __attribute__((cleanup(cleanup_manifest))) struct manifest *m = manifest_new("", 0, 0);
    uint64_t count = 0;
    int r;

    if (!m)
        return err_set(err, ENOMEM, "out of memory");
    r = parse_head(&s, m);
    while (r == 0 && word(&s, "host"))
        r = parse_host(&s, m);
    while (r == 0 && word(&s, "image"))
        r = parse_image(&s, m);
    if (r < 0)
        return r;
    if (!word(&s, "end"))
        return bad(&s, s.at == s.end ? "the file is cut short" : "unknown keyword");
    if (number(&s, UINT32_MAX, &count) < 0 || end_of_line(&s) < 0)
        return -EINVAL;
    if (count != m->n_images || s.at != s.end)
        return bad(&s, "the number of images does not match");
    *out = m;
    m = NULL;
    return 0;
}

int manifest_read(const char *path, struct manifest **m, struct err *err)
{
    _cleanup_free_ char *text = NULL;
    size_t len = 0;
    int r = read_file(AT_FDCWD, path, &text, &len);

    if (r < 0)
        return err_set(err, -r, "%s: %s", path, strerror(-r));
    r = manifest_parse(text, len, m, err);
    return r < 0 ? err_wrap(err, "%s", path) : 0;
}

int manifest_is(const char *path)
{
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    char start[sizeof(HEADER)];

    return fd >= 0 && pread_full(fd, start, sizeof(start), 0) == 0 &&
           !memcmp(start, HEADER " ", sizeof(start));
}

/* Data first, then the name, then the directory: at no instant does a crash leave a visible half. */
static int write_then_link(int dir, const char *tmp, const char *name, const char *text, struct err *err)
{
    _cleanup_close_ int fd = openat(dir, tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    int r;

    if (fd < 0)
        return err_errno(err, "%s: cannot create", tmp);
    r = write_full(fd, text, strlen(text));
    if (r < 0)
        return err_set(err, -r, "%s: %s", tmp, strerror(-r));
    if (sync_fd(fd) < 0)
        return err_errno(err, "%s: fsync", tmp);
    if (renameat2(dir, tmp, dir, name, RENAME_NOREPLACE) < 0) {
        /* Not every file system knows the flag (NFS); link(2) refuses to replace everywhere. */
        if (errno != EINVAL && errno != ENOSYS)
            return err_errno(err, "%s", name);
        if (linkat(dir, tmp, dir, name, 0) < 0)
            return err_errno(err, "%s", name);
        unlinkat(dir, tmp, 0);
    }
    if (sync_fd(dir) < 0) {
        err_errno(err, "fsync of the directory");
        unlinkat(dir, name, 0);
        return -err->code;
    }
    return 0;
}

int manifest_write(const struct manifest *m, const char *path, struct err *err)
{
    _cleanup_free_ char *text = manifest_format(m), *for_dir = strdup(path), *for_name = strdup(path),
                        *tmp = NULL;
    _cleanup_close_ int dir = -1;
    const char *name;
    int r;

    if (!text || !for_dir || !for_name)
        return err_set(err, ENOMEM, "out of memory");
    name = basename(for_name);
    tmp = format(".%s.%d.tmp", name, (int)getpid());
    if (!tmp)
        return err_set(err, ENOMEM, "out of memory");
    dir = open(dirname(for_dir), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0)
        return err_errno(err, "%s", for_dir);
    unlinkat(dir, tmp, 0); /* of a writer with our pid that died long ago */
    r = write_then_link(dir, tmp, name, text, err);
    if (r < 0) {
        unlinkat(dir, tmp, 0);
        return r;
    }
    return 0;
}

static int newer(const struct manifest *a, const struct manifest *b)
{
    return !b || a->time > b->time || (a->time == b->time && a->generation > b->generation);
}

int manifest_newest(const char *dir, char **path, struct err *err)
{
    DIR *d = opendir(dir);
    struct manifest *best = NULL;
    struct dirent *entry;

    if (!d)
        return err_errno(err, "%s", dir);
    *path = NULL;
    while ((entry = readdir(d))) {
        struct manifest *m = NULL;
        struct err ignored = {0};
        char *candidate;
        if (strncmp(entry->d_name, MANIFEST_PREFIX, strlen(MANIFEST_PREFIX)) != 0)
            continue;
        candidate = format("%s/%s", dir, entry->d_name);
        if (!candidate || manifest_read(candidate, &m, &ignored) < 0 || !newer(m, best)) {
            free(candidate);
            manifest_free(m);
            continue;
        }
        free(*path);
        *path = candidate;
        manifest_free(best);
        best = m;
    }
    closedir(d);
    manifest_free(best);
    return *path ? 0 : err_set(err, ENOENT, "%s: no manifest of a complete checkpoint in it", dir);
}
