/* Parsers of /proc texts: see procfs.h. */
#include "tracer/procfs.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"

int parse_stat(const char *text, size_t len, struct proc_stat *s, struct err *err)
{
    const char *open = memchr(text, '(', len), *close = memrchr(text, ')', len);
    uint64_t f[52] = {0};
    size_t n = 0;

    memset(s, 0, sizeof(*s));
    if (!open || !close || close < open || (size_t)(close - text) + 4 > len)
        return err_set(err, EINVAL, "stat: not of the expected form");
    s->pid = (pid_t)strtol(text, NULL, 10);
    size_t clen = (size_t)(close - open - 1);
    if (clen >= sizeof(s->comm))
        clen = sizeof(s->comm) - 1;
    memcpy(s->comm, open + 1, clen);
    s->state = close[2];
    for (const char *p = close + 3; n < ARRAY_SIZE(f) && *p;) {
        char *end;
        f[n] = (uint64_t)strtoll(p, &end, 10);
        if (p[0] == ' ' && p[1] != '-' && isdigit((unsigned char)p[1]))
            f[n] = strtoull(p, &end, 10);
        if (end == p)
            break;
        n++;
        p = end;
    }
    if (n < 19)
        return err_set(err, EINVAL, "stat: too few fields");
    /* f[0] is field 4 of proc(5), ppid. */
    s->ppid = (pid_t)f[0];
    s->pgrp = (pid_t)f[1];
    s->sid = (pid_t)f[2];
    s->tty = (uint32_t)f[3];
    s->tpgid = (pid_t)f[4];
    s->flags = (uint32_t)f[5];
    s->starttime = f[18];
    s->start_code = f[22];
    s->end_code = f[23];
    s->start_stack = f[24];
    s->exit_signal = (uint32_t)f[34];
    s->cpu = (uint32_t)f[35];
    s->start_data = f[41];
    s->end_data = f[42];
    s->start_brk = f[43];
    s->arg_start = f[44];
    s->arg_end = f[45];
    s->env_start = f[46];
    s->env_end = f[47];
    s->exit_code = (uint32_t)f[48];
    return 0;
}

int read_stat(pid_t pid, struct proc_stat *s, struct err *err)
{
    _cleanup_free_ char *text = NULL;
    size_t len;

    if (read_proc(&text, &len, err, "%d/stat", pid) < 0)
        return -err->code;
    return parse_stat(text, len, s, err);
}

int read_task_stat(pid_t pid, pid_t tid, struct proc_stat *s, struct err *err)
{
    _cleanup_free_ char *text = NULL;
    size_t len;

    if (read_proc(&text, &len, err, "%d/task/%d/stat", pid, tid) < 0)
        return -err->code;
    return parse_stat(text, len, s, err);
}

static const char *field(const char *text, const char *name)
{
    size_t n = strlen(name);

    for (const char *p = text; p; p = strchr(p, '\n') ? strchr(p, '\n') + 1 : NULL)
        if (!strncmp(p, name, n) && p[n] == ':')
            return p + n + 1;
    return NULL;
}

static uint64_t number(const char *text, const char *name, int base)
{
    const char *p = field(text, name);

    return p ? strtoull(p, NULL, base) : 0;
}

static void four(const char *text, const char *name, uint32_t out[4])
{
    const char *p = field(text, name);
    char *end;

    for (int i = 0; p && i < 4; i++, p = end)
        out[i] = (uint32_t)strtoul(p, &end, 10);
}

int parse_status(const char *text, struct proc_status *s, struct err *err)
{
    const char *p = field(text, "Groups");
    size_t cap = 0;

    memset(s, 0, sizeof(*s));
    if (!field(text, "Uid") || !field(text, "SigBlk"))
        return err_set(err, EINVAL, "status: not of the expected form");
    s->umask = (uint32_t)number(text, "Umask", 8);
    s->tgid = (pid_t)number(text, "Tgid", 10);
    s->tracer = (pid_t)number(text, "TracerPid", 10);
    four(text, "Uid", s->uids);
    four(text, "Gid", s->gids);
    while (p && *p && *p != '\n') {
        char *end;
        unsigned long g = strtoul(p, &end, 10);
        if (end == p || memchr(p, '\n', (size_t)(end - p)))
            break;
        uint32_t *more = grow(s->groups, s->ngroups, &cap, sizeof(*s->groups));
        if (!more)
            return err_set(err, ENOMEM, "out of memory");
        s->groups = more;
        s->groups[s->ngroups++] = (uint32_t)g;
        p = end;
    }
    s->sig_pending = number(text, "SigPnd", 16);
    s->shared_pending = number(text, "ShdPnd", 16);
    s->sig_blocked = number(text, "SigBlk", 16);
    s->sig_ignored = number(text, "SigIgn", 16);
    s->sig_caught = number(text, "SigCgt", 16);
    s->cap_inh = number(text, "CapInh", 16);
    s->cap_prm = number(text, "CapPrm", 16);
    s->cap_eff = number(text, "CapEff", 16);
    s->cap_bnd = number(text, "CapBnd", 16);
    s->cap_amb = number(text, "CapAmb", 16);
    s->no_new_privs = number(text, "NoNewPrivs", 10) != 0;
    s->seccomp = (uint32_t)number(text, "Seccomp", 10);
    s->seccomp_filters = (uint32_t)number(text, "Seccomp_filters", 10);
    s->threads = (uint32_t)number(text, "Threads", 10);
    s->thp_enabled = !field(text, "THP_enabled") || number(text, "THP_enabled", 10);
    return 0;
}

