/* Membership by perf events: see follow.h. */
#include "tracer/follow.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/util.h"
#include "tracer/procfs.h"
#include "tracer/rings.h"

struct follow {
    struct member *members;
    size_t n, cap;
    pid_t *hidden;
    size_t nhidden, cap_hidden;
    struct rings *rings; /* NULL: perf events cannot be used */
    bool lost;
};

int follow_new(struct follow **out, struct err *err)
{
    struct follow *f = calloc(1, sizeof(*f));

    if (!f)
        return err_set(err, ENOMEM, "out of memory");
    if (rings_new(&f->rings, err) < 0) {
        free(f);
        return -err->code;
    }
    *out = f;
    return 0;
}

void follow_free(struct follow *f)
{
    if (!f)
        return;
    rings_free(f->rings);
    free(f->hidden);
    free(f->members);
    free(f);
}

bool follow_exact(const struct follow *f)
{
    return f->rings && !f->lost;
}

static struct member *find(struct follow *f, pid_t pid)
{
    for (size_t i = 0; i < f->n; i++)
        if (f->members[i].pid == pid)
            return &f->members[i];
    return NULL;
}

static uint64_t start_of(pid_t pid)
{
    struct proc_stat s;
    struct err ignored;

    return read_stat(pid, &s, &ignored) < 0 ? 0 : s.starttime;
}

/* With the start of whoever has the number now, unless it is in the list already. */
static struct member *add(struct follow *f, pid_t pid, uint64_t start)
{
    struct member *m = find(f, pid);

    if (m)
        return m;
    m = grow(f->members, f->n, &f->cap, sizeof(*m));
    if (!m)
        return NULL;
    f->members = m;
    m[f->n] = (struct member){.pid = pid, .start = start};
    return &m[f->n++];
}

int follow_add(struct follow *f, pid_t pid, bool is_root, struct err *err)
{
    _cleanup_free_ int *tids = NULL;
    char dir[40];
    size_t n;
    struct member *m;

    snprintf(dir, sizeof(dir), "/proc/%d/task", pid);
    if (list_numbers(dir, &tids, &n, err) < 0)
        return err_wrap(err, "process %d", pid);
    m = add(f, pid, 0);
    if (!m)
        return err_set(err, ENOMEM, "out of memory");
    m->start = start_of(pid); /* somebody who had the number before may be in the list still */
    m->threads = (int)n;
    m->is_root = m->is_root || is_root;
    int r = f->rings ? rings_watch(f->rings, pid, tids, n) : 0;
    if (r < 0) {
        log_note("perf events cannot be used (%s): descendants are found by walking /proc", strerror(-r));
        rings_free(f->rings);
        f->rings = NULL;
    }
    return 0;
}

void follow_remove(struct follow *f, pid_t pid)
{
    struct member *m = find(f, pid);

    if (m)
        *m = f->members[--f->n];
}

static bool is_hidden(const struct follow *f, pid_t pid)
{
    for (size_t i = 0; i < f->nhidden; i++)
        if (f->hidden[i] == pid)
            return true;
    return false;
}

/*
 * When it began whom records that were read just now speak of. It may have ended since, and its number be another process's or
 * a thread's: who is alive, has no threads by the records and was not known is a member only as the child of one. 0: it is none.
 */
static uint64_t start_by_records(struct follow *f, const struct member *m)
{
    struct proc_status st;
    struct proc_stat s;
    struct err ignored;

    if (read_stat(m->pid, &s, &ignored) < 0 || read_status(m->pid, m->pid, &st, &ignored) < 0)
        return 0;
    proc_status_free(&st);
    if (st.tgid != m->pid)
        return 0;
    if (m->threads > 0 || f->lost || s.starttime == m->start || s.state == 'Z' || s.state == 'X' || (s.flags & PF_EXITING) ||
        find(f, s.ppid))
        return s.starttime;
    return 0;
}

