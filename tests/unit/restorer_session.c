/*
 * The order in which a tree is made: the steps are carried out by a model of what fork, setsid, exit and the
 * adoption of orphans do in the kernel, and everybody must come out with the parent and session of the image.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/util.h"
#include "restorer/core.h"

#define OUT    7      /* session of the terminal, outside the tree */
#define INIT   900001 /* stand for a parent outside the tree */
#define STANDIN 900002

struct spec {
    pid_t pid, ppid, sid;
    bool root;
    pid_t inherits;
};

struct world {
    struct restore r;
    Process process[32];
    Mm mm[32];
    PageRange range;
    PageRange *ranges[1];
    struct rproc procs[32];
};

struct model {
    pid_t pid, sid, parent;
    bool alive, adopts, built;
};

struct rproc *restore_proc(const struct restore *r, pid_t pid)
{
    for (size_t i = 0; i < r->nprocs; i++)
        if (r->procs[i].pid == pid)
            return &r->procs[i];
    return NULL;
}

struct rproc *mm_source(const struct restore *r, const struct rproc *p)
{
    return p->mm && p->mm->inherit_from ? restore_proc(r, p->mm->inherit_from) : NULL;
}

static void make_world(struct world *w, const struct spec *s, size_t n)
{
    memset(w, 0, sizeof(*w));
    w->r.procs = w->procs;
    w->r.nprocs = n;
    w->ranges[0] = &w->range;
    for (size_t i = 0; i < n; i++) {
        process__init(&w->process[i]);
        mm__init(&w->mm[i]);
        w->process[i].pid = w->procs[i].pid = s[i].pid;
        w->process[i].ppid = s[i].ppid;
        w->process[i].sid = s[i].sid;
        w->process[i].pgid = s[i].sid;
        w->process[i].is_root = s[i].root;
        w->mm[i].inherit_from = s[i].inherits;
        w->procs[i].process = &w->process[i];
        w->procs[i].mm = &w->mm[i];
        w->procs[i].path = "image";
    }
    for (size_t i = 0; i < n; i++)
        w->procs[i].parent = s[i].ppid ? restore_proc(&w->r, s[i].ppid) : NULL;
}

static struct model *by_pid(struct model *m, size_t n, pid_t pid)
{
    for (size_t i = 0; i < n; i++)
        if (m[i].pid == pid && m[i].alive)
            return &m[i];
    return NULL;
}

static void die(struct model *m, size_t n, struct model *who)
{
    pid_t to = INIT;

    who->alive = false;
    for (struct model *a = by_pid(m, n, who->parent); a; a = by_pid(m, n, a->parent))
        if (a->adopts) {
            to = a->pid;
            break;
        }
    for (size_t i = 0; i < n; i++)
        if (m[i].alive && m[i].parent == who->pid)
            m[i].parent = to;
}

static void step(struct model *m, size_t n, const struct steps *s, const struct step *st, pid_t *spare)
{
    struct model *p = &m[st->proc], *from = st->from == SIZE_MAX ? NULL : &m[st->from];

    switch (st->kind) {
    case STEP_SPAWN:
    case STEP_FORK:
        assert_false(p->alive);
        assert_int_equal(from == NULL, st->kind == STEP_SPAWN);
        p->pid = s->actor[st->proc].pid ? s->actor[st->proc].pid : ++*spare;
        assert_null(by_pid(m, n, p->pid));
        assert_true(!from || from->alive);
        p->parent = from ? from->pid : STANDIN;
        p->sid = from ? from->sid : OUT;
        p->built = from && from->built;
        p->alive = true;
        return;
    case STEP_SETSID:
        assert_true(p->alive);
        p->sid = p->pid;
        return;
    case STEP_BUILD:
        assert_true(p->alive);
        p->built = true;
        return;
    case STEP_EXIT:
        assert_true(p->alive);
        die(m, n, p);
        return;
    case STEP_ADOPTS:
        p->adopts = true;
        return;
    default:
        fail();
    }
}

