/*
 * A plugin that saves descriptors of namespaces (open("/proc/self/ns/net")), which dmtcp by itself refuses: whether
 * the namespace of that name is still the same thing after a restart is the site's to say. This one says yes for the
 * namespaces that the tracer is in itself, and opens those that dmtcp_restart is in.
 *
 *     cc -shared -fPIC -o namespaces.so namespaces.c
 *     dmtcp_launch --with-plugin ./namespaces.so program
 */
#include <dmtcp_plugin.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

static const char *const names[] = {"cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"};

/* "uts:[4026531838]" is of this kind. */
static const char *name_of(const char *path)
{
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        size_t n = strlen(names[i]);
        if (!strncmp(path, names[i], n) && !strncmp(path + n, ":[", 2))
            return names[i];
    }
    return NULL;
}

static bool claim(const struct dmtcp_plugin_file *file)
{
    return name_of(file->path) != NULL;
}

static int save_file(struct dmtcp_plugin_call *call, const struct dmtcp_plugin_file *file)
{
    const char *name = name_of(file->path);
    struct stat own;
    char path[40];

    snprintf(path, sizeof(path), "/proc/self/ns/%s", name);
    if (stat(path, &own) < 0)
        return call->fail(call, "%s: %s", path, strerror(errno));
    if (own.st_ino != file->stat->st_ino)
        return call->fail(call, "%s is not the namespace that dmtcp runs in, and could not be found again", file->path);
    return call->keep(call, name, strlen(name));
}

/* The data are from an image: only a name that is in the list is used. */
static int open_file(struct dmtcp_plugin_call *call)
{
    char path[40];
    int fd;

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (call->size != strlen(names[i]) || memcmp(call->data, names[i], call->size) != 0)
            continue;
        snprintf(path, sizeof(path), "/proc/self/ns/%s", names[i]);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        return fd < 0 ? call->fail(call, "%s: %s", path, strerror(errno)) : fd;
    }
    return call->fail(call, "the image names no namespace");
}

const struct dmtcp_plugin dmtcp_plugin = {
    .api = DMTCP_PLUGIN_API,
    .name = "namespaces",
    .claim = claim,
    .save_file = save_file,
    .open_file = open_file,
};
