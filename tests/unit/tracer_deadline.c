/* What the tracer remembers of interrupted calls from one checkpoint to the next. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>

#include <cmocka.h>

#include "tracer/deadline.h"

#define SECOND 1000000000ll

static const struct user_regs_struct here = {.rip = 0x1000, .rsp = 0x7000, .rdi = 1, .rsi = 2, .rdx = 3, .r10 = 4};

static void found_again(void **state)
{
    struct deadlines d = {0};
    int64_t ns;
    long nr;

    (void)state;
    deadline_note(&d, 10, SYS_poll, &here, 100 * SECOND);
    deadline_note(&d, 11, SYS_nanosleep, &here, 200 * SECOND);
    assert_true(deadline_find(&d, 10, &here, &nr, &ns));
    assert_int_equal(nr, SYS_poll);
    assert_in_range(ns, 1, 100 * SECOND);
    assert_true(deadline_find(&d, 11, &here, &nr, &ns));
    assert_int_equal(nr, SYS_nanosleep);
    assert_in_range(ns, 100 * SECOND, 200 * SECOND);
    assert_false(deadline_find(&d, 12, &here, &nr, &ns));
    deadlines_free(&d);
}

/* Another call, or the same one from another place, is not the one that was interrupted. */
static void another_call(void **state)
{
    struct user_regs_struct r;
    struct deadlines d = {0};
    int64_t ns;
    long nr;

    (void)state;
    deadline_note(&d, 10, SYS_poll, &here, 100 * SECOND);
    r = here;
    r.rip++;
    assert_false(deadline_find(&d, 10, &r, &nr, &ns));
    r = here;
    r.rsp -= 16;
    assert_false(deadline_find(&d, 10, &r, &nr, &ns));
    r = here;
    r.r10 = 0;
    assert_false(deadline_find(&d, 10, &r, &nr, &ns));
    deadlines_free(&d);
}

/* One for each thread; what is over is forgotten and makes room; what has no end is not noted. */
static void forgotten(void **state)
{
    struct deadlines d = {0};
    int64_t ns;
    long nr;

    (void)state;
    deadline_note(&d, 10, SYS_poll, &here, 100 * SECOND);
    deadline_note(&d, 10, SYS_futex, &here, 50 * SECOND);
    assert_int_equal(d.n, 1);
    assert_true(deadline_find(&d, 10, &here, &nr, &ns));
    assert_int_equal(nr, SYS_futex);
    deadline_add(&d, &(struct deadline){.tid = 11, .nr = SYS_poll, .at_ns = 1});
    deadline_note(&d, 12, SYS_poll, &here, SECOND);
    assert_int_equal(d.n, 2);
    deadline_note(&d, 13, SYS_poll, &here, -1);
    deadline_note(&d, 13, SYS_poll, &here, INT64_MAX);
    assert_int_equal(d.n, 2);
    deadlines_free(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(found_again), cmocka_unit_test(another_call), cmocka_unit_test(forgotten),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
