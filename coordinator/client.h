/*
 * The client's side of the coordinator protocol: for dmtcp_launch, the tracer, dmtcp_restart and
 * dmtcp_command.
 *
 * A handle is used by one thread. Sending blocks until all is sent (the coordinator always reads). Receiving
 * blocks or not as the caller says. Every failure of the connection itself has one of
 *   -ENODATA       the coordinator closed the connection (or died)
 *   -EACCES        what answers has another key: another user's coordinator
 *   -EPROTO, -EPROTONOSUPPORT, -EBADMSG   see wire.h
 *   -ETIMEDOUT     no answer in time
 *   -ECONNREFUSED  nobody listens there (and none was to be started)
 * and err says in words what happened with whom.
 *
 * The tracer's loop in short:
 *
 *   coord_import() or coord_connect(); coord_join(...);
 *   poll on coord_fd(); when readable (and after every coord_call()):
 *       while ((r = coord_next(c, &msg, err)) == 1) {
 *           serve(msg);   // answers with coord_reply_ok(c, msg, err) etc.
 *           coord_msg_free(msg);
 *       }
 *       if (r < 0) … the coordinator is gone: abort what is going on, let everyone run
 */
#ifndef COORDINATOR_CLIENT_H
#define COORDINATOR_CLIENT_H

#include <stddef.h>
#include <sys/types.h>

#include "base/err.h"
#include "coordinator/options.h"
#include "coordinator/wire.pb-c.h"

struct coord;

#define COORD_FOREVER (-1)

/*
 * Find, or per o->mode start, the coordinator that o describes, connect and authenticate.
 * A coordinator that is started here runs in the background and holds nothing of the caller's. If o->port
 * is 0 a new one is started on a free port. o->port_file is written when set.
 */
int coord_connect(struct coord **c, const struct options *o, struct err *err);
void coord_close(struct coord *c); /* NULL is fine */

int coord_fd(const struct coord *c);            /* to poll for POLLIN; close-on-exec */
const char *coord_where(const struct coord *c); /* "host:port" */
int coord_port(const struct coord *c);

/* Send as it is; msg->seq is left alone. */
int coord_send(struct coord *c, const Wire__Msg *msg, struct err *err);

/* The next message that has come, without waiting: 1 and *msg (free with coord_msg_free), 0: none, or
 * negative. */
int coord_next(struct coord *c, Wire__Msg **msg, struct err *err);

/* The same, waiting up to timeout_ms (COORD_FOREVER); -ETIMEDOUT. */
int coord_wait(struct coord *c, Wire__Msg **msg, int timeout_ms, struct err *err);

void coord_msg_free(Wire__Msg *msg);

/*
 * Send a request (its seq is filled in) and wait for its final answer. An Error answer becomes err with its
 * text and code. Text and Progress answers go to `more` when it is not NULL, and are dropped otherwise.
 * Requests of the coordinator that come in meanwhile are kept for coord_next(): poll does not show them, so
 * call that after this.
 */
typedef void (*coord_more)(void *arg, const Wire__Msg *msg);
int coord_call(struct coord *c, Wire__Msg *request, Wire__Msg **answer, int timeout_ms, coord_more more,
               void *arg, struct err *err);

/* Answers to a request of the coordinator. Nothing is sent when it wanted none. */
int coord_reply(struct coord *c, const Wire__Msg *request, Wire__Msg *answer, struct err *err);
int coord_reply_ok(struct coord *c, const Wire__Msg *request, struct err *err);
int coord_reply_error(struct coord *c, const Wire__Msg *request, const struct err *why, struct err *err);

/*
 * 1 when an Abort of the current checkpoint has come (coord_next() will give it), or the connection is lost;
 * else 0. Costs one recv(2): for looking in between during a long phase.
 */
int coord_abort_pending(struct coord *c);

/* This host and pid namespace; the strings live as long as the handle. */
int coord_host(struct coord *c, Wire__Host *host, struct err *err);

/* Join as tracer or restarter. host, uid and pid are filled in. *joined may be NULL. */
int coord_join(struct coord *c, Wire__Join *join, Wire__Msg **joined, struct err *err);

/* A tracer without trees asks to go: 1 it may, 0 it must stay (an Adopt is coming). */
int coord_leave(struct coord *c, struct err *err);

/* Name service and barriers; count 0 as in wire.proto. *values: answer with ->values, n as many as keys. */
int coord_publish(struct coord *c, const Wire__Publish *publish, struct err *err);
int coord_query(struct coord *c, size_t n, const ProtobufCBinaryData *keys, Wire__Msg **values,
                struct err *err);
int coord_barrier(struct coord *c, const char *name, unsigned count, struct err *err);

/*
 * Put a tree into the computation: asks the coordinator, starts a tracer if told so (with `config`: host,
 * port, key file are filled in), and waits until the tree at `pid` has been adopted, or not.
 */
int coord_launch(struct coord *c, pid_t pid, int attach, const Wire__TreeOptions *options,
                 Wire__TracerConfig *config, struct err *err);

/*
 * Start dmtcp_tracer in the background, of a session of its own, child of nobody, with / as directory and
 * without any of the caller's fds or its terminal. config->status_fd is filled in; the tracer reports on it
 * with coord_started(). *status is this end, to be given to coord_tracer_started() when it is readable.
 */
int coord_spawn_tracer(Wire__TracerConfig *config, int *status, struct err *err);
int coord_tracer_started(int status,
                         struct err *err); /* waits; closes status; fails with the tracer's text */

/* The tracer, when it has joined (why NULL) or can't (why: the reason; it exits then). Closes the fd. */
void coord_started(int status_fd, const struct err *why);

/* What `--config-fd fd` holds; the fd is closed. Free with wire__tracer_config__free_unpacked(). */
int coord_read_config(int fd, Wire__TracerConfig **config, struct err *err);

/* Put a config into a memfd (not close-on-exec: it is for execve). Returns it. */
int coord_write_config(const Wire__TracerConfig *config, struct err *err);

/*
 * Hand a connection over an execve(2): export makes bytes (caller frees *data) and clears close-on-exec of
 * the fd; the caller then execs. import sets close-on-exec again.
 */
int coord_export(struct coord *c, void **data, size_t *len, struct err *err);
int coord_import(struct coord **c, const void *data, size_t len, struct err *err);

/*
 * Where a program of ours is: next to the running one, in the build tree's directory of its module, or where
 * it was installed. In fresh memory; NULL: not found (err says where it was looked for).
 */
char *coord_find_program(const char *name, const char *module, struct err *err);

#endif
