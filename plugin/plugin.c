/* Loading plugins and calling them: see plugin.h and dmtcp-plugin(7). */
#include "plugin/plugin.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/util.h"

struct plugin {
    const struct dmtcp_plugin *ops;
    char *path;
    int fd; /* stays open: the loader knows the library by this number, which must not become another's */
    dev_t dev;
    ino_t ino;
};

static struct plugin *plugins;
static size_t n_plugins, cap_plugins;

size_t plugin_count(void)
{
    return n_plugins;
}

const char *plugin_name(size_t i)
{
    return plugins[i].ops->name;
}

const char *plugin_path(size_t i)
{
    return plugins[i].path;
}

int plugin_fd(size_t i)
{
    return plugins[i].fd;
}

bool plugin_find(const char *name, size_t *i)
{
    for (*i = 0; *i < n_plugins; ++*i)
        if (!strcmp(plugins[*i].ops->name, name))
            return true;
    return false;
}

/* --- loading ---------------------------------------------------------------------------------------- */

static int check_file(const char *path, int fd, bool strict, struct stat *st, struct err *err)
{
    if (fstat(fd, st) < 0)
        return err_errno(err, "plugin %s", path);
    if (!S_ISREG(st->st_mode))
        return err_set(err, EINVAL, "plugin %s: not a regular file", path);
    if (strict && st->st_uid != 0 && st->st_uid != geteuid())
        return err_set(err, EPERM, "plugin %s: it belongs to another user (%u); it must be yours or root's", path, st->st_uid);
    if (strict && st->st_mode & (S_IWGRP | S_IWOTH))
        return err_set(err, EPERM, "plugin %s: others may write it; take that away with chmod go-w", path);
    return 0;
}

/* What is looked at is what is loaded, and nothing else is opened: a device or a FIFO might do something. */
static int open_library(const char *path, bool strict, struct err *err)
{
    _cleanup_close_ int place = open(path, O_PATH | O_CLOEXEC);
    struct stat st;
    char name[40];
    int fd;

    if (place < 0)
        return err_errno(err, "plugin %s", path);
    if (check_file(path, place, strict, &st, err) < 0)
        return -err->code;
    snprintf(name, sizeof(name), "/proc/self/fd/%d", place);
    fd = open(name, O_RDONLY | O_CLOEXEC);
    return fd < 0 ? err_errno(err, "plugin %s", path) : fd;
}

bool plugin_is_name(const char *s)
{
    return s && *s && !s[strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")];
}

static int check_plugin(const struct dmtcp_plugin *p, const char *path, struct err *err)
{
    size_t i;

    if (!p)
        return err_set(err, ENOEXEC, "plugin %s: it exports no dmtcp_plugin, see dmtcp-plugin(7); plugins of DMTCP, which "
                       "are loaded into the program, cannot be used", path);
    if (p->api != DMTCP_PLUGIN_API)
        return err_set(err, ENOEXEC, "plugin %s: made for version %u of the plugin API, this is %u; compile it again", path,
                       p->api, DMTCP_PLUGIN_API);
    if (!plugin_is_name(p->name))
        return err_set(err, ENOEXEC, "plugin %s: its name must be a word of letters, digits, '.', '_' and '-'", path);
    if (p->claim && (!p->save_file || !p->open_file))
        return err_set(err, ENOEXEC, "plugin %s: it claims descriptors, but cannot save and open them", path);
    if (plugin_find(p->name, &i))
        return err_set(err, EEXIST, "plugin %s: %s has the same name, %s", path, plugins[i].path, p->name);
    return 0;
}

static bool is_loaded(const struct stat *st)
{
    for (size_t i = 0; i < n_plugins; i++)
        if (plugins[i].dev == st->st_dev && plugins[i].ino == st->st_ino)
            return true;
    return false;
}

static void *open_by_fd(const char *path, const char *name, struct err *err)
{
    void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL);

    if (!library) {
        const char *why = dlerror(), *rest = why && !strncmp(why, name, strlen(name)) ? why + strlen(name) : NULL;
        err_set(err, ENOEXEC, "plugin %s%s%s", path, rest ? "" : ": ", rest ? rest : why ? why : "cannot be loaded");
    }
    return library;
}

static int add(const struct plugin *p, struct err *err)
{
    struct plugin *more = grow(plugins, n_plugins, &cap_plugins, sizeof(*plugins));

    if (more)
        plugins = more;
    if (!more || !p->path)
        return err_set(err, ENOMEM, "out of memory");
    more[n_plugins++] = *p;
    return 0;
}

