/*
 * A SIGSTOP that arrives while a process is frozen: before the parasite is entered, or while it is in. The process's
 * own parent must see it stop once it is let go, and go on when it is continued.
 */
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "injector/inject.h"
#include "injector/ptrace.h"

struct family {
    pid_t parent, child; /* the child is what is frozen; the parent tells of each change that it waits for */
    int told;
};

/* In the parent: which child there is, then each wait status. */
static void __attribute__((noreturn)) tell(int to)
{
    int status = 0;
    pid_t child = fork();

    if (child == 0)
        for (;;)
            pause();
    while (write(to, &child, sizeof(child)) == sizeof(child) && waitpid(child, &status, WUNTRACED | WCONTINUED) == child &&
           write(to, &status, sizeof(status)) == sizeof(status) && !WIFSIGNALED(status))
        ;
    _exit(0);
}

static int take(const struct family *f)
{
    struct pollfd p = {.fd = f->told, .events = POLLIN};
    int value = 0;

    assert_int_equal(poll(&p, 1, 10000), 1);
    assert_int_equal(read(f->told, &value, sizeof(value)), sizeof(value));
    return value;
}

static int setup(void **state)
{
    struct family *f = calloc(1, sizeof(*f));
    int pair[2];

    assert_non_null(f);
    assert_int_equal(pipe(pair), 0);
    f->parent = fork();
    if (f->parent == 0) {
        close(pair[0]);
        tell(pair[1]);
    }
    assert_true(f->parent > 0);
    close(pair[1]);
    f->told = pair[0];
    f->child = take(f);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct family *f = *state;

    kill(f->child, SIGKILL);
    waitpid(f->parent, NULL, 0);
    close(f->told);
    free(f);
    return 0;
}

static void freeze(const struct family *f, struct user_regs_struct *regs, uint64_t *mask)
{
    struct err err = {0};
    int status;

    assert_int_equal(pt_seize(f->child, PTRACE_O_TRACESYSGOOD, &err), 0);
    assert_int_equal(pt_interrupt(f->child, &err), 0);
    assert_int_equal(pt_wait(f->child, &status, &err), 0);
    assert_int_equal(pt_get_regs(f->child, regs, &err), 0);
    assert_int_equal(pt_get_sigmask(f->child, mask, &err), 0);
}

static void visit(const struct family *f, bool stop_before)
{
    const uint64_t none[6] = {0};
    struct user_regs_struct regs;
    struct inj inj;
    struct err err = {0};
    uint64_t mask;
    int64_t ret;

    freeze(f, &regs, &mask);
    if (stop_before)
        kill(f->child, SIGSTOP);
    assert_int_equal(inj_enter(&inj, f->child, f->child, &regs, mask, 0, &err), 0);
    if (!stop_before)
        kill(f->child, SIGSTOP);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(inj_syscall(&inj, &ret, &err, SYS_getpid, none), 0);
        assert_int_equal(ret, f->child);
    }
    assert_int_equal(inj_leave(&inj, &err), 0);
    inj_close(&inj);
    assert_int_equal(pt_detach(f->child, 0, &err), 0);
}

static void stops_and_goes_on(const struct family *f)
{
    int status = take(f);

    assert_true(WIFSTOPPED(status));
    assert_int_equal(WSTOPSIG(status), SIGSTOP);
    assert_int_equal(take(f), f->child);
    kill(f->child, SIGCONT);
    assert_true(WIFCONTINUED(take(f)));
    assert_int_equal(take(f), f->child);
}

static void test_stop_before_entry(void **state)
{
    visit(*state, true);
    stops_and_goes_on(*state);
}

static void test_stop_while_inside(void **state)
{
    visit(*state, false);
    stops_and_goes_on(*state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_stop_before_entry, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stop_while_inside, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
