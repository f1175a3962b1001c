/* The parsers of /proc/PID/fdinfo, with what kernels write and with what they never would. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/util.h"
#include "tracer/eventfd.h"
#include "tracer/fdinfo.h"

static void generic(void **state)
{
    struct fdinfo f;
    struct err err;

    (void)state;
    assert_int_equal(fdinfo_parse("pos:\t1221\nflags:\t0102002\nmnt_id:\t29\nino:\t861\n", &f, &err), 0);
    assert_int_equal(f.pos, 1221);
    assert_int_equal(f.flags, 0102002);
    assert_int_equal(f.mnt_id, 29);
    assert_int_equal(f.ino, 861);
    assert_int_equal(fdinfo_parse("pos:\t-4096\nflags:\t00\n", &f, &err), 0); /* /proc/PID/mem */
    assert_int_equal(f.pos, -4096);
    assert_int_equal(f.mnt_id, -1);
    assert_int_equal(fdinfo_parse("pos:\t18446744073709551615\nflags:\t00\n", &f, &err), 0);
    assert_int_equal(f.pos, -1);
}

static void generic_strange(void **state)
{
    static const char *const texts[] = {
        "", "pos:\t1\n", "flags:\t0\n", "pos:\t\nflags:\t0\n", "pos:\t1\nflags:\t9\n", "pos:\t1\nflags:\t-2\n",
        "pos:\t1\nflags:\t0x2\n", "pos:\t1\nflags:\t777777777777\n", "pos:\t99999999999999999999\nflags:\t0\n",
        "xpos:\t1\nflags:\t0\n",
    };
    struct fdinfo f;
    struct err err;

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(texts); i++)
        assert_true(fdinfo_parse(texts[i], &f, &err) < 0);
}

static void timer(void **state)
{
    const char *text = "pos:\t0\nflags:\t02\nclockid: 1\nticks: 3\nsettime flags: 03\n"
                       "it_value: (99, 298278654)\nit_interval: (1, 0)\n";
    struct fdinfo_timer t;
    struct err err;

    (void)state;
    assert_int_equal(fdinfo_timerfd(text, &t, &err), 0);
    assert_int_equal(t.clockid, 1);
    assert_int_equal(t.ticks, 3);
    assert_int_equal(t.settime_flags, 3);
    assert_int_equal(t.value_ns, 99298278654);
    assert_int_equal(t.interval_ns, 1000000000);
    assert_int_equal(fdinfo_timerfd("clockid: 1\nticks: 3\n", &t, &err), -ENOENT);
    assert_int_equal(fdinfo_timerfd("clockid: 1\nticks: 3\nsettime flags: 01\nit_value: (1, 1000000000)\n"
                                    "it_interval: (1, 0)\n",
                                    &t, &err),
                     -EBADMSG);
}

static void epoll_items(void **state)
{
    const char *text = "pos:\t0\nflags:\t02\nmnt_id:\t15\n"
                       "tfd:        5 events:       19 data:                5  pos:0 ino:1d4c sdev:f\n"
                       "tfd:        9 events: 8000001d data: ffffffff00000009  pos:-1 ino:7 sdev:fd00003\n";
    struct fdinfo_epoll_item it;
    struct err err;

    (void)state;
    assert_int_equal(fdinfo_epoll(&text, &it, &err), 1);
    assert_int_equal(it.tfd, 5);
    assert_int_equal(it.events, 0x19);
    assert_int_equal(it.data, 5);
    assert_int_equal(it.ino, 0x1d4c);
    assert_int_equal(fdinfo_epoll(&text, &it, &err), 1);
    assert_int_equal(it.tfd, 9);
    assert_int_equal(it.events, 0x8000001d);
    assert_true(it.data == 0xffffffff00000009);
    assert_int_equal(it.dev, makedev(253, 3));
    assert_int_equal(fdinfo_epoll(&text, &it, &err), 0);
    text = "tfd:        5 events:       19 data:                5\n"; /* before Linux 4.13 */
    assert_int_equal(fdinfo_epoll(&text, &it, &err), -EBADMSG);
}

/* What this very kernel writes. */
static void here(void **state)
{
    _cleanup_close_ int ep = epoll_create1(EPOLL_CLOEXEC), ev = eventfd(7, EFD_CLOEXEC),
                        tf = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
    struct itimerspec its = {.it_value.tv_sec = 1000, .it_interval.tv_sec = 2};
    struct epoll_event e = {.events = EPOLLIN | EPOLLET, .data.u64 = 0x123456789abcdef0};
    _cleanup_free_ char *ep_text = NULL, *ev_text = NULL, *tf_text = NULL;
    struct fdinfo_epoll_item it;
    struct fdinfo_timer t;
    struct stat st;
    const char *text;
    uint64_t count;
    struct err err;

    (void)state;
    assert_int_equal(epoll_ctl(ep, EPOLL_CTL_ADD, ev, &e), 0);
    assert_int_equal(timerfd_settime(tf, 0, &its, NULL), 0);
    assert_int_equal(read_proc(&ep_text, NULL, &err, "self/fdinfo/%d", ep), 0);
    assert_int_equal(read_proc(&ev_text, NULL, &err, "self/fdinfo/%d", ev), 0);
    assert_int_equal(read_proc(&tf_text, NULL, &err, "self/fdinfo/%d", tf), 0);
    assert_int_equal(fdinfo_number(ev_text, "eventfd-count", 16, &count, &err), 0);
    assert_int_equal(count, 7);
    text = ep_text;
    assert_int_equal(fdinfo_epoll(&text, &it, &err), 1);
    assert_int_equal(fstat(ev, &st), 0);
    assert_int_equal(it.tfd, ev);
    assert_true(it.data == 0x123456789abcdef0);
    assert_true((it.events & (EPOLLIN | EPOLLET)) == (EPOLLIN | EPOLLET));
    assert_int_equal(it.ino, st.st_ino);
    assert_int_equal(it.dev, st.st_dev);
    assert_int_equal(fdinfo_timerfd(tf_text, &t, &err), 0);
    assert_true(t.value_ns > 900000000000 && t.value_ns <= 1000000000000);
    assert_int_equal(t.interval_ns, 2000000000);
}

/* Old kernels do not say what kind an eventfd is. */
static void semaphores(void **state)
{
    (void)state;
    for (int semaphore = 0; semaphore < 2; semaphore++)
        for (unsigned count = 0; count < 5; count++) {
            _cleanup_close_ int fd = eventfd(count, EFD_NONBLOCK | (semaphore ? EFD_SEMAPHORE : 0));
            _cleanup_free_ char *text = NULL;
            uint64_t now;
            bool is;
            struct err err;

            assert_int_equal(eventfd_is_semaphore(fd, count, &is, &err), 0);
            assert_int_equal(is, semaphore);
            assert_int_equal(read_proc(&text, NULL, &err, "self/fdinfo/%d", fd), 0);
            assert_int_equal(fdinfo_number(text, "eventfd-count", 16, &now, &err), 0);
            assert_int_equal(now, count);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(generic), cmocka_unit_test(generic_strange), cmocka_unit_test(timer),
        cmocka_unit_test(epoll_items), cmocka_unit_test(here), cmocka_unit_test(semaphores),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