/* What the records say, to the members. */
static void take_changes(struct follow *f)
{
    size_t n;
    struct change *c = rings_take(f->rings, &n, &f->lost);

    for (size_t i = 0; i < n; i++) {
        struct member *m = f->nhidden && is_hidden(f, c[i].pid) ? NULL : add(f, c[i].pid, 0);
        if (!m)
            continue;
        m->threads += c[i].delta;
    }
    for (size_t i = 0; i < n; i++) {
        struct member *m = find(f, c[i].pid);
        if (m && (c[i].delta >= 0 || m->threads <= 0)) /* perhaps another one than the last with this pid */
            m->start = start_by_records(f, m);
    }
    free(c);
}

void follow_correct(struct follow *f, pid_t pid, int threads)
{
    struct member *m;

    if (f->rings)
        take_changes(f); /* who ended while it was frozen is not counted a second time later */
    m = find(f, pid);
    if (m && (!threads || !is_dead(pid, m->start))) /* killed since: the records are right */
        m->threads = threads;
}

void follow_found(struct follow *f, pid_t pid, int threads)
{
    struct member *m = find(f, pid);
    uint64_t start = start_of(pid);

    if ((m && (m->threads > 0 || m->start == start)) || !(m = add(f, pid, start)))
        return;
    m->start = start;
    if (!follow_exact(f) || !threads)
        m->threads = threads; /* else its record counts it */
}

int follow_hide(struct follow *f, pid_t pid, struct err *err)
{
    pid_t *more = grow(f->hidden, f->nhidden, &f->cap_hidden, sizeof(*more));

    if (!more)
        return err_set(err, ENOMEM, "out of memory");
    f->hidden = more;
    more[f->nhidden++] = pid;
    follow_remove(f, pid);
    return 0;
}

void follow_show(struct follow *f, pid_t pid)
{
    for (size_t i = f->nhidden; i-- > 0;)
        if (f->hidden[i] == pid)
            f->hidden[i] = f->hidden[--f->nhidden];
}

const pid_t *follow_hidden(const struct follow *f, size_t *n)
{
    *n = f->nhidden;
    return f->hidden;
}

/* For when records are missing. */
static bool lives(const struct member *m)
{
    return !is_dead(m->pid, m->start);
}

/* Everyone in /proc whose parent is a member, zombies too, until nothing new is found. */
static int walk(struct follow *f, struct err *err)
{
    bool found = true;

    while (found) {
        _cleanup_free_ int *pids = NULL;
        size_t n;

        found = false;
        if (list_numbers("/proc", &pids, &n, err) < 0)
            return -err->code;
        for (size_t i = 0; i < n; i++) {
            struct proc_stat s;
            struct err ignored;
            if (find(f, pids[i]) || is_hidden(f, pids[i]) || read_stat(pids[i], &s, &ignored) < 0 || !find(f, s.ppid))
                continue;
            struct member *m = add(f, pids[i], start_of(pids[i]));
            if (!m)
                return err_set(err, ENOMEM, "out of memory");
            m->threads = lives(m);
            found = true;
        }
    }
    return 0;
}

static bool is_gone(const struct member *m)
{
    uint64_t start = start_of(m->pid);

    return !start || start != m->start;
}

/* A pid that another process or a thread has got meanwhile is no member's. */
static void forget_gone(struct follow *f)
{
    for (size_t i = 0; i < f->n;)
        if (f->members[i].threads <= 0 && is_gone(&f->members[i]))
            f->members[i] = f->members[--f->n];
        else
            i++;
}

int follow_update(struct follow *f, struct err *err)
{
    if (f->rings)
        take_changes(f);
    if (!f->rings || f->lost) {
        for (size_t i = 0; i < f->n; i++)
            f->members[i].threads = lives(&f->members[i]);
        forget_gone(f);
        if (walk(f, err) < 0)
            return -err->code;
    }
    forget_gone(f);
    return 0;
}

const struct member *follow_members(const struct follow *f, size_t *n)
{
    *n = f->n;
    return f->members;
}

void follow_recount(struct follow *f)
{
    if (f->rings)
        take_changes(f); /* what is known already is not to be counted later */
    for (size_t i = 0; i < f->n; i++)
        f->members[i].threads = lives(&f->members[i]);
}

bool follow_alive(struct follow *f)
{
    for (size_t i = 0; i < f->n; i++)
        if (f->members[i].threads > 0)
            return true;
    return false;
}
