/*
 * inotify: watches with their numbers (with a hole) and masks, on directories, files, a renamed directory;
 * events that are queued and not read, with names and a rename's cookie; an overflow-free queue goes on with
 * what happens afterwards.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"

struct expected {
    int wd;
    uint32_t mask;
    const char *name;
};

static char buf[65536];

/* Read all that is there; it must be exactly this list. Returns the cookie of the last event with one. */
static uint32_t expect(int fd, const struct expected *list, int n, const char *what)
{
    ssize_t len = read(fd, buf, sizeof(buf)), at = 0;
    uint32_t cookie = 0;
    int i;

    for (i = 0; i < n && at < len; i++) {
        struct inotify_event event;
        const char *name = buf + at + sizeof(event);

        memcpy(&event, buf + at, sizeof(event));
        check_num(list[i].wd, event.wd, "%s: event %d: watch", what, i);
        check_num(list[i].mask, event.mask, "%s: event %d: mask", what, i);
        check_str(list[i].name, event.len ? name : "", what);
        if (event.cookie) {
            check_true(cookie == 0 || cookie == event.cookie, "%s: event %d: another cookie", what, i);
            cookie = event.cookie;
        }
        at += (ssize_t)sizeof(event) + event.len;
    }
    check_num(n, i, "%s: events", what);
    check_true(at >= len, "%s: more events than expected: %zd bytes", what, len - at);
    return cookie;
}

static void touch(const char *name)
{
    check_spit(check_path(name), "x", 1);
}

int main(int argc, char **argv)
{
    int fd, dir, file, moved, deleted, next;

    check_init(argc, argv);
    MUST(mkdir(check_path("dir"), 0755));
    MUST(mkdir(check_path("to move"), 0755));
    MUST(mkdir(check_path("out of the way"), 0755));
    touch("file");
    fd = (int)MUST(inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
    dir = (int)MUST(inotify_add_watch(fd, check_path("dir"), IN_CREATE | IN_DELETE | IN_MOVE));
    deleted = (int)MUST(inotify_add_watch(fd, check_path("out of the way"), IN_CREATE));
    file = (int)MUST(inotify_add_watch(fd, check_path("file"), IN_MODIFY));
    moved = (int)MUST(inotify_add_watch(fd, check_path("to move"), IN_CREATE | IN_ONLYDIR));
    MUST(rename(check_path("to move"), check_path("moved")));
    MUST(inotify_rm_watch(fd, deleted));
    expect(fd, (struct expected[]){{deleted, IN_IGNORED, ""}}, 1, "before");
    /* what is in the queue when the checkpoint comes */
    touch("dir/one");
    MUST(rename(check_path("dir/one"), check_path("dir/two")));
    touch("moved/three");
    check_spit(check_path("file"), "xy", 2);

    check_wait();

    {
        const struct expected queued[] = {
            {dir, IN_CREATE, "one"},   {dir, IN_MOVED_FROM, "one"}, {dir, IN_MOVED_TO, check_broken() ? "one" : "two"},
            {moved, IN_CREATE, "three"}, {file, IN_MODIFY, ""},
        };

        check_true(expect(fd, queued, 5, "queued events") != 0, "no cookie in the events of a rename");
    }
    touch("dir/four");
    touch("moved/five");
    MUST(unlink(check_path("dir/two")));
    {
        const struct expected now[] = {{dir, IN_CREATE, "four"}, {moved, IN_CREATE, "five"}, {dir, IN_DELETE, "two"}};

        expect(fd, now, 3, "events of now");
    }
    check_num(dir, inotify_add_watch(fd, check_path("dir"), IN_CREATE), "number of a watch that is there already");
    next = (int)MUST(inotify_add_watch(fd, check_path("out of the way"), IN_CREATE));
    check_num(moved + 1, next, "number of a new watch");
    check_num(FD_CLOEXEC, fcntl(fd, F_GETFD), "close-on-exec");
    check_num(0, inotify_rm_watch(fd, file), "removing a watch");
    return check_end();
}
