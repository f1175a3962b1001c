/*
 * Plugins: what a site adds to a checkpoint and a restart. A plugin is a shared library that the tracer and
 * dmtcp_restart load (--with-plugin); nothing of it gets into the program. It is told when the program
 * stands still, before it goes on and when it has been rebuilt, and it may save and open again descriptors of kinds
 * that dmtcp itself does not know. dmtcp-plugin(7) tells the whole of it.
 *
 *     #include <dmtcp_plugin.h>
 *
 *     static int on_event(struct dmtcp_plugin_call *call) { … }
 *
 *     const struct dmtcp_plugin dmtcp_plugin = {.api = DMTCP_PLUGIN_API, .name = "licence", .event = on_event};
 *
 *     cc -shared -fPIC -o licence.so licence.c
 */
#ifndef DMTCP_PLUGIN_H
#define DMTCP_PLUGIN_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/stat.h>
#include <sys/types.h>

#define DMTCP_PLUGIN_API 1

enum dmtcp_plugin_event {
    /*
     * A checkpoint has begun: every process of the computation on this host stands still, nothing has been read
     * yet. What is given to keep() is in the image. A failure makes the checkpoint fail. The tracer may let the
     * program go and begin again: each of these is followed by a RESUME.
     */
    DMTCP_PLUGIN_PRECHECKPOINT = 1,
    /* The processes are about to go on where they were, whatever came of the checkpoint. Not if they are killed instead. */
    DMTCP_PLUGIN_RESUME = 2,
    /*
     * A restart has rebuilt every process: memory, descriptors, threads. None runs yet; what is left
     * to do should not fail any more. `data` is what was kept. A failure makes the restart fail.
     */
    DMTCP_PLUGIN_RESTART = 3,
    /* save_file() and open_file(). */
    DMTCP_PLUGIN_SAVE_FILE = 4,
    DMTCP_PLUGIN_OPEN_FILE = 5,
};

/* What a plugin is called with. Valid, with all that it points to, until the plugin returns. */
struct dmtcp_plugin_call {
    enum dmtcp_plugin_event event;
    /* The living processes, by the pids that this process knows them by. None with SAVE_FILE and OPEN_FILE. */
    const pid_t *pids;
    size_t n_pids;
    /* RESTART and OPEN_FILE: what was kept. It comes from the image: check it like any input. */
    const void *data;
    size_t size;
    /*
     * PRECHECKPOINT and SAVE_FILE: put size bytes into the image, for this plugin. The last call counts. Returns 0, or -1 if
     * there is no memory or size is beyond 16 MiB (DMTCP_PLUGIN_DATA_MAX).
     */
    int (*keep)(struct dmtcp_plugin_call *call, const void *data, size_t size);
    /* Say why something failed, in a line for the user. Returns -1, for `return call->fail(…)`. */
    int (*fail)(struct dmtcp_plugin_call *call, const char *format, ...) __attribute__((format(printf, 2, 3)));
};

#define DMTCP_PLUGIN_DATA_MAX (16u << 20)

/* A descriptor of a process that stands still; of one that waits in a socket's queue (SCM_RIGHTS) this process's copy. */
struct dmtcp_plugin_file {
    pid_t pid;
    int number;              /* there */
    const char *path;        /* what readlink(2) of /proc/PID/fd/NUMBER says */
    const struct stat *stat; /* of what it refers to */
    unsigned flags;          /* as of open(2), O_CLOEXEC included */
    int fd;                  /* save_file(): a copy of it in this process, the same open file description. claim(): -1 */
};

/* A plugin exports one of these, as `dmtcp_plugin`. Functions that it has no use for are NULL. */
struct dmtcp_plugin {
    unsigned api;     /* DMTCP_PLUGIN_API */
    const char *name; /* letters, digits, '.', '_', '-'. Goes into images: what was saved with it can only be restarted with it */
    /* PRECHECKPOINT, RESUME or RESTART. 0, or -1 when it failed (a RESUME can't). */
    int (*event)(struct dmtcp_plugin_call *call);
    /*
     * Is this descriptor the plugin's? It is asked first, of every open file description; the first plugin that says yes saves
     * it in the place of dmtcp, and whoever shares the description shares what open_file() makes.
     */
    bool (*claim)(const struct dmtcp_plugin_file *file);
    /* keep() what open_file() needs. 0, or -1. */
    int (*save_file)(struct dmtcp_plugin_call *call, const struct dmtcp_plugin_file *file);
    /*
     * At a restart, before any process runs: a descriptor in the place of the one that was saved, or -1. Its status flags, owner and
     * close-on-exec are set for it; its position is the plugin's affair.
     */
    int (*open_file)(struct dmtcp_plugin_call *call);
};

extern const struct dmtcp_plugin dmtcp_plugin;

#endif