int plugin_load_fd(int library_fd, const char *path, struct err *err)
{
    _cleanup_close_ int fd = library_fd;
    struct stat st;
    char name[40];

    if (check_file(path, fd, false, &st, err) < 0)
        return -err->code;
    if (is_loaded(&st))
        return 0;
    snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
    void *library = open_by_fd(path, name, err);
    if (!library)
        return -err->code;
    struct plugin p = {.ops = dlsym(library, "dmtcp_plugin"), .fd = fd, .dev = st.st_dev, .ino = st.st_ino};
    if (check_plugin(p.ops, path, err) == 0) {
        p.path = strdup(path);
        if (add(&p, err) == 0) {
            take_fd(&fd);
            return 0;
        }
        free(p.path);
    }
    dlclose(library);
    if (dlopen(name, RTLD_NOW | RTLD_NOLOAD))
        take_fd(&fd); /* it cannot be unloaded: the number stays its name */
    return -err->code;
}

int plugin_load(const char *path, bool strict, struct err *err)
{
    int fd = open_library(path, strict, err);

    return fd < 0 ? fd : plugin_load_fd(fd, path, err);
}

/* --- calling ---------------------------------------------------------------------------------------- */

struct call {
    struct dmtcp_plugin_call public; /* first: the plugin has a pointer to it */
    void *kept;
    size_t n_kept;
    char why[300];
};

static int on_keep(struct dmtcp_plugin_call *public, const void *data, size_t size)
{
    struct call *c = (struct call *)public;
    void *copy = size <= DMTCP_PLUGIN_DATA_MAX ? malloc(size + 1) : NULL;

    if (!copy)
        return -1;
    if (size)
        memcpy(copy, data, size);
    free(c->kept);
    c->kept = copy;
    c->n_kept = size;
    return 0;
}

/* One line: it goes where errors go. */
static int on_fail(struct dmtcp_plugin_call *public, const char *format, ...)
{
    struct call *c = (struct call *)public;
    va_list args;

    va_start(args, format);
    vsnprintf(c->why, sizeof(c->why), format, args);
    va_end(args);
    for (char *s = c->why; *s; s++)
        if ((unsigned char)*s < ' ' || *s == 0x7f)
            *s = ' ';
    return -1;
}

static struct call begin(enum dmtcp_plugin_event event, const struct plugin_job *job)
{
    return (struct call){.public = {.event = event, .pids = job->pids, .n_pids = job->n_pids, .data = job->data,
                                    .size = job->size, .keep = on_keep, .fail = on_fail}};
}

static int end(size_t i, struct call *c, int result, struct plugin_job *job, struct err *err)
{
    if (result >= 0) {
        job->kept = c->kept;
        job->n_kept = c->n_kept;
        return 0;
    }
    free(c->kept);
    return err_set(err, ECANCELED, "plugin %s: %s", plugin_name(i), c->why[0] ? c->why : "it failed and gave no reason");
}

bool plugin_claims(const struct dmtcp_plugin_file *file, size_t *i)
{
    for (*i = 0; *i < n_plugins; ++*i)
        if (plugins[*i].ops->claim && plugins[*i].ops->claim(file))
            return true;
    return false;
}

int plugin_event(size_t i, enum dmtcp_plugin_event event, struct plugin_job *job, struct err *err)
{
    struct call c = begin(event, job);

    return end(i, &c, plugins[i].ops->event ? plugins[i].ops->event(&c.public) : 0, job, err);
}

int plugin_save_file(size_t i, const struct dmtcp_plugin_file *file, struct plugin_job *job, struct err *err)
{
    struct call c = begin(DMTCP_PLUGIN_SAVE_FILE, job);

    return end(i, &c, plugins[i].ops->save_file(&c.public, file), job, err);
}

int plugin_open_file(size_t i, struct plugin_job *job, int *fd, struct err *err)
{
    struct call c = begin(DMTCP_PLUGIN_OPEN_FILE, job);

    /* One that was written before it could claim anything has none. */
    *fd = plugins[i].ops->open_file ? plugins[i].ops->open_file(&c.public) : c.public.fail(&c.public, "it opens no files");
    if (*fd >= 0 && fcntl(*fd, F_SETFD, FD_CLOEXEC) < 0)
        *fd = c.public.fail(&c.public, "what it opened (%d) is no descriptor", *fd);
    int r = end(i, &c, *fd, job, err);
    free(job->kept);
    job->kept = NULL;
    return r;
}
