/* Between dmtcp_restart, which becomes the stand-in, and the driver, its child, which becomes the tracer. */
#ifndef RESTORER_DRIVER_H
#define RESTORER_DRIVER_H

#include "coordinator/client.h"
#include "restorer/restore.h"

/*
 * What the driver says over its socket (SOCK_SEQPACKET): notes for the user; a root, with its pidfd as SCM_RIGHTS; then
 * END when all runs, or FAILED with a text, after which nothing is left.
 */
enum report_op { REPORT_ROOT = 1, REPORT_END, REPORT_FAILED, REPORT_NOTE };

struct report {
    uint32_t op;
    int32_t own_group; /* ROOT: it leads its process group */
    char text[1000];   /* FAILED, NOTE */
};

struct driver_config {
    struct coord *coord;      /* NULL: no coordinator (mtcp_restart) */
    const struct options *options;
    const char *manifest;
};

/* Runs in the child of dmtcp_restart; execs the tracer or exits. */
void driver_run(struct restore *r, const struct driver_config *config) __attribute__((noreturn));

/* In dmtcp_restart: take the driver's reports, then stand in. Returns the exit code; fail_rc as in options.h. */
int standin_run(int report, pid_t driver, int fail_rc);

#endif
