/*
 * The coordinator's insides: one struct server, one struct peer for each connection, and what the files of
 * the server call in each other. Everything happens in one thread, in answer to an event (a message, an end
 * of file, a deadline); nothing waits. What has to wait for a disk has a thread of its own (commit.c).
 *
 *   server.c      the event loop, deadlines
 *   peer.c        connections: bytes in and out, requests and their answers
 *   dispatch.c    which message of which role goes to which function
 *   members.c     tracers and restarters: join, leave; launchers: who starts a tracer
 *   checkpoint.c  who asks for a checkpoint, and its beginning (checkpoint.h)
 *   phases.c      its phases
 *   outcome.c     its ends
 *   commit.c      manifest and restart script, written and synced
 *   generation.c  their names, older generations
 *   commands.c    what dmtcp_command and the console ask for
 *   gather.c      asking all tracers, for commands.c
 *   names.c       name service and barriers
 *   console.c     commands on standard input
 */
#ifndef COORDINATOR_SERVER_H
#define COORDINATOR_SERVER_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/manifest.h"
#include "coordinator/options.h"
#include "coordinator/wire.h"

struct server;
struct peer;

/* Who asked for something, and so gets the answer: a peer's id (it may be gone by then) and its seq. */
#define CONSOLE_ID 0
struct ask { /* seq 0: nobody wants the answer */
    uint64_t peer;
    uint32_t seq;
    int progress; /* wants Progress messages */
};

enum role {
    ROLE_NEW = 1,   /* handshake not over */
    ROLE_KNOWN = 2, /* has our key, has not said what it is */
    ROLE_TRACER = 4,
    ROLE_RESTARTER = 8,
    ROLE_LAUNCHER = 16,
    ROLE_COMMAND = 32,
};
#define ROLE_MEMBER (ROLE_TRACER | ROLE_RESTARTER)

/*
 * Gets every answer to a request: Text and Progress, then a last one. answer NULL: the peer is gone. Returns
 * 1 to keep the message (and free it later), 0 to have it freed.
 */
typedef int (*answer_fn)(struct server *s, struct peer *from, Wire__Msg *answer, void *arg);

struct pending {
    uint32_t seq;
    answer_fn fn;
    void *arg;
};

struct peer {
    struct peer *next;
    uint64_t id;
    int fd;
    int broken; /* sending failed: to be closed at the end of the round, when nobody walks over lists */
    int dead;   /* closed; freed at the end of the round */
    int want_write;
    enum role role;
    struct wire *wire;
    char from[80];    /* address, for the log */
    int64_t deadline; /* ms; ends an unfinished handshake, or a launcher's turn to start a tracer; 0: none */
    uint32_t next_seq;
    struct pending *pending;
    size_t n_pending, cap_pending;
    /* Members and launchers: */
    Wire__Msg *hello;   /* the Join or Launch that it came with */
    int starting;       /* a launcher that was told to start a tracer: how many times */
    uint32_t processes; /* of a tracer, as last heard */
};

struct server_config {
    const struct options *options;
    const char *bind;
    int exit_on_last, kill_after_ckpt, write_kv_data;
    int timeout, stale_timeout; /* seconds; 0: none */
    int keep;
    const char *status_file;
    int use_stdin;
};

enum checkpoint_state { CK_IDLE, CK_PHASE, CK_COMMITTING, CK_ABORTING, CK_KILLING };

struct checkpoint_member {
    uint64_t peer;
    Wire__Progress progress;
    int host; /* index in the manifest; -1 until it has an image */
};

struct checkpoint {
    enum checkpoint_state state;
    Wire__Phase__Id phase;
    unsigned generation;
    int solo, hold;
    int64_t time_us; /* when it began, since the epoch */
    int64_t started_ns;
    size_t waiting; /* answers */
    struct checkpoint_member *member;
    size_t n_members;
    struct ask *ask; /* who waits for the end of this one */
    size_t n_asks, cap_asks;
    struct err failure; /* the first; code 0: none */
    struct manifest *manifest;
    uint64_t bytes, frozen_ns;
    /* The next one, asked for while this one (or a restart) is going on. */
    int next, next_hold;
    struct ask *next_ask;
    size_t n_next_asks, cap_next_asks;
};

struct generation {
    char *path; /* of the manifest */
    char *script;
    struct manifest *manifest;
};

struct name {
    ProtobufCBinaryData key, value;
};

struct barrier {
    struct barrier *next;
    char *name;
    unsigned count;
    struct ask *ask;
    size_t n_asks, cap_asks;
};

struct deferred {
    struct ask ask;
    Wire__Msg *msg;
};

struct server {
    struct server_config config;
    unsigned char key[WIRE_KEY_SIZE];
    int listen_fd, epoll_fd, signal_fd;
    int spare_fd;          /* given up for a moment to turn a connection away when fds are out */
    int commit_fd;         /* an eventfd: the commit's thread is done */
    struct commit *commit; /* going on while the state is CK_COMMITTING */
    char listen_tag, signal_tag, console_tag,
        commit_tag; /* their addresses tell epoll's events from those of peers */
    int port;
    int console; /* standard input is being read */
    char line[256];
    size_t line_len;
    struct peer *peers;
    uint64_t next_peer_id;
    size_t n_new; /* peers with an unfinished handshake */
    char hostname[256], boot_id[64];
    uint64_t pidns;

    char *computation;
    unsigned generation; /* last complete */
    int interval;
    int had_worker;    /* a member or launcher has been here */
    int restart_hosts; /* restarters that barriers wait for; 0: no restart going on */
    int64_t interval_at, timeout_at, stale_at, quit_at; /* ms; 0: none */
    int quitting, done;
    struct ask quit_ask;

