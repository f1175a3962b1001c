/*
 * What makes a checkpoint complete: the restart script, then the manifest, whose appearance under its name is
 * the commit; images and script are durable before it. A disk may take seconds to sync them, so a thread does
 * it, and the event loop goes on answering. The thread touches nothing but its struct commit and what that
 * points to, and the loop leaves that alone until the thread has ended.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>
#include <sys/eventfd.h>

#include "base/util.h"
#include "coordinator/client.h"
#include "coordinator/server.h"

struct commit {
    pthread_t thread;
    bool has_thread;
    int done_fd; /* the server's; told at the end */
    const struct manifest *manifest;
    char *path, *script; /* their names */
    char *text;          /* the script's */
    int result;
    struct err failure;
};

static int write_script(const struct commit *c, struct err *err)
{
    _cleanup_close_ int fd = -1;
    int r;

    unlink(c->script); /* of a computation that went on from the same generation, and did not get to its
                          manifest */
    fd = open(c->script, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0700);
    if (fd < 0)
        return err_errno(err, "%s", c->script);
    r = write_full(fd, c->text, strlen(c->text));
    if (r == 0 && sync_fd(fd) < 0)
        r = -errno;
    if (r < 0) {
        unlink(c->script);
        return err_set(err, -r, "%s: %s", c->script, strerror(-r));
    }
    return 0;
}

static void *run(void *arg)
{
    struct commit *c = arg;

    c->result = write_script(c, &c->failure);
    if (c->result == 0 && (c->result = manifest_write(c->manifest, c->path, &c->failure)) < 0)
        unlink(c->script);
    eventfd_write(c->done_fd, 1);
    return NULL;
}

static void commit_free(struct commit *c)
{
    free(c->path);
    free(c->script);
    free(c->text);
    free(c);
}

static int prepare(struct server *s, struct commit *c, struct manifest *m, struct err *err)
{
    struct err ignored = {0};
    _cleanup_free_ char *restart = coord_find_program("dmtcp_restart", "restorer", &ignored);

    if (generation_name(s, m, &c->path, &c->script, err) < 0)
        return -err->code;
    c->manifest = m;
    c->done_fd = s->commit_fd;
    c->text = script_format(s, m, restart ? restart : "dmtcp_restart");
    return c->text ? 0 : err_set(err, ENOMEM, "out of memory");
}

int commit_start(struct server *s, struct manifest *m, struct err *err)
{
    struct commit *c = calloc(1, sizeof(*c));

    if (!c)
        return err_set(err, ENOMEM, "out of memory");
    if (prepare(s, c, m, err) < 0) {
        commit_free(c);
        return -err->code;
    }
    s->commit = c;
    c->has_thread = pthread_create(&c->thread, NULL, run, c) == 0;
    if (!c->has_thread)
        run(c); /* no room for a thread: everybody waits */
    return 0;
}

int commit_finish(struct server *s, struct manifest *m, struct err *err)
{
    struct commit *c = s->commit;
    eventfd_t ignored;
    int r;

    s->commit = NULL;
    if (c->has_thread)
        pthread_join(c->thread, NULL);
    eventfd_read(s->commit_fd, &ignored);
    r = c->result;
    if (r < 0) {
        *err = c->failure;
    } else {
        generation_complete(s, m, c->path, c->script);
        c->path = c->script = NULL;
    }
    commit_free(c);
    return r;
}

void commit_forget(struct server *s)
{
    if (!s->commit)
        return;
    if (s->commit->has_thread)
        pthread_join(s->commit->thread, NULL);
    commit_free(s->commit);
    s->commit = NULL;
}
