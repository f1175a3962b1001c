/*
 * Locks on files. The kernel tells them in fdinfo, in the format of /proc/locks (fs/locks.c: show_fd_locks),
 * and there only those of the description asked about and, for POSIX locks, of the descriptor table asked
 * about. So each lock is found where it belongs, without guessing owners from pids.
 */
#include "tracer/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "base/util.h"
#include "image/lock.h"

struct lock_line {
    char class[12], mode[12], type[12]; /* POSIX ADVISORY WRITE; LEASE BREAKING READ */
    uint64_t start;
    int64_t len; /* 0: to the end of the file */
};

static bool parse(const char *line, struct lock_line *l)
{
    char end[24];
    unsigned long long start;

    /* lock:  1: POSIX  ADVISORY  WRITE 4321 00:2d:1234 0 EOF */
    if (sscanf(line, "lock: %*d: %11s %11s %11s %*d %*x:%*x:%*u %llu %23s", l->class, l->mode, l->type,
               &start, end) != 5)
        return false;
    l->start = start;
    l->len = !strcmp(end, "EOF") ? 0 : (int64_t)(strtoull(end, NULL, 10) - start + 1);
    return true;
}

static int lock_type(const char *word)
{
    return !strcmp(word, "READ") ? F_RDLCK : !strcmp(word, "WRITE") ? F_WRLCK : F_UNLCK;
}

static void add_posix(struct ckpt *c, const struct lock_line *l, uint64_t ofd, FdTable *table)
{
    uint32_t type = (uint32_t)lock_type(l->type);

    for (size_t i = 0; i < table->n_locks; i++) {
        const PosixLock *m = table->locks[i];
        if (m->ofd == ofd && m->type == type && m->start == l->start && m->len == l->len)
            return;
    }
    PosixLock *m = arena_alloc(c->arena, sizeof(*m));
    posix_lock__init(m);
    m->ofd = ofd;
    m->type = type;
    m->start = l->start;
    m->len = l->len;
    arena_push(c->arena, (void ***)&table->locks, &table->n_locks, m);
}

static void add_ofd(struct ckpt *c, const struct lock_line *l, uint32_t kind, bool breaking, uint32_t type,
                    Ofd *d)
{
    for (size_t i = 0; i < d->n_locks; i++) {
        const FileLock *m = d->locks[i];
        if (m->kind == kind && m->type == type && m->start == l->start && m->len == l->len)
            return;
    }
    FileLock *m = arena_alloc(c->arena, sizeof(*m));
    file_lock__init(m);
    m->kind = kind;
    m->type = type;
    m->start = l->start;
    m->len = l->len;
    if (breaking) {
        m->breaking = true;
        m->breaking_to = (uint32_t)lock_type(l->type);
    }
    arena_push(c->arena, (void ***)&d->locks, &d->n_locks, m);
}

/*
 * While a lease is being broken the kernel shows what it is to become, not what it is (target_leasetype()).
 * To a read lease only a write lease is broken; a lease that is to go was a write lease unless the file is
 * open for reading only, where a write lease is possible but a read lease what programs ask for.
 */
static uint32_t broken_lease_type(const struct lock_line *l, uint32_t open_flags)
{
    if (lock_type(l->type) == F_RDLCK || (open_flags & O_ACCMODE) != O_RDONLY)
        return F_WRLCK;
    return F_RDLCK;
}

static int add(struct ckpt *c, const struct fd_info *fi, const struct lock_line *l, struct ofd *d,
               FdTable *table, struct err *err)
{
    bool breaking = !strcmp(l->mode, "BREAKING");

    if (!strcmp(l->class, "POSIX"))
        add_posix(c, l, d->msg->id, table);
    else if (!strcmp(l->class, "FLOCK"))
        add_ofd(c, l, FILE_LOCK_FLOCK, false, (uint32_t)lock_type(l->type), d->msg);
    else if (!strcmp(l->class, "OFDLCK"))
        add_ofd(c, l, FILE_LOCK_OFD, false, (uint32_t)lock_type(l->type), d->msg);
    else if (!strcmp(l->class, "LEASE"))
        add_ofd(c, l, FILE_LOCK_LEASE, breaking,
                breaking ? broken_lease_type(l, fi->flags) : (uint32_t)lock_type(l->type), d->msg);
    else
        return err_set(err, EOPNOTSUPP, "a lock of the unknown kind %s", l->class);
    return 0;
}

int collect_locks(struct ckpt *c, const struct fd_info *fi, struct ofd *d, FdTable *table, struct err *err)
{
    struct lock_line l;

    for (const char *line = fi->fdinfo; line && *line;
         line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
        if (strncmp(line, "lock:", 5))
            continue;
        if (!parse(line, &l))
            return err_set(err, EPROTO, "a lock that fdinfo describes unintelligibly");
        if (add(c, fi, &l, d, table, err) < 0)
            return -err->code;
    }
    return 0;
}
