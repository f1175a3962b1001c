/*
 * Plugins: they are told that the tree stands still and that it goes on, and save the descriptors that they claim. What
 * each keeps of the tree is a record even if it is empty: the restart needs the plugin then, too.
 */
#include "plugin/plugin.h"

#include <errno.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/util.h"
#include "image/plugin.pb-c.h"
#include "tracer/ckpt.h"
#include "tracer/plugin.h"

static Plugin *new_record(struct ckpt *c, const struct object *o, size_t i, struct plugin_job *job)
{
    Plugin *m = arena_alloc(c->arena, sizeof(*m));

    if (m) {
        plugin__init(m);
        m->id = o->id;
        m->name = arena_printf(c->arena, "%s", plugin_name(i));
        m->data = arena_bytes(c->arena, job->kept, job->n_kept);
    }
    free(job->kept);
    return m && m->name ? m : NULL;
}

/* ---- the tree ---- */

static pid_t *living(const struct ckpt *c, size_t *n)
{
    pid_t *pids = arena_alloc(c->arena, (c->nprocs + 1) * sizeof(*pids));

    *n = 0;
    for (size_t i = 0; pids && i < c->nprocs; i++)
        if (!c->procs[i]->zombie)
            pids[(*n)++] = c->procs[i]->pid;
    return pids;
}

static int ask(struct ckpt *c, size_t i, struct plugin_job *job, struct err *err)
{
    struct object *o;

    c->plugins_told = i + 1;
    if (plugin_event(i, DMTCP_PLUGIN_PRECHECKPOINT, job, err) < 0)
        return -err->code;
    o = ckpt_add_object(c, &plugin_ops, 0, i, NULL, 0);
    if (!o) {
        free(job->kept);
        return err_set(err, ENOMEM, "out of memory");
    }
    o->proc = c->procs[0];
    Plugin *m = new_record(c, o, i, job);
    if (!m)
        return err_set(err, ENOMEM, "out of memory");
    o->msg = &m->base;
    return 0;
}

int plugins_before(struct ckpt *c, struct err *err)
{
    struct plugin_job job = {0};

    if (!plugin_count())
        return 0;
    job.pids = living(c, &job.n_pids);
    if (!job.pids)
        return err_set(err, ENOMEM, "out of memory");
    for (size_t i = 0; i < plugin_count(); i++) {
        struct plugin_job one = job;
        if (ask(c, i, &one, err) < 0)
            return -err->code;
    }
    return 0;
}

void plugins_after(struct ckpt *c)
{
    struct plugin_job job = {0};
    struct err err;

    if (!c->plugins_told || c->killed)
        return;
    job.pids = living(c, &job.n_pids);
    for (size_t i = 0; i < c->plugins_told; i++) {
        struct plugin_job one = job;
        if (plugin_event(i, DMTCP_PLUGIN_RESUME, &one, &err) < 0)
            log_warn("%s", err.msg);
        free(one.kept);
    }
    c->plugins_told = 0;
}

/* ---- descriptors ---- */

static struct dmtcp_plugin_file describe(const struct fd_info *fi)
{
    return (struct dmtcp_plugin_file){.pid = fi->proc->pid, .number = fi->fd, .path = fi->link, .stat = &fi->st,
                                      .flags = fi->flags, .fd = -1};
}

static bool plugin_probe(const struct fd_info *fi)
{
    const struct dmtcp_plugin_file f = describe(fi);
    size_t i;

    return plugin_claims(&f, &i);
}

static int plugin_collect(struct ckpt *c, const struct fd_info *fi, struct object *o, struct err *err)
{
    _cleanup_close_ int fd = ckpt_get_fd(fi->proc, fi->fd, err);
    struct dmtcp_plugin_file f = describe(fi);
    struct plugin_job job = {0};
    size_t i;

    if (fd < 0)
        return fd;
    if (!plugin_claims(&f, &i))
        return err_set(err, EAGAIN, "the plugin that claimed it does not any more");
    f.fd = fd;
    if (plugin_save_file(i, &f, &job, err) < 0)
        return -err->code;
    Plugin *m = new_record(c, o, i, &job);
    if (!m)
        return err_set(err, ENOMEM, "out of memory");
    m->file = true;
    o->msg = &m->base;
    return 0;
}

/* Where it stands is the plugin's affair: that of a device may mean anything. */
static int plugin_describe(struct ckpt *c, const struct fd_info *fi, struct ofd *d, struct err *err)
{
    d->msg->pos = 0;
    return 0;
}

const struct kind_ops plugin_ops = {
    .kind = KIND_PLUGIN,
    .per_description = true,
    .probe = plugin_probe,
    .collect = plugin_collect,
    .describe = plugin_describe,
};
