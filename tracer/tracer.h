/* The tracer process: its state, and how it answers the coordinator. */
#ifndef TRACER_TRACER_H
#define TRACER_TRACER_H

#include "coordinator/client.h"
#include "tracer/checkpoint.h"
#include "tracer/deadline.h"
#include "tracer/follow.h"

struct tree {
    pid_t root;
    Wire__TreeOptions *options; /* owned */
};

struct tracer {
    struct coord *coord;
    struct follow *follow;
    struct tree *trees;
    size_t ntrees, cap_trees;
    struct checkpoint checkpoint;
    struct deadlines deadlines;
    char *computation;
    char *ckptdir;
    char host_id[40];
    uint32_t generation; /* being made */
    int64_t time;
    int watch;           /* pidfd of a member, -1: none */
    int sigchld;         /* signalfd: a thread stopped later than the thaw */
    int status_fd;       /* tells who started us how it went; -1 once joined */
    uint64_t bytes_done, bytes_total;
    int64_t progress_at;
    const Wire__Msg *progress_for;
};

/* Read the config, connect and join, take over trees of a restart. */
int tracer_start(struct tracer *t, int config_fd, struct err *err);

/* Answer one message of the coordinator. Only a broken connection is an error here. */
int tracer_serve(struct tracer *t, const Wire__Msg *msg, struct err *err);

/* The coordinator is gone, or everything has ended: let everyone run, free all. */
void tracer_end(struct tracer *t);

/* trees.c */
int trees_adopt(struct tracer *t, const Wire__Adopt *a, struct err *err);
int trees_detach(struct tracer *t, pid_t pid, struct err *err);
int trees_take_over(struct tracer *t, const Wire__TracerConfig *config, struct err *err);
int trees_kill(struct tracer *t, struct err *err);
int trees_list(struct tracer *t, struct arena *a, Wire__Processes *out, struct err *err);
void trees_options(const struct tracer *t, struct ckpt_options *o);
int trees_record(const struct tracer *t, struct ckpt *c, struct err *err); /* after the freeze */

/* backtrace.c: text of all threads' backtraces of pid (0: all), sent as it is made. */
int send_backtraces(struct tracer *t, const Wire__Msg *request, pid_t pid, struct err *err);

#endif
