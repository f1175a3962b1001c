/*
 * The plugins that this process has loaded (the tracer, or dmtcp_restart and its driver), and calls into them. A library
 * is loaded once for a process and stays, so the list is the process's, too.
 */
#ifndef PLUGIN_PLUGIN_H
#define PLUGIN_PLUGIN_H

#include "base/err.h"
#include "include/dmtcp_plugin.h"

/*
 * Load the library at path, which is absolute; one that is there already is no error. strict: the path came in a message,
 * and who runs this may have more rights than who sent it, so the file must belong to root or to who runs this, and nobody else
 * may be able to write it.
 */
int plugin_load(const char *path, bool strict, struct err *err);
/* The same of an open file, which is taken over: of a library that the program before this one in the process had loaded. */
int plugin_load_fd(int fd, const char *path, struct err *err);

size_t plugin_count(void);
const char *plugin_name(size_t i);
const char *plugin_path(size_t i); /* under which it was loaded first */
int plugin_fd(size_t i);           /* of the library; close-on-exec */
bool plugin_is_name(const char *s); /* of letters, digits, '.', '_' and '-' only */
/* By the name in an image; false: no such plugin is loaded. */
bool plugin_find(const char *name, size_t *i);
/* The first that claims the descriptor; false: none. */
bool plugin_claims(const struct dmtcp_plugin_file *file, size_t *i);

/* A call: what goes in, and what the plugin kept. */
struct plugin_job {
    const pid_t *pids;
    size_t n_pids;
    const void *data;
    size_t size;
    void *kept; /* malloc'ed; NULL: nothing */
    size_t n_kept;
};

/* Each returns 0 or -errno, with err naming the plugin and its reason. */
int plugin_event(size_t i, enum dmtcp_plugin_event event, struct plugin_job *job, struct err *err);
int plugin_save_file(size_t i, const struct dmtcp_plugin_file *file, struct plugin_job *job, struct err *err);
int plugin_open_file(size_t i, struct plugin_job *job, int *fd, struct err *err);

#endif
