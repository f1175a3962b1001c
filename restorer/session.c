/*
 * In which order the processes of a tree are made, so that each comes out with the parent, session and shared
 * pages that it had. The kernel gives a process the session of who forks it, and lets it leave
 * that only for one of its own (setsid(2)); so
 *
 *  - a child whose session is not its parent's own was forked before the parent called setsid, and is here too;
 *  - a process whose parent has died was adopted by an ancestor or by init. It is forked by a helper, made
 *    where the session is the right one, which ends at once;
 *  - a session whose leader has died gets a helper with the leader's pid;
 *  - a child that still shares pages with its parent is forked after the parent's memory stands, the others before,
 *    when there is nothing to copy.
 *
 * The result is a list of steps. Nothing here talks to the kernel.
 */
#include <errno.h>
#include <string.h>

#include "base/util.h"
#include "restorer/core.h"

#define ANY    (-1) /* session to be born in: whatever */
#define DRIVER SIZE_MAX

struct node {
    pid_t birth;    /* session that it must be born in, or ANY */
    size_t parent;  /* index, DRIVER: outside the tree */
    bool adopted;   /* not forked by its parent */
    bool has_base;
    size_t base;    /* adopted: where its helper is forked */
    size_t first_child, next_child;     /* lists end with DRIVER */
    size_t first_adopted, next_adopted; /* adopted ones whose base this is */
};

struct ctx {
    const struct restore *r;
    struct node *node;
    struct steps *s;
    pid_t outside;
    size_t driver_adopted;
    struct err *err;
};

static const struct rproc *proc_of(const struct ctx *c, size_t i)
{
    return &c->r->procs[i];
}

static size_t index_of(const struct ctx *c, const struct rproc *p)
{
    return p ? (size_t)(p - c->r->procs) : DRIVER;
}

static pid_t sid(const struct ctx *c, size_t i)
{
    return i == DRIVER ? c->outside : proc_of(c, i)->process->sid;
}

static bool leads(const struct ctx *c, size_t i)
{
    return i != DRIVER && proc_of(c, i)->process->sid == proc_of(c, i)->pid;
}

pid_t outside_session(const struct restore *r)
{
    for (size_t i = 0; i < r->nprocs; i++)
        if (!r->procs[i].parent && r->procs[i].process->is_root && !restore_proc(r, r->procs[i].process->sid))
            return r->procs[i].process->sid;
    return 0;
}

pid_t outside_group(const struct restore *r)
{
    for (size_t i = 0; i < r->nprocs; i++)
        if (!r->procs[i].parent && r->procs[i].process->is_root && !restore_proc(r, r->procs[i].process->pgid))
            return r->procs[i].process->pgid;
    return 0;
}

/* --- who is forked by whom --- */

/* Parents after their children. */
static int order(struct ctx *c, size_t *list)
{
    size_t n = c->r->nprocs, done = 0;
    _cleanup_free_ size_t *left = calloc(n + 1, sizeof(*left));

    if (!left)
        return err_set(c->err, ENOMEM, "out of memory");
    for (size_t i = 0; i < n; i++)
        if (c->node[i].parent != DRIVER)
            left[c->node[i].parent]++;
    for (size_t i = 0; i < n; i++)
        if (!left[i])
            list[done++] = i;
    for (size_t k = 0; k < done; k++) {
        size_t parent = c->node[list[k]].parent;
        if (parent != DRIVER && --left[parent] == 0)
            list[done++] = parent;
    }
    return 0;
}

/* Can the parent fork it itself? Perhaps if the parent is then born in that session too. */
static void settle(struct ctx *c, size_t i)
{
    struct node *n = &c->node[i];

    if (n->parent == DRIVER) {
        n->adopted = !proc_of(c, i)->process->is_root || (n->birth != ANY && n->birth != c->outside);
        return;
    }
    if (n->birth == ANY || n->birth == sid(c, n->parent))
        return;
    struct node *parent = &c->node[n->parent];
    if (leads(c, n->parent) && (parent->birth == ANY || parent->birth == n->birth))
        parent->birth = n->birth;
    else
        n->adopted = true;
}

/* Is `i` in the tree below `from`? Everybody, the driver too, is below the driver. */
static bool descends(const struct ctx *c, size_t i, size_t from)
{
    if (from == DRIVER)
        return true;
    for (; i != DRIVER; i = c->node[i].parent)
        if (i == from)
            return true;
    return false;
}

