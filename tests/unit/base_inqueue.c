/*
 * Queued inotify events: whatever an instance has in its queue is read, taken apart with its watches and put
 * together again, and must read the same. This needs no rights, only CONFIG_CHECKPOINT_RESTORE.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/inqueue.h"
#include "base/util.h"

struct world {
    char dir[32];
    int fd;
    struct inqueue_watch w[3]; /* A, B, H; F and G are watched as well but removed */
};

static void touch(const char *path)
{
    int fd = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);

    assert_true(fd >= 0);
    close(fd);
}

static int watch(struct world *w, const char *path, uint32_t mask)
{
    int wd = inotify_add_watch(w->fd, path, mask);

    assert_true(wd > 0);
    return wd;
}

static int setup(void **state)
{
    struct world *w = calloc(1, sizeof(*w));
    static const char *const names[] = {"A", "B", "H"};
    static const uint32_t masks[] = {IN_ALL_EVENTS, IN_ALL_EVENTS | IN_EXCL_UNLINK, IN_MODIFY};
    struct err err;

    assert_non_null(w);
    if (inqueue_possible(&err) < 0) {
        print_message("skipped: %s\n", err.msg);
        free(w);
        skip();
    }
    strcpy(w->dir, "/tmp/inqueue-XXXXXX");
    assert_non_null(mkdtemp(w->dir));
    assert_int_equal(chdir(w->dir), 0);
    assert_int_equal(mkdir("A", 0700) | mkdir("B", 0700) | mkdir("G", 0700), 0);
    touch("F");
    touch("H");
    w->fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    assert_true(w->fd >= 0);
    for (int i = 0; i < 3; i++)
        w->w[i] = (struct inqueue_watch){watch(w, names[i], masks[i]), masks[i],
                                         open(names[i], O_PATH | O_CLOEXEC)};
    watch(w, "F", IN_ALL_EVENTS);
    watch(w, "G", IN_ALL_EVENTS);
    *state = w;
    return 0;
}

static int teardown(void **state)
{
    struct world *w = *state;
    char command[64];

    for (int i = 0; i < 3; i++)
        close(w->w[i].fd);
    close(w->fd);
    snprintf(command, sizeof(command), "cd / && rm -rf %s", w->dir);
    assert_int_equal(system(command), 0);
    free(w);
    return 0;
}

/* Every sort of event that a queue can hold, but IN_UNMOUNT. */
static void do_everything(void)
{
    char c, entries[1024];
    int fd = open("A/foo", O_CREAT | O_RDWR | O_CLOEXEC, 0600);

    assert_int_equal(write(fd, "hello", 5), 5);
    assert_int_equal(pread(fd, &c, 1, 0), 1);
    close(fd);
    assert_int_equal(mkdir("A/dir", 0700) | mkdir("A/dir2", 0700), 0);
    assert_int_equal(rename("A/foo", "B/a name that is rather long, with spaces"), 0);
    assert_int_equal(rename("B/a name that is rather long, with spaces", "B/b"), 0);
    assert_int_equal(rename("B/b", "out"), 0);
    assert_int_equal(rename("out", "A/back"), 0);
    assert_int_equal(chmod("A/back", 0644), 0);
    assert_int_equal(unlink("A/back"), 0);
    assert_int_equal(rmdir("A/dir"), 0);
    assert_int_equal(chmod("A", 0755), 0);
    fd = open("A", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(getdents64(fd, entries, sizeof(entries)) > 0);
    close(fd);
    fd = open("F", O_RDWR | O_CLOEXEC);
    assert_int_equal(write(fd, "x", 1), 1);
    close(fd);
    assert_int_equal(chmod("F", 0600) | rename("F", "F2") | unlink("F2"), 0);
    assert_int_equal(rename("G", "G2") | rmdir("G2"), 0);
    touch("A/foo");
}

static void expect_same(const struct inqueue_list *a, const struct inqueue_list *b)
{
    assert_int_equal(a->n, b->n);
    for (size_t i = 0; i < a->n; i++) {
        const struct inqueue_event *x = &a->event[i], *y = &b->event[i];

        assert_int_equal(x->wd, y->wd);
        assert_int_equal(x->mask, y->mask);
        assert_int_equal(!x->name, !y->name);
        if (x->name)
            assert_string_equal(x->name, y->name);
        assert_int_equal(!x->cookie, !y->cookie);
        if (i && x->cookie) /* pairs stay pairs */
            assert_int_equal(x->cookie == x[-1].cookie, y->cookie == y[-1].cookie);
    }
}

static void round_trip(struct world *w)
{
    struct inqueue_list before = {0}, after = {0};
    struct err err = {0};
    int next = 0;

    if (inqueue_take(w->fd, &before, &err) < 0 || inqueue_forget(w->fd, w->w, 3, &next, &err) < 0 ||
        inqueue_fill(w->fd, w->w, 3, before.event, before.n, next, &err) < 0 ||
        inqueue_take(w->fd, &after, &err) < 0)
        fail_msg("%s", err.msg);
    expect_same(&before, &after);
    assert_int_equal(next, 6);
    /* The watches are real again, and their numbers go on. */
    inqueue_list_free(&after);
    int fd = open("H", O_RDWR | O_CLOEXEC);
    assert_int_equal(write(fd, "x", 1), 1);
    close(fd);
    assert_int_equal(inqueue_take(w->fd, &after, &err), 0);
    assert_int_equal(after.n, 1);
    assert_int_equal(after.event[0].wd, w->w[2].wd);
    assert_int_equal(inotify_add_watch(w->fd, "/", IN_MODIFY), 6);
    inqueue_list_free(&before);
    inqueue_list_free(&after);
}

static void nothing(void **state)
{
    round_trip(*state);
}

static void every_event(void **state)
{
    do_everything();
    round_trip(*state);
}

static void flood(unsigned n)
{
    touch("A/foo");
    for (unsigned i = 0; i < n; i++) {
        assert_int_equal(chmod("A/foo", 0600 + (i & 1)), 0);
        assert_int_equal(chmod("A", 0700 + (i & 1)), 0);
    }
}

static void many(void **state)
{
    flood(3000);
    round_trip(*state);
}

static void overflown(void **state)
{
    flood(10000);
    round_trip(*state);
}

/* Events, the overflow, and events that came when there was room again. */
static void overflown_in_the_middle(void **state)
{
    struct world *w = *state;
    char buf[64 * 48];

    flood(10000);
    assert_true(read(w->fd, buf, sizeof(buf)) > 0);
    flood(3);
    round_trip(w);
}

static void impossible(void **state)
{
    struct world *w = *state;
    struct inqueue_event e = {w->w[0].wd, IN_UNMOUNT, 0, NULL};
    struct err err = {0};
    int next;

    assert_int_equal(inqueue_forget(w->fd, w->w, 3, &next, &err), 0);
    assert_int_equal(inqueue_fill(w->fd, w->w, 3, &e, 1, next, &err), -EOPNOTSUPP);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(every_event, setup, teardown),
        cmocka_unit_test_setup_teardown(many, setup, teardown),
        cmocka_unit_test_setup_teardown(overflown, setup, teardown),
        cmocka_unit_test_setup_teardown(overflown_in_the_middle, setup, teardown),
        cmocka_unit_test_setup_teardown(impossible, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