int read_status(pid_t pid, pid_t tid, struct proc_status *s, struct err *err)
{
    _cleanup_free_ char *text = NULL;

    if (read_proc(&text, NULL, err, "%d/task/%d/status", pid, tid) < 0)
        return -err->code;
    return parse_status(text, s, err);
}

void proc_status_free(struct proc_status *s)
{
    free(s->groups);
    s->groups = NULL;
}

bool has_other_threads(pid_t pid)
{
    struct proc_status st;
    struct err ignored;

    if (read_status(pid, pid, &st, &ignored) < 0)
        return false;
    proc_status_free(&st);
    return st.tgid == pid && st.threads > 1; /* the number of a thread is found in /proc, too */
}

/* 'X' also when there is none any more. */
static char state_of(pid_t pid, uint64_t start)
{
    struct proc_stat s;
    struct err ignored;

    return read_stat(pid, &s, &ignored) < 0 || s.starttime != start ? 'X' : s.state;
}

bool is_dead(pid_t pid, uint64_t start)
{
    char state = state_of(pid, start);

    if (state == 'Z') {
        if (has_other_threads(pid))
            return false;
        state = state_of(pid, start); /* another thread may have taken its place before they were counted */
    }
    return state == 'Z' || state == 'X';
}

/* The kernel writes a newline in a name as \012 (seq_path's escapes). */
static char *unescape(const char *s, size_t n)
{
    char *out = malloc(n + 1), *o = out;

    for (size_t i = 0; out && i < n; i++) {
        if (i + 3 < n && s[i] == '\\' && s[i + 1] == '0' && s[i + 2] == '1' && s[i + 3] == '2') {
            *o++ = '\n';
            i += 3;
        } else {
            *o++ = s[i];
        }
    }
    if (out)
        *o = '\0';
    return out;
}

static bool parse_map_line(const char *line, size_t len, struct map *m)
{
    int at = 0;

    memset(m, 0, sizeof(*m));
    if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %" SCNx64 " %x:%x %" SCNu64 "%n", &m->start, &m->end, m->perms,
               &m->offset, &m->major, &m->minor, &m->ino, &at) != 7)
        return false;
    if (m->start >= m->end || strlen(m->perms) != 4 || (size_t)at > len)
        return false;
    while ((size_t)at < len && line[at] == ' ')
        at++;
    m->name = unescape(line + at, len - (size_t)at);
    m->page_size = 4096;
    return m->name != NULL;
}

static void smaps_detail(const char *line, size_t len, struct map *m)
{
    if (!strncmp(line, "VmFlags: ", 9)) {
        size_t n = len - 9 < sizeof(m->flags) - 1 ? len - 9 : sizeof(m->flags) - 1;
        memcpy(m->flags, line + 9, n);
        m->flags[n] = '\0';
    } else if (!strncmp(line, "KernelPageSize:", 15)) {
        m->page_size = strtoull(line + 15, NULL, 10) * 1024;
    } else if (!strncmp(line, "Rss:", 4)) {
        m->rss = strtoull(line + 4, NULL, 10) * 1024;
    } else if (!strncmp(line, "Locked:", 7)) {
        m->locked = strtoull(line + 7, NULL, 10) * 1024;
    }
}

int parse_smaps(char *text, struct map **maps, size_t *n, struct err *err)
{
    size_t cap = 0;

    *maps = NULL;
    *n = 0;
    for (char *line = text, *next; *line; line = next) {
        char *eol = strchrnul(line, '\n');
        next = *eol ? eol + 1 : eol;
        *eol = '\0';
        if (isupper((unsigned char)line[0])) {
            if (*n)
                smaps_detail(line, (size_t)(eol - line), &(*maps)[*n - 1]);
            continue;
        }
        struct map *more = grow(*maps, *n, &cap, sizeof(**maps));
        if (more)
            *maps = more;
        if (!more || !parse_map_line(line, (size_t)(eol - line), &(*maps)[*n])) {
            maps_free(*maps, *n);
            *maps = NULL;
            *n = 0;
            return err_set(err, EINVAL, "smaps: a line is not of the expected form");
        }
        (*n)++;
    }
    return 0;
}

int read_maps(pid_t pid, struct map **maps, size_t *n, struct err *err)
{
    _cleanup_free_ char *text = NULL;

    if (read_proc(&text, NULL, err, "%d/smaps", pid) < 0)
        return -err->code;
    return parse_smaps(text, maps, n, err);
}

void maps_free(struct map *maps, size_t n)
{
    for (size_t i = 0; i < n; i++)
        free(maps[i].name);
    free(maps);
}

static int by_number(const void *a, const void *b)
{
    return *(const int *)a < *(const int *)b ? -1 : *(const int *)a > *(const int *)b;
}

int list_numbers(const char *dir, int **out, size_t *n, struct err *err)
{
    size_t cap = 0;
    struct dirent *e;
    DIR *d = opendir(dir);

    *out = NULL;
    *n = 0;
    if (!d)
        return err_errno(err, "%s", dir);
    while ((e = readdir(d))) {
        if (!isdigit((unsigned char)e->d_name[0]))
            continue;
        int *more = grow(*out, *n, &cap, sizeof(**out));
        if (!more) {
            closedir(d);
            free(*out);
            *out = NULL;
            return err_set(err, ENOMEM, "out of memory");
        }
        *out = more;
        more[(*n)++] = atoi(e->d_name);
    }
    closedir(d);
    if (*n)
        qsort(*out, *n, sizeof(**out), by_number);
    return 0;
}