/* The base that another process of the same dead session has got: the session can be made only once. */
static size_t shared_base(const struct ctx *c, size_t i)
{
    pid_t birth = c->node[i].birth;

    if (birth == ANY || birth == c->outside || restore_proc(c->r, birth))
        return i;
    for (size_t k = 0; k < c->r->nprocs; k++)
        if (c->node[k].has_base && c->node[k].birth == birth)
            return c->node[k].base;
    return i;
}

/*
 * An adopted process's helper is forked by somebody below who adopts it, in the right session or where a new
 * one is made. Best by the one with whom it shares pages.
 */
static int choose_base(struct ctx *c, size_t i)
{
    struct node *n = &c->node[i];
    const struct rproc *p = proc_of(c, i);
    size_t source = index_of(c, mm_source(c->r, p));
    size_t leader = n->birth == ANY ? DRIVER : index_of(c, restore_proc(c->r, n->birth));
    bool made = n->birth == ANY || (leader == DRIVER && n->birth != c->outside);
    const size_t wish[] = {shared_base(c, i), source, leader, n->parent, DRIVER};

    for (size_t k = 0; k < ARRAY_SIZE(wish); k++) {
        size_t b = wish[k];
        if (b == i || (b == DRIVER && k > 0 && k < 4) || !descends(c, b, n->parent))
            continue;
        if (!made && sid(c, b) != n->birth)
            continue;
        if (b != DRIVER && descends(c, b, i))
            continue;
        n->base = b;
        n->has_base = true;
        return 0;
    }
    return err_set(c->err, ENOTSUP, "%s: process %d is in a session (%d) that its parent %d cannot give it", p->path,
                   p->pid, p->process->sid, p->process->ppid);
}

static int link_all(struct ctx *c)
{
    size_t n = c->r->nprocs;
    _cleanup_free_ size_t *list = calloc(n + 1, sizeof(*list));

    if (!list)
        return err_set(c->err, ENOMEM, "out of memory");
    for (size_t i = 0; i < n; i++) {
        const struct rproc *p = proc_of(c, i);
        c->node[i] = (struct node){.birth = leads(c, i) ? ANY : p->process->sid, .parent = index_of(c, p->parent),
                                   .first_child = DRIVER, .next_child = DRIVER, .first_adopted = DRIVER,
                                   .next_adopted = DRIVER, .base = DRIVER};
    }
    if (order(c, list) < 0)
        return -c->err->code;
    for (size_t k = 0; k < n; k++)
        settle(c, list[k]);
    /* Those that share pages first: they have a wish. */
    for (int pass = 0; pass < 2; pass++)
        for (size_t i = 0; i < n; i++)
            if (c->node[i].adopted && !c->node[i].has_base && (pass || mm_source(c->r, proc_of(c, i))) &&
                choose_base(c, i) < 0)
                return -c->err->code;
    for (size_t i = n; i-- > 0;) {
        struct node *node = &c->node[i];
        if (node->adopted) {
            size_t *head = node->base == DRIVER ? &c->driver_adopted : &c->node[node->base].first_adopted;
            node->next_adopted = *head;
            *head = i;
        } else if (node->parent != DRIVER) {
            node->next_child = c->node[node->parent].first_child;
            c->node[node->parent].first_child = i;
        }
    }
    return 0;
}

/* --- steps --- */

static int add(struct ctx *c, enum step_kind kind, size_t proc, size_t from)
{
    struct steps *s = c->s;
    struct step *more = grow(s->step, s->n, &s->cap, sizeof(*s->step));

    if (!more)
        return err_set(c->err, ENOMEM, "out of memory");
    s->step = more;
    s->step[s->n++] = (struct step){kind, proc, from};
    return 0;
}

static int add_helper(struct ctx *c, pid_t pid, size_t *actor)
{
    struct steps *s = c->s;
    struct actor *more = grow(s->actor, s->n_actors, &s->cap_actors, sizeof(*s->actor));

    if (!more)
        return err_set(c->err, ENOMEM, "out of memory");
    s->actor = more;
    *actor = s->n_actors++;
    s->actor[*actor] = (struct actor){.pid = pid, .helper = true};
    return 0;
}

static int emit(struct ctx *c, size_t i);

static bool is_early(const struct ctx *c, size_t parent, size_t child)
{
    return leads(c, parent) && c->node[child].birth != ANY && c->node[child].birth != sid(c, parent);
}

static bool inherits(const struct ctx *c, size_t parent, size_t child)
{
    const struct rproc *from = mm_source(c->r, proc_of(c, child));

    return from && from->mm == proc_of(c, parent)->mm;
}

