/*
 * Reads /proc/self/smaps (see maps.h). The file is read piecewise with a static buffer, because a
 * program that allocates while it looks at its own map changes what it sees.
 */
#include "tests/programs/maps.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tests/programs/check.h"

struct reader {
    int fd;
    size_t have, at;
    char buf[8192];
};

struct entry {
    unsigned long start, end, offset;
    char perms[5], name[400], flags[200];
};

/* The next line of the file, without its newline; NULL at the end. */
static char *next_line(struct reader *r)
{
    for (;;) {
        char *line = r->buf + r->at, *nl = memchr(line, '\n', r->have - r->at);
        ssize_t n;

        if (nl) {
            *nl = 0;
            r->at = (size_t)(nl + 1 - r->buf);
            return line;
        }
        memmove(r->buf, line, r->have - r->at);
        r->have -= r->at;
        r->at = 0;
        n = read(r->fd, r->buf + r->have, sizeof(r->buf) - r->have);
        if (n <= 0)
            return NULL;
        r->have += (size_t)n;
    }
}

static bool parse_head(const char *line, struct entry *e)
{
    int name = 0;

    if (sscanf(line, "%lx-%lx %4s %lx %*s %*s %n", &e->start, &e->end, e->perms, &e->offset, &name) < 4)
        return false;
    snprintf(e->name, sizeof(e->name), "%s", line + name);
    e->flags[0] = 0;
    return true;
}

/* Only the flags that a program can notice; what else there is depends on how a mapping came to be. */
static void keep_flags(const char *all, char *kept, size_t size)
{
    static const char noticed[] = " rd wr ex sh mr mw me ms gd lo sr rr dc wf dd hg nh mg ht dp ";
    size_t len = 0;

    kept[0] = 0;
    for (; *all; all += strspn(all, " ")) {
        char key[8] = "";

        if (sscanf(all, "%7s", key) != 1)
            break;
        all += strlen(key);
        snprintf(key, sizeof(key), " %.2s ", all - strlen(key));
        if (strstr(noticed, key) && len + 4 < size)
            len += (size_t)snprintf(kept + len, size - len, "%.3s", key + 1);
    }
}

static void plain_name(struct entry *e)
{
    size_t len = strlen(e->name);

    /* Shared anonymous memory, restarted by a user who may not follow /proc/PID/map_files. */
    if (!strcmp(e->name, "/memfd:/dev/zero (deleted)"))
        snprintf(e->name, sizeof(e->name), "(deleted)");
    if (len > 10 && !strcmp(e->name + len - 10, " (deleted)"))
        snprintf(e->name, sizeof(e->name), "(deleted)");
}

static bool joins(const struct entry *a, const struct entry *b)
{
    bool file = b->name[0] == '/' || b->name[0] == '(';

    return a->end == b->start && !strcmp(a->perms, b->perms) && !strcmp(a->name, b->name) &&
           !strcmp(a->flags, b->flags) && (!file || a->offset + (a->end - a->start) == b->offset);
}

static size_t print_entry(char *text, size_t size, const struct entry *e)
{
    int n = snprintf(text, size, "%lx-%lx %s %lx %s %s\n", e->start, e->end, e->perms, e->offset, e->name, e->flags);

    return (size_t)n < size ? (size_t)n : size - 1;
}

void maps_snapshot(char *text, size_t size)
{
    struct reader r = {.fd = (int)MUST(open("/proc/self/smaps", O_RDONLY | O_CLOEXEC))};
    struct entry last = {0}, e = {0};
    size_t len = 0;
    char *line;

    text[0] = 0;
    while ((line = next_line(&r))) {
        if (parse_head(line, &e)) {
            plain_name(&e);
        } else if (!strncmp(line, "VmFlags:", 8)) {
            keep_flags(line + 8, e.flags, sizeof(e.flags));
            if (last.end && joins(&last, &e)) {
                last.end = e.end;
                continue;
            }
            if (last.end)
                len += print_entry(text + len, size - len, &last);
            last = e;
        }
    }
    print_entry(text + len, size - len, &last);
    close(r.fd);
}

void maps_compare(const char *before, const char *what)
{
    static char after[MAPS_SIZE];

    maps_snapshot(after, sizeof(after));
    check_text(before, after, what);
}

/* Find "Field:" in the entry of addr and copy what follows it. */
static bool find_field(const char *path, const void *addr, const char *field, char *value, size_t size)
{
    struct reader r = {.fd = (int)MUST(open(path, O_RDONLY | O_CLOEXEC))};
    size_t fieldlen = strlen(field);
    bool inside = addr == NULL, found = false;
    struct entry e;
    char *line;

    while (!found && (line = next_line(&r))) {
        if (addr && parse_head(line, &e))
            inside = (unsigned long)addr >= e.start && (unsigned long)addr < e.end;
        else if (inside && !strncmp(line, field, fieldlen) && line[fieldlen] == ':') {
            snprintf(value, size, "%s ", line + fieldlen + 1);
            found = true;
        }
    }
    close(r.fd);
    return found;
}

bool maps_has_flag(const void *addr, const char *flag)
{
    char flags[300], key[16];

    if (!find_field("/proc/self/smaps", addr, "VmFlags", flags, sizeof(flags)))
        return false;
    snprintf(key, sizeof(key), " %s ", flag);
    return strstr(flags, key) != NULL;
}

long maps_kib(const void *addr, const char *field)
{
    char value[300];
    long kib = -1;

    if (find_field("/proc/self/smaps", addr, field, value, sizeof(value)) && sscanf(value, "%ld", &kib) != 1)
        kib = -1;
    return kib;
}

long maps_rollup_kib(const char *field)
{
    char value[300];
    long kib = -1;

    if (find_field("/proc/self/smaps_rollup", NULL, field, value, sizeof(value)) && sscanf(value, "%ld", &kib) != 1)
        kib = -1;
    return kib;
}
