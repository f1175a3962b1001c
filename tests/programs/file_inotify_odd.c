/*
 * inotify on things that are hard to find again: a file that is open but has no name any more, a symbolic
 * link itself, a directory far from everything that is open, one of the system's, a file that was renamed; a
 * watch for one event only; a queue that has overflown; the end of watches, queued.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"

static char buf[1 << 20];

struct seen {
    int wd;
    uint32_t mask;
};

static int take(int fd, struct seen *s, int max)
{
    ssize_t len, at = 0;
    int n = 0;

    while ((len = read(fd, buf, sizeof(buf))) > 0)
        for (at = 0; at < len && n < max; n++) {
            struct inotify_event e;
            memcpy(&e, buf + at, sizeof(e));
            s[n] = (struct seen){e.wd, e.mask};
            at += (ssize_t)sizeof(e) + e.len;
        }
    return n;
}

static void expect(int fd, int n, const struct seen *list, const char *what)
{
    struct seen s[16] = {0};

    check_num(n, take(fd, s, 16), "%s: events", what);
    for (int i = 0; i < n; i++) {
        check_num(list[i].wd, s[i].wd, "%s: event %d: watch", what, i);
        check_num(list[i].mask, s[i].mask, "%s: event %d: mask", what, i);
    }
}

static int watch(int fd, const char *path, uint32_t mask)
{
    return (int)MUST(inotify_add_watch(fd, path, mask));
}

static int new_instance(void)
{
    return (int)MUST(inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
}

int main(int argc, char **argv)
{
    int odd, full, ends, nameless, link, far, renamed, once, file, gone, dir;
    struct seen *many;
    char path[200];

    check_init(argc, argv);
    odd = new_instance();
    file = (int)MUST(open(check_path("nameless"), O_RDWR | O_CREAT, 0644));
    nameless = watch(odd, check_path("nameless"), IN_MODIFY);
    MUST(unlink(check_path("nameless")));
    MUST(symlink("nowhere", check_path("link")));
    link = watch(odd, check_path("link"), IN_DELETE_SELF | IN_DONT_FOLLOW);
    MUST(mkdir(check_path("a"), 0755));
    MUST(mkdir(check_path("a/b"), 0755));
    MUST(mkdir(check_path("a/b/c"), 0755));
    far = watch(odd, check_path("a/b/c"), IN_CREATE);
    check_spit(check_path("first"), "x", 1);
    renamed = watch(odd, check_path("first"), IN_ATTRIB);
    MUST(rename(check_path("first"), check_path("a/b/second")));
    check_spit(check_path("once"), "x", 1);
    once = watch(odd, check_path("once"), IN_MODIFY | IN_ONESHOT);
    inotify_add_watch(odd, "/usr/share/zoneinfo/Etc", IN_CREATE); /* of the system; it may not be there */
    full = new_instance();
    dir = watch(full, check_dir(), IN_ATTRIB);
    for (int i = 0; i < 20000; i++) /* as a rule 16384 fit in */
        MUST(chmod(check_path(i & 1 ? "once" : "a"), 0755));
    ends = new_instance();
    check_spit(check_path("gone"), "x", 1);
    gone = watch(ends, check_path("gone"), IN_DELETE_SELF | IN_MOVE_SELF);
    MUST(rename(check_path("gone"), check_path("going")));
    MUST(unlink(check_path("going")));

    check_wait();

    MUST(write(file, "x", 1));
    MUST(unlink(check_path("link")));
    check_spit(check_path("a/b/c/new"), "x", 1);
    MUST(chmod(check_path("a/b/second"), 0600));
    check_spit(check_path("once"), "y", 1);
    {
        const struct seen list[] = {{nameless, IN_MODIFY}, {link, IN_DELETE_SELF}, {link, IN_IGNORED},
                                    {far, IN_CREATE},      {renamed, IN_ATTRIB},   {once, IN_MODIFY},
                                    {once, IN_IGNORED}};
        expect(odd, check_broken() ? 6 : 7, list, "odd watches");
    }
    {
        const struct seen list[] = {{gone, IN_MOVE_SELF}, {gone, IN_DELETE_SELF}, {gone, IN_IGNORED}};
        expect(ends, 3, list, "the end of a watch");
    }
    many = calloc(40000, sizeof(*many));
    MUST(many ? 0 : -1);
    snprintf(path, sizeof(path), "/proc/sys/fs/inotify/max_queued_events");
    {
        size_t len = check_slurp(path, buf, sizeof(buf));
        int limit = atoi(buf), n = take(full, many, 40000);

        (void)len;
        if (limit < 20000) {
            check_num(limit + 1, n, "events of the queue that has overflown");
            check_num(dir, many[limit - 1].wd, "the last that fitted in");
            check_num(IN_Q_OVERFLOW, many[limit].mask, "the overflow");
        }
    }
    return check_end();
}
