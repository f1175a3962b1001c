/*
 * fanotify: marks on a directory and a file with their masks, events that are queued and not read, and those
 * that happen afterwards. Notification only; with file handles and names, as an unprivileged group has them.
 * Events name real files, so a restart cannot queue them again; it must say that they are lost (FAN_Q_OVERFLOW).
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/fanotify.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"

#ifndef FAN_REPORT_DFID_NAME
#define FAN_REPORT_DFID_NAME 0xc00
#endif

struct event {
    uint64_t mask;
    char name[64];
};

/* All that is there, in order: masks and names. */
static int take(int fd, struct event *events, int max)
{
    _Alignas(8) static char buf[16384];
    ssize_t len = read(fd, buf, sizeof(buf));
    int n = 0;
    char *at = buf;

    for (; len > 0 && at < buf + len && n < max; n++) {
        struct fanotify_event_metadata *meta = (struct fanotify_event_metadata *)at;
        char *info = at + meta->metadata_len;

        events[n].mask = meta->mask;
        events[n].name[0] = 0;
        if (info < at + meta->event_len) {
            struct fanotify_event_info_fid *fid = (struct fanotify_event_info_fid *)info;
            struct file_handle *handle = (struct file_handle *)fid->handle;

            if (fid->hdr.info_type == FAN_EVENT_INFO_TYPE_DFID_NAME)
                snprintf(events[n].name, sizeof(events[n].name), "%s", (char *)handle->f_handle + handle->handle_bytes);
        }
        if (meta->fd >= 0)
            close(meta->fd);
        at += meta->event_len;
    }
    return n;
}

static void expect(int fd, uint64_t mask, const char *name, const char *what, bool may_be_lost)
{
    struct event events[32];
    int n = take(fd, events, 32), i, found = 0;

    if (may_be_lost && n == 1 && events[0].mask == FAN_Q_OVERFLOW) {
        check_note("%s: an overflow in its place", what);
        return;
    }
    for (i = 0; i < n; i++)
        found += (events[i].mask & mask) == mask && !strcmp(events[i].name, name);
    check_true(found > 0, "%s: no event %#llx for '%s' among %d (first: %#llx '%s')", what, (unsigned long long)mask, name,
               n, n ? (unsigned long long)events[0].mask : 0, n ? events[0].name : "");
}

int main(int argc, char **argv)
{
    struct event none[4];
    int fd;

    check_init(argc, argv);
    fd = fanotify_init(FAN_CLASS_NOTIF | FAN_REPORT_DFID_NAME | FAN_NONBLOCK | FAN_CLOEXEC, 0);
    if (fd < 0)
        check_skip("no fanotify here: %s", strerror(errno));
    MUST(mkdir(check_path("dir"), 0755));
    if (fanotify_mark(fd, FAN_MARK_ADD, FAN_CREATE | FAN_DELETE | FAN_ONDIR, AT_FDCWD, check_path("dir")) < 0)
        check_skip("no fanotify on this file system: %s", strerror(errno));
    check_spit(check_path("dir/first"), "x", 1);

    check_wait();

    expect(fd, FAN_CREATE, check_broken() ? "other" : "first", "queued event", true);
    check_num(0, take(fd, none, 4), "events after the queued one");
    check_spit(check_path("dir/second"), "x", 1);
    expect(fd, FAN_CREATE, "second", "event of now", false);
    MUST(unlink(check_path("dir/first")));
    expect(fd, FAN_DELETE, "first", "another event of now", false);
    MUST(mkdir(check_path("dir/sub"), 0755));
    expect(fd, FAN_CREATE | FAN_ONDIR, "sub", "event for a directory", false);
    check_num(FD_CLOEXEC, fcntl(fd, F_GETFD), "close-on-exec");
    return check_end();
}