static void run(const struct spec *s, size_t n)
{
    struct world w;
    struct steps steps;
    struct err err = {0};
    struct model m[64] = {0};
    pid_t spare = 800000;

    make_world(&w, s, n);
    if (plan_steps(&w.r, &steps, &err) < 0)
        fail_msg("%s", err.msg);
    assert_true(steps.n_actors <= 64);
    for (size_t i = 0; i < steps.n; i++) {
        const struct step *st = &steps.step[i];
        step(m, steps.n_actors, &steps, st, &spare);
        if (st->kind == STEP_FORK && st->proc < n && s[st->proc].inherits)
            assert_true(m[st->proc].built);
    }
    for (size_t i = 0; i < steps.n_actors; i++)
        assert_int_equal(m[i].alive, i < n);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(m[i].pid, s[i].pid);
        assert_int_equal(m[i].sid, s[i].sid);
        assert_int_equal(m[i].parent, s[i].ppid ? s[i].ppid : s[i].root ? STANDIN : INIT);
    }
    steps_free(&steps);
}

#define RUN(...)                                         \
    do {                                                 \
        static const struct spec spec_[] = __VA_ARGS__; \
        run(spec_, ARRAY_SIZE(spec_));                   \
    } while (0)

static void test_plain(void **state)
{
    (void)state;
    RUN({{100, 0, OUT, true, 0}});
    RUN({{100, 0, OUT, true, 0}, {101, 100, OUT, false, 100}, {102, 101, OUT, false, 101}});
    RUN({{100, 0, 100, true, 0}, {101, 100, 100, false, 0}}); /* the root leads its session */
}

/* A child that was forked before its parent called setsid. */
static void test_older_session(void **state)
{
    (void)state;
    RUN({{100, 0, OUT, true, 0}, {101, 100, 101, false, 100}, {102, 101, OUT, false, 101}, {103, 101, 101, false, 101}});
    RUN({{100, 0, OUT, true, 0}, {101, 100, 101, false, 0}, {102, 101, 102, false, 0}, {103, 102, 101, false, 0}});
    RUN({{100, 0, OUT, true, 0}, {101, 100, 101, false, 0}, {102, 101, 102, false, 0}, {103, 102, OUT, false, 102}});
}

static void test_daemons(void **state)
{
    (void)state;
    /* setsid, and the parent has gone */
    RUN({{100, 0, OUT, true, 0}, {150, 0, 150, false, 0}, {151, 150, 150, false, 150}});
    /* the second fork of the two: its session leader has gone, too */
    RUN({{100, 0, OUT, true, 0}, {152, 0, 151, false, 100}, {153, 0, 151, false, 0}, {154, 153, 151, false, 0}});
    /* an orphan of the terminal's session */
    RUN({{100, 0, OUT, true, 0}, {160, 0, OUT, false, 100}});
    /* an orphan of a session whose leader lives */
    RUN({{100, 0, OUT, true, 0}, {101, 100, 101, false, 100}, {170, 0, 101, false, 101}});
    /* only daemons are left */
    RUN({{150, 0, 150, false, 0}, {152, 0, 151, false, 0}});
}

static void test_adopted_inside(void **state)
{
    (void)state;
    /* a subreaper with orphans of a dead session and of its own */
    RUN({{100, 0, OUT, true, 0}, {101, 100, 101, false, 0}, {150, 101, 149, false, 101}, {151, 101, 148, false, 0}});
    RUN({{100, 0, OUT, true, 0}, {101, 100, OUT, false, 0}, {102, 101, 102, false, 0}, {150, 101, 102, false, 0}});
}

static void test_refused(void **state)
{
    /* In the terminal's session, its parent in another one since birth, which cannot be. */
    static const struct spec s[] = {{100, 0, OUT, true, 0}, {101, 100, 101, false, 0}, {102, 101, 101, false, 0},
                                    {103, 102, OUT, false, 0}};
    struct world w;
    struct steps steps;
    struct err err = {0};

    (void)state;
    make_world(&w, s, ARRAY_SIZE(s));
    assert_int_equal(plan_steps(&w.r, &steps, &err), -ENOTSUP);
    assert_non_null(strstr(err.msg, "process 103"));
    steps_free(&steps);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain),         cmocka_unit_test(test_older_session), cmocka_unit_test(test_daemons),
        cmocka_unit_test(test_adopted_inside), cmocka_unit_test(test_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
