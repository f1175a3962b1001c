/* Plugins: descriptors that they saved are opened by them, and before the processes run they are told so. */
#include "plugin/plugin.h"

#include <errno.h>
#include <stdlib.h>

#include "base/util.h"
#include "image/plugin.pb-c.h"
#include "restorer/restore.h"

static const Plugin *plugin_of(const struct robject *o)
{
    return (const Plugin *)o->msg;
}

static int plugin_prepare(struct restore *r, struct robject *o, struct err *err)
{
    size_t i;

    if (plugin_find(plugin_of(o)->name, &i))
        return 0;
    if (!plugin_is_name(plugin_of(o)->name))
        return err_set(err, EINVAL, "the image names a plugin by what is no name");
    return err_set(err, ENOENT, "the checkpoint was made with the plugin '%s', which is not loaded: name its library with --with-plugin",
                   plugin_of(o)->name);
}

static struct plugin_job job_of(const struct robject *o)
{
    return (struct plugin_job){.data = plugin_of(o)->data.data, .size = plugin_of(o)->data.len};
}

static int plugin_open(struct restore *r, struct robject *o, struct rofd *d, int *fd, struct err *err)
{
    struct plugin_job job = job_of(o);
    size_t i;

    if (!plugin_of(o)->file || !plugin_find(plugin_of(o)->name, &i))
        return err_set(err, EINVAL, "no plugin has saved this descriptor");
    return plugin_open_file(i, &job, fd, err);
}

const struct rebuild_ops plugin_ops = {
    .kind = KIND_PLUGIN,
    .descriptor = &plugin__descriptor,
    .prepare = plugin_prepare,
    .open = plugin_open,
};

static int tell(struct robject *o, const pid_t *pids, size_t n, struct err *err)
{
    struct plugin_job job = job_of(o);
    size_t i;

    if (plugin_of(o)->file || !plugin_find(plugin_of(o)->name, &i))
        return 0;
    job.pids = pids;
    job.n_pids = n;
    int res = plugin_event(i, DMTCP_PLUGIN_RESTART, &job, err);
    free(job.kept);
    return res;
}

int plugins_restart(struct restore *r, struct err *err)
{
    _cleanup_free_ pid_t *pids = calloc(r->nprocs + 1, sizeof(*pids));
    size_t n = 0;

    if (!pids)
        return err_set(err, ENOMEM, "out of memory");
    for (size_t k = 0; k < r->nprocs; k++)
        if (r->procs[k].alive)
            pids[n++] = r->procs[k].host_pid;
    for (struct robject *o = r->objects; o; o = o->next)
        if (o->ops == &plugin_ops && tell(o, pids, n, err) < 0)
            return -err->code;
    return 0;
}
