/*
 * A SIGSTOP that arrives while a process is frozen: before the parasite is entered, or while it is in. The process's
 * own parent must see it stop once it is let go, and go on when it is continued. And a SIGKILL from outside.
 */
#include <errno.h>
#include <linux/sched.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "injector/inject.h"
#include "injector/layout.h"
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

static void *__attribute__((noreturn)) sleep_for_ever(void *arg)
{
    for (;;)
        pause();
}

/* A process with a second thread; says so when it is there. */
static void __attribute__((noreturn)) two_threads(int to)
{
    pthread_t other;

    if (pthread_create(&other, NULL, sleep_for_ever, NULL) == 0)
        (void)!write(to, "", 1);
    for (;;)
        pause();
}

/* Kills it when its leader is waited for (or will be in a moment: the order must not matter). */
static pid_t killer(pid_t victim, int delay_us)
{
    pid_t pid = fork();

    if (pid == 0) {
        usleep((useconds_t)delay_us);
        kill(victim, SIGKILL);
        _exit(0);
    }
    return pid;
}

/* The leader of a killed process is reported only after its other threads; who waits for it must not wait for ever. */
static void leader_is_killed(int delay_us)
{
    int pair[2], status;
    struct err err = {0};
    char byte;

    assert_int_equal(pipe(pair), 0);
    pid_t pid = fork(), other, by;
    if (pid == 0)
        two_threads(pair[1]);
    assert_int_equal(read(pair[0], &byte, 1), 1);
    other = pid;
    do
        other++;
    while (tgkill(pid, other, 0) < 0);
    assert_int_equal(pt_seize(pid, 0, &err), 0);
    assert_int_equal(pt_seize(other, 0, &err), 0);
    alarm(10); /* ends the test when it hangs */
    by = killer(pid, delay_us);
    assert_int_equal(pt_wait(pid, &status, &err), -ESRCH);
    assert_int_equal(pt_wait(other, &status, &err), -ESRCH);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(waitpid(by, NULL, 0), by);
    alarm(0);
    close(pair[0]);
    close(pair[1]);
}

static void test_killed_leader(void **state)
{
    for (int delay = 0; delay < 20000; delay += 1000)
        leader_is_killed(delay);
}

#define SLOTS 4

/* The parasite in a place that is free in this process, for skeletons. */
static uint64_t make_area(void)
{
    const size_t room = (size_t)64 << 20;
    void *base = mmap(NULL, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct err err = {0};

    assert_ptr_not_equal(base, MAP_FAILED);
    munmap(base, room);
    assert_int_equal(inj_area_local((uint64_t)(uintptr_t)base, SLOTS, &err), 0);
    return (uint64_t)(uintptr_t)base;
}

/*
 * A skeleton, not a child of ours, is killed in the middle of a call. The one that it has forked has its end of the
 * control socket too.
 */
static void test_killed_skeleton(void **state)
{
    struct inj_fork_args args = {.exit_signal = SIGCHLD, .remote_ctl = 101};
    struct inj first, victim, last;
    struct err err = {0};
    struct blob_msg m;

    assert_int_equal(inj_spawn(&first, make_area(), SLOTS, 0, 0, 100, &err), 0);
    assert_int_equal(inj_fork(&first, &victim, &args, &err), 0);
    args.remote_ctl = 102;
    assert_int_equal(inj_fork(&victim, &last, &args, &err), 0);
    {
        _cleanup_batch_ struct inj_batch b = {0};
        assert_int_equal(inj_begin(&b, &victim, &err), 0);
        inj_call(&b, 0, SYS_pause);
        assert_int_equal(inj_start(&b, &err), 0);
    }
    alarm(10); /* ends the test when it hangs */
    kill(victim.pid, SIGKILL);
    assert_int_equal(inj_wait_msg(&victim, &m, &err), -ESRCH);
    alarm(0);
    inj_close(&last); /* each ends with its socket */
    inj_close(&victim);
    inj_close(&first);
    assert_int_equal(waitpid(first.pid, NULL, __WALL), first.pid);
}

/* A skeleton in whose process a second thread is parked. */
static void make_thread(struct inj *inj)
{
    _cleanup_batch_ struct inj_batch b = {0};
    uint64_t at = inj_slot(inj, 1), top = inj_slot_stack(inj, 1);
    struct blob_slot slot = {.ctl = inj->remote_ctl, .index = 1};
    struct clone_args ca = {.flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM,
                            .stack = top - INJ_SLOT_STACK, .stack_size = INJ_SLOT_STACK - 16};
    struct err err = {0};

    assert_int_equal(inj_begin(&b, inj, &err), 0);
    assert_int_equal(pt_write(inj->pid, at, &slot, sizeof(slot), &err), 0);
    assert_int_equal(pt_write(inj->pid, top - 16, &at, sizeof(at), &err), 0);
    inj_call(&b, BLOB_MUST | BLOB_CLONE_VM, SYS_clone3, inj_data(&b, &ca, sizeof(ca)), sizeof(ca));
    assert_int_equal(inj_run(&b, &err), 0);
    assert_true(inj_ret(&b, 0) > 0);
}

/* When the driver of a restart has been killed, all that it made is gone, threads too. */
static void test_driver_gone(void **state)
{
    struct inj inj;
    struct err err = {0};

    assert_int_equal(inj_spawn(&inj, make_area(), SLOTS, 0, 0, 100, &err), 0);
    make_thread(&inj);
    alarm(10);
    inj_close(&inj);
    assert_int_equal(waitpid(inj.pid, NULL, __WALL), inj.pid);
    alarm(0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_stop_before_entry, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stop_while_inside, setup, teardown),
        cmocka_unit_test(test_killed_leader),
        cmocka_unit_test(test_killed_skeleton),
        cmocka_unit_test(test_driver_gone),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
