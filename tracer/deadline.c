/* Deadlines of interrupted calls: see deadline.h. */
#include "tracer/deadline.h"

#include <string.h>

#include "base/util.h"

static void where(uint64_t to[6], const struct user_regs_struct *r)
{
    memcpy(to, (const uint64_t[6]){r->rip, r->rsp, r->rdi, r->rsi, r->rdx, r->r10}, 6 * sizeof(*to));
}

/* One of the same thread, or one that is over, makes room. */
static struct deadline *place(struct deadlines *d, pid_t tid)
{
    int64_t now = monotonic_ns();

    for (size_t i = 0; i < d->n; i++)
        if (d->list[i].tid == tid)
            return &d->list[i];
    for (size_t i = 0; i < d->n; i++)
        if (d->list[i].at_ns < now)
            return &d->list[i];
    struct deadline *more = grow(d->list, d->n, &d->cap, sizeof(*more));
    if (!more)
        return NULL;
    d->list = more;
    return &more[d->n++];
}

void deadline_add(struct deadlines *d, const struct deadline *one)
{
    struct deadline *to = place(d, one->tid);

    if (to)
        *to = *one;
}

void deadline_note(struct deadlines *d, pid_t tid, long nr, const struct user_regs_struct *r, int64_t ns)
{
    struct deadline one = {.tid = tid, .nr = (uint32_t)nr};

    if (ns < 0 || nr < 0 || __builtin_add_overflow(monotonic_ns(), ns, &one.at_ns))
        return;
    where(one.where, r);
    deadline_add(d, &one);
}

bool deadline_find(const struct deadlines *d, pid_t tid, const struct user_regs_struct *r, long *nr, int64_t *ns)
{
    uint64_t here[6];

    where(here, r);
    for (size_t i = 0; i < d->n; i++) {
        const struct deadline *one = &d->list[i];
        if (one->tid != tid || memcmp(one->where, here, sizeof(here)) != 0)
            continue;
        *nr = one->nr;
        *ns = one->at_ns - monotonic_ns();
        return *ns >= 0;
    }
    return false;
}

void deadlines_free(struct deadlines *d)
{
    free(d->list);
    *d = (struct deadlines){0};
}
