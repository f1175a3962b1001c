/*
 * The manifest of a generation: which images, on which hosts, belong together. The coordinator
 * writes it last, so its presence means that the generation is complete; dmtcp_restart and the restart
 * script start from it. A text file, one fact a line:
 *
 *   dmtcp-manifest 1
 *   computation "2f6a…-1234-65f0…"
 *   generation 3
 *   time 1711111111
 *   host 0 "name" "boot id" PIDNS "ckptdir"
 *   image 0 SIZE PID FLAGS "program" "/path/of/image.dmtcp"
 *   end 1
 *
 * Strings are in double quotes; backslash, quote and every byte outside 0x20..0x7e are \xHH. FLAGS is "f" for
 * the root of a launched tree (what the terminal sees), else "-". Images of a host come in one run, hosts in
 * the order of their number; "end" counts the images, so a cut file is noticed.
 */
#ifndef BASE_MANIFEST_H
#define BASE_MANIFEST_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct manifest_host {
    char *hostname;
    char *boot_id;
    uint64_t pidns;
    char *ckptdir; /* of the first image: where a new tracer there writes by default */
};

struct manifest_image {
    unsigned host; /* index */
    uint64_t size; /* bytes */
    int pid;
    int foreground;
    char *program;
    char *path; /* absolute */
};

struct manifest {
    char *computation;
    unsigned generation;
    int64_t time; /* of the checkpoint, seconds since the epoch */
    struct manifest_host *host;
    size_t n_hosts, cap_hosts;
    struct manifest_image *image;
    size_t n_images, cap_images;
};

#define MANIFEST_PREFIX "dmtcp_manifest_"

/* An empty one; NULL when memory is out. manifest_free(NULL) is fine. */
struct manifest *manifest_new(const char *computation, unsigned generation, int64_t time);
void manifest_free(struct manifest *m);

/* Add; the strings are copied. The index, or -ENOMEM. */
int manifest_add_host(struct manifest *m, const char *hostname, const char *boot_id, uint64_t pidns,
                      const char *ckptdir);
int manifest_add_image(struct manifest *m, unsigned host, const char *path, uint64_t size,
                       const char *program, int pid, int foreground);

/* dir/dmtcp_manifest_<computation>_<generation>, in fresh memory. */
char *manifest_path(const char *dir, const char *computation, unsigned generation);

/* Parse text (hostile, perhaps); err names the line. -EINVAL, -ENOMEM. */
int manifest_parse(const char *text, size_t len, struct manifest **m, struct err *err);
int manifest_read(const char *path, struct manifest **m, struct err *err);

/* 1 when the file begins as a manifest does. For telling what dmtcp_restart was given. */
int manifest_is(const char *path);

/* Text in fresh memory; NULL when memory is out. */
char *manifest_format(const struct manifest *m);

/*
 * Write it to `path` (absolute or not) durably: temporary file, fsync, rename that does not replace, fsync of
 * the directory. -EEXIST when there is one of that name. On failure nothing is left behind.
 */
int manifest_write(const struct manifest *m, const char *path, struct err *err);

/* The newest complete manifest in a directory (by time, then generation), in fresh memory. -ENOENT: none. */
int manifest_newest(const char *dir, char **path, struct err *err);

#endif