/* The children that are early (or not) and inherit (or not). *n, if given, only counts them. */
static int emit_children(struct ctx *c, size_t i, bool early, bool inheriting, size_t *n)
{
    for (size_t k = c->node[i].first_child; k != DRIVER; k = c->node[k].next_child) {
        if (is_early(c, i, k) != early || inherits(c, i, k) != inheriting)
            continue;
        if (n)
            (*n)++;
        else if (add(c, STEP_FORK, k, i) < 0 || emit(c, k) < 0)
            return -c->err->code;
    }
    return 0;
}

static bool dead_session(const struct ctx *c, size_t i)
{
    pid_t birth = c->node[i].birth;

    return birth != ANY && birth != c->outside && !restore_proc(c->r, birth);
}

/*
 * The helper of adopted process i and the process. All that are adopted from the same base into the same dead
 * session share one helper, which is its leader.
 */
static int emit_helper(struct ctx *c, size_t base, size_t i, bool *done)
{
    bool dead = dead_session(c, i);
    size_t helper = 0, parent = c->node[i].parent;

    if (add_helper(c, dead ? c->node[i].birth : 0, &helper) < 0 ||
        add(c, base == DRIVER ? STEP_SPAWN : STEP_FORK, helper, base) < 0 ||
        (dead && add(c, STEP_SETSID, helper, DRIVER) < 0))
        return -c->err->code;
    for (size_t k = i; k != DRIVER; k = c->node[k].next_adopted) {
        if (done[k] || (k != i && (!dead || c->node[k].birth != c->node[i].birth)))
            continue;
        done[k] = true;
        if (add(c, STEP_FORK, k, helper) < 0 || emit(c, k) < 0)
            return -c->err->code;
    }
    if (parent != DRIVER && add(c, STEP_ADOPTS, parent, DRIVER) < 0)
        return -c->err->code;
    return add(c, STEP_EXIT, helper, base);
}

static int emit_adopted(struct ctx *c, size_t base, size_t first)
{
    _cleanup_free_ bool *done = first == DRIVER ? NULL : calloc(c->r->nprocs, sizeof(*done));

    if (first != DRIVER && !done)
        return err_set(c->err, ENOMEM, "out of memory");
    for (size_t i = first; i != DRIVER; i = c->node[i].next_adopted)
        if (!done[i] && emit_helper(c, base, i, done) < 0)
            return -c->err->code;
    return 0;
}

/* Does it have memory of its own to build? */
static bool builds(const struct ctx *c, size_t i)
{
    const struct rproc *p = proc_of(c, i);

    return p->mm && !(p->parent && p->parent->mm == p->mm);
}

static int emit(struct ctx *c, size_t i)
{
    bool to_build = builds(c, i);
    size_t n = 0;

    if (emit_children(c, i, true, false, NULL) < 0 || emit_children(c, i, true, true, &n) < 0)
        return -c->err->code;
    if (n && to_build) {
        if (add(c, STEP_BUILD, i, DRIVER) < 0)
            return -c->err->code;
        to_build = false;
    }
    if (emit_children(c, i, true, true, NULL) < 0 || (leads(c, i) && add(c, STEP_SETSID, i, DRIVER) < 0) ||
        emit_children(c, i, false, false, NULL) < 0)
        return -c->err->code;
    if (to_build && add(c, STEP_BUILD, i, DRIVER) < 0)
        return -c->err->code;
    if (emit_children(c, i, false, true, NULL) < 0)
        return -c->err->code;
    return emit_adopted(c, i, c->node[i].first_adopted);
}

int plan_steps(const struct restore *r, struct steps *s, struct err *err)
{
    struct ctx c = {.r = r, .s = s, .outside = outside_session(r), .driver_adopted = DRIVER, .err = err};

    *s = (struct steps){0};
    err->code = 0;
    c.node = calloc(r->nprocs + 1, sizeof(*c.node));
    if (!c.node)
        return err_set(err, ENOMEM, "out of memory");
    for (size_t i = 0; i < r->nprocs && err->code == 0; i++) {
        size_t unused;
        if (add_helper(&c, r->procs[i].pid, &unused) == 0)
            s->actor[i].helper = false;
    }
    if (err->code == 0 && link_all(&c) == 0) {
        for (size_t i = 0; i < r->nprocs && err->code == 0; i++)
            if (c.node[i].parent == DRIVER && !c.node[i].adopted && add(&c, STEP_SPAWN, i, DRIVER) == 0)
                emit(&c, i);
        if (err->code == 0)
            emit_adopted(&c, DRIVER, c.driver_adopted);
    }
    free(c.node);
    return -err->code;
}

void steps_free(struct steps *s)
{
    free(s->step);
    free(s->actor);
    *s = (struct steps){0};
}
