/*
 * Descriptors to their numbers: the moves are played on a model of a descriptor table that, as the kernel does, gives the
 * lowest free number to each that arrives.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "restorer/fdmove.h"

#define TABLE 4096
#define BATCH 253

struct table {
    int what[TABLE]; /* 0: free; otherwise 1 + the number where it belongs */
    bool cloexec[TABLE];
};

static int arrive(struct table *t, int what)
{
    for (int i = 0; i < TABLE; i++)
        if (!t->what[i]) {
            t->what[i] = what;
            t->cloexec[i] = true;
            return i;
        }
    fail();
    return -1;
}

static void play(struct table *t, const struct fd_move *m)
{
    assert_true(t->what[m->from]);
    if (m->from != m->to) {
        assert_int_equal(t->what[m->to], 0); /* nothing is overwritten */
        t->what[m->to] = t->what[m->from];
        t->what[m->from] = 0;
    }
    t->cloexec[m->to] = m->cloexec;
}

static void fill(struct table *t, const int *wanted, const bool *cloexec, size_t n, size_t batch)
{
    int received[BATCH];
    struct fd_move moves[BATCH];
    struct err err;

    for (size_t at = 0; at < n; at += batch) {
        size_t k = n - at < batch ? n - at : batch;
        for (size_t i = 0; i < k; i++)
            received[i] = arrive(t, wanted[at + i] + 1);
        assert_int_equal(fd_moves(received, wanted + at, cloexec + at, (uint32_t)k, moves, &err), 0);
        for (size_t i = 0; i < k; i++)
            play(t, &moves[i]);
    }
}

static void check(const struct table *t, const int *wanted, const bool *cloexec, size_t n, int control)
{
    size_t open = 0;

    for (size_t i = 0; i < n; i++) {
        assert_int_equal(t->what[wanted[i]], wanted[i] + 1);
        assert_int_equal(t->cloexec[wanted[i]], cloexec[i]);
    }
    for (int i = 0; i < TABLE; i++)
        open += t->what[i] != 0;
    assert_int_equal(open, n + 1);
    assert_int_equal(t->what[control], control + 1);
}

/* A random set of numbers, `density` in 256 of all below `end`; the control socket is above all. */
static void random_table(unsigned *seed, int end, int density, size_t batch)
{
    static struct table t;
    static int wanted[TABLE];
    static bool cloexec[TABLE];
    size_t n = 0;

    memset(&t, 0, sizeof(t));
    t.what[end] = end + 1;
    for (int i = 0; i < end; i++)
        if (rand_r(seed) % 256 < density) {
            cloexec[n] = rand_r(seed) & 1;
            wanted[n++] = i;
        }
    fill(&t, wanted, cloexec, n, batch);
    check(&t, wanted, cloexec, n, end);
}

static void random_tables(void **state)
{
    unsigned seed = 1;

    (void)state;
    for (int i = 0; i < 2000; i++)
        random_table(&seed, 1 + rand_r(&seed) % 60, rand_r(&seed) % 257, 1 + (size_t)(rand_r(&seed) % 9));
    for (int i = 0; i < 20; i++)
        random_table(&seed, TABLE - 1, rand_r(&seed) % 257, BATCH);
}

static void something_else_is_open(void **state)
{
    struct fd_move moves[2];
    struct err err;

    (void)state;
    /* Number 1 is taken by something unknown: what belongs at 1 arrives at 2. */
    assert_true(fd_moves((int[]){0, 2}, (int[]){0, 1}, (bool[]){0, 0}, 2, moves, &err) < 0);
    assert_true(fd_moves((int[]){1, 0}, (int[]){3, 4}, (bool[]){0, 0}, 2, moves, &err) < 0);
    assert_true(fd_moves((int[]){0, 1}, (int[]){3, 3}, (bool[]){0, 0}, 2, moves, &err) < 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_tables),
        cmocka_unit_test(something_else_is_open),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