    struct checkpoint ck;
    struct generation *history; /* complete ones whose images we may remove, oldest first */
    size_t n_history, cap_history;
    int keep;
    char *plugins; /* paths with colons between, NULL: none */
    int64_t last_time;
    uint64_t last_bytes, last_ns, last_frozen_ns;
    char last_error[1000];

    struct name *names;
    size_t n_names, cap_names;
    struct barrier *barriers;
    struct gather *gathers;
    struct deferred *deferred; /* what waits for the end of a checkpoint */
    size_t n_deferred, cap_deferred;
};

/* server.c */
int server_init(struct server *s, const struct server_config *config, const unsigned char *key,
                struct err *err);
int server_listen(struct server *s, int port, struct err *err);
int server_round(struct server *s, int may_wait,
                 struct err *err);                 /* what is there now: the number of events */
int server_run(struct server *s, struct err *err); /* until done */
void server_free(struct server *s);
void server_stop_listening(struct server *s);

/* peer.c */
void peer_accept(struct server *s);
void peer_event(struct server *s, struct peer *p, uint32_t events);
void peer_flush(struct server *s, struct peer *p);
void peer_close(struct server *s, struct peer *p, const char *why); /* why NULL: nothing to log */
void peers_reap(struct server *s);                                  /* close the broken, free the dead */
struct peer *peer_by_id(struct server *s, uint64_t id);
void peer_send(struct server *s, struct peer *p, const Wire__Msg *msg);
/* Send with a fresh seq; fn gets the answers, in any case a last one. */
void peer_request(struct server *s, struct peer *p, Wire__Msg *msg, answer_fn fn, void *arg);
size_t peers_count(const struct server *s, unsigned roles);

/* Answers to who asked (perhaps nobody any more). msg->re is filled in. */
void answer(struct server *s, const struct ask *ask, Wire__Msg *msg);
void answer_ok(struct server *s, const struct ask *ask);
void answer_error(struct server *s, const struct ask *ask, int code, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* dispatch.c: takes the message. */
void dispatch(struct server *s, struct peer *p, Wire__Msg *msg);
int defer(struct server *s, const struct ask *ask,
          Wire__Msg *msg); /* 1: it is kept for later; 0: no need to */
void deferred_run(struct server *s);

/* members.c; handlers as in dispatch.c: return 1 when they keep msg. */
int on_join(struct server *s, struct peer *p, Wire__Msg *msg);
int on_leave(struct server *s, struct peer *p, Wire__Msg *msg);
int on_launch(struct server *s, struct peer *p, Wire__Msg *msg);
void member_gone(struct server *s, struct peer *p); /* p is closed, its pending answers have been given */
void launchers_resume(struct server *s);            /* a checkpoint is over: adopt those who came meanwhile */
void launch_turn_over(struct server *s, struct peer *p);
const char *member_hostname(const struct peer *p);
const Wire__Host *peer_host(const struct peer *p); /* NULL: not known */
int same_host(const Wire__Host *a, const Wire__Host *b);
int server_new_computation(struct server *s);

/* checkpoint.c, outcome.c */
void checkpoint_request(struct server *s, const struct ask *ask, int hold, int wait);
void checkpoint_next(struct server *s); /* start the one that was asked for, if any and if possible */
void checkpoint_cancel(struct server *s, const char *why);
void checkpoint_free(struct server *s);
void checkpoint_committed(
    struct server *s); /* the commit is done, or (waiting for it) has to be now; else nothing */
int restarting(const struct server *s);

/* generation.c */
int generation_possible(struct server *s, struct err *err); /* before anything is frozen */
/* The names of m's files, in fresh memory; m's computation may get another id. */
int generation_name(struct server *s, struct manifest *m, char **path, char **script, struct err *err);
void generation_complete(struct server *s, struct manifest *m, char *path, char *script); /* takes them all */
/* Forget what is older than `keep`: per member the images that it is to remove (array of n_images each, by
 * caller freed). */
struct removal {
    uint64_t peer;
    char **path;
    size_t n, cap;
};
size_t generation_prune(struct server *s, struct removal **removals);
void removals_free(struct removal *r, size_t n);
void generation_continue(struct server *s, const char *manifest); /* a restart goes on from this one */
void generations_free(struct server *s);

/*
 * commit.c: start writing (m must stay until the end); commit_fd tells when it is done. Finish, waiting for
 * it if it is not, takes m when it succeeds. Forget waits too, and leaves on disk what is there.
 */
int commit_start(struct server *s, struct manifest *m, struct err *err);
int commit_finish(struct server *s, struct manifest *m, struct err *err);
void commit_forget(struct server *s);

/* script.c: text in fresh memory, NULL: out of memory */
char *script_format(const struct server *s, const struct manifest *m, const char *restart_program);

/* commands.c */
int on_command(struct server *s, struct peer *p, Wire__Msg *msg);
void command_run(struct server *s, const struct ask *ask, const Wire__Command *command);
void quit(struct server *s, const struct ask *ask, int kill);
void status_file_write(struct server *s);

/* gather.c */
int64_t gather_deadline(const struct server *s); /* 0: none */
void gathers_expire(struct server *s, int64_t now);

/* names.c */
int on_publish(struct server *s, struct peer *p, Wire__Msg *msg);
int on_query(struct server *s, struct peer *p, Wire__Msg *msg);
int on_barrier(struct server *s, struct peer *p, Wire__Msg *msg);
void names_clear(struct server *s);
void barriers_check(struct server *s); /* some may be complete now (fewer peers are expected) */
void barriers_fail(struct server *s, const char *why);
int names_dump(const struct server *s, struct err *err); /* --write-kv-data */

/* console.c */
void console_start(struct server *s);
void console_event(struct server *s);
void console_answer(struct server *s, const Wire__Msg *msg);

#endif
