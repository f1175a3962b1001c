/*
 * A checkpoint in the making: what the tracer knows of the frozen processes of this host, and the
 * registry of kinds. A kind of object has one file here (pipe.c, …) with one struct kind_ops; the core
 * loops (fd.c, freeze.c, write.c) never ask which kind they handle.
 */
#ifndef TRACER_CKPT_H
#define TRACER_CKPT_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/user.h>

#include "base/err.h"
#include "coordinator/options.h"
#include "image/fd.pb-c.h"
#include "image/image.h"
#include "image/kinds.h"
#include "image/mm.pb-c.h"
#include "image/process.pb-c.h"
#include "image/signal.pb-c.h"
#include "image/thread.pb-c.h"
#include "image/timer.pb-c.h"
#include "injector/inject.h"

/* Memory for everything that lives as long as the checkpoint: freed at once (arena.c). NULL only when memory is out. */
struct arena;
void *arena_alloc(struct arena *a, size_t n); /* zeroed */
void *arena_dup(struct arena *a, const void *p, size_t n);
char *arena_printf(struct arena *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
struct arena *arena_new(void);
void arena_free(struct arena *a);
/* Append to a repeated field of a protobuf-c message: pointers array and count, from the arena. */
void arena_push(struct arena *a, void ***array, size_t *n, void *item);
ProtobufCBinaryData arena_bytes(struct arena *a, const void *p, size_t n);
ProtobufCBinaryData arena_text(struct arena *a, const char *s);

struct thread {
    pid_t tid;
    bool seized;
    bool stopped;      /* in a ptrace-stop of ours */
    bool gone;         /* it has ended */
    int stop_status;   /* wait(2) status of the stop */
    struct user_regs_struct regs;
    uint64_t sigmask;
    long call_nr;      /* the system call that it was blocked in before it was interrupted, -1: none */
    int64_t call_since_ns; /* for how long, when that matters; -1: not known */
    Thread *msg;       /* from the arena */
};

struct proc {
    pid_t pid;
    pid_t ppid;
    bool is_root;      /* launched or attached by name */
    bool zombie;
    bool leader_dead;
    bool shares_mm;    /* another process of the tree owns its memory: nothing to save here */
    bool shares_files;
    struct proc *mm_proc, *files_proc; /* who owns what it shares; itself when alone */
    struct proc *parent;               /* in the tree; NULL: outside */
    bool kept_back;    /* keepback.h: it stays frozen when the others are let go */
    struct thread *threads;
    size_t nthreads, cap_threads;
    struct inj inj;
    bool injected;
    int pidfd;
    Process *process;
    Signals *signals;
    Timers *timers;
    Mm *mm;
    FdTable *fdtable;
    struct ofd **ofds;           /* of fdtable->fds, in the same order */
    struct image_writer *writer; /* while images are written */
    char *tmp_path, *image_path;
    void *mem;         /* memory.c's own */
    struct inj *snapshot; /* a copy of it that only holds its memory (snapshot.h), NULL: none */
    struct proc *stands_for; /* inflight.c: the tracer in the place of this one, for what nobody has open */
};

/* The thread by which /proc and ptrace know its memory: a leader that has ended has none. */
static inline pid_t proc_task(const struct proc *p)
{
    return p->leader_dead && p->nthreads ? p->threads[0].tid : p->pid;
}

/* One fd of one process, as /proc shows it. */
struct fd_info {
    struct proc *proc;
    int fd;
    char *link;        /* readlink of /proc/PID/fd/N */
    struct stat st;
    uint32_t flags;    /* octal flags of fdinfo: open(2) flags and O_CLOEXEC */
    int64_t pos;
    int mnt_id;
    char *fdinfo;      /* the whole text */
    int stream;        /* 0, 1, 2: a standard stream of a launched process leads to the same inode; -1: none does */
    uint32_t streams;  /* all that do, as bits 1, 2, 4 */
};

/* A kernel object that fds or mappings refer to; saved once. */
struct object {
    uint64_t id;
    const struct kind_ops *ops;
    uint64_t dev, ino; /* identity: with ops the key under which it is found again */
    const void *key;   /* or further bytes of identity */
    size_t key_len;
    struct proc *proc; /* the process through which it is asked: the first that has it */
    int fd;            /* the fd there, -1: known by a mapping only */
    ProtobufCMessage *msg; /* the record, from the arena; its first field is the id */
    void *priv;
    unsigned holders_outside;
    struct object *next;
};

/* An open file description. */
struct ofd {
    Ofd *msg;
    struct object *object;
    struct proc *proc; /* where it was seen first */
    int fd;
    struct stat st;    /* of its inode */
    struct ofd *next;
};

struct ckpt_options {
    bool save_open_files;
    bool allow_file_overwrite;
    int compress, level;
    const char *ckptdir;
    enum ext_tcp ext_tcp;
    bool hold;        /* the program is killed when the images are there */
    struct keepback *keepback; /* who was kept back since the last try, and is to be until the next; NULL: nobody */
    bool last_try;
};

/* How far CLOCK_MONOTONIC is ahead of the scheduler's clock of each CPU (calls.c). */
struct cpu_clocks {
    int64_t offset[256];
    bool known[256];
};

struct ckpt {
    struct cpu_clocks clocks;
    struct deadlines *deadlines; /* the tracer's: deadline.h */
    struct arena *arena;
    struct ckpt_options options;
    struct proc **procs; /* ascending pid; sorted so that parents need not come first */
    size_t nprocs, cap_procs;
    struct object *objects; /* in order of discovery */
    struct object **objects_tail;
    struct ofd *ofds;
    struct ofd **ofds_tail;
    uint64_t next_id;
    void *index;       /* hash of objects */
    uint64_t generation;
    void *tracer;
    void *sockets;     /* socket.h's own */
    bool killed;       /* every process, by us: nothing is put back */
    Launched **launched; /* for the image (trees_record()) */
    size_t n_launched;
    size_t plugins_told; /* of the list of plugin.h: they expect to hear that the processes go on */
};

/*
 * What a kind can do. Any but probe may be NULL. Each returns 0 or -errno with err saying what cannot be
 * saved and why ("refuse, don't guess").
 */
struct kind_ops {
    uint32_t kind;
    /* Nothing but its one description leads to such an object (anonymous inodes): identify is not asked. */
    bool per_description;
    /* Is this fd of this kind? The first row of the table that says yes handles it. */
    bool (*probe)(const struct fd_info *fi);
    /* Identity beyond dev and ino, if those do not suffice (anonymous inodes share one): fills o->key. */
    int (*identify)(struct ckpt *c, const struct fd_info *fi, struct object *o, struct err *err);
    /* First sight of the object: fill o->msg. All processes are frozen, each has the parasite in it. */
    int (*collect)(struct ckpt *c, const struct fd_info *fi, struct object *o, struct err *err);
    /* Each description of it: what the generic part of Ofd does not say (locks, which end). */
    int (*describe)(struct ckpt *c, const struct fd_info *fi, struct ofd *d, struct err *err);
    /* All tables are read: find the descriptions that wait inside the object, by ckpt_own_ofd(). */
    int (*in_flight)(struct ckpt *c, struct object *o, struct err *err);
    /* After every process was collected: connections, items that refer to other descriptions. */
    int (*match)(struct ckpt *c, struct object *o, struct err *err);
    /* Content in flight: first every sender, then every receiver (DESIGN: a consistent cut). */
    int (*peek_send)(struct ckpt *c, struct object *o, struct err *err);
    int (*peek_receive)(struct ckpt *c, struct object *o, struct err *err);
    /* Write more than o->msg: page contents of space o->id. May run in a worker thread. */
    int (*write)(struct ckpt *c, struct object *o, struct image_writer *w, struct err *err);
    /* The checkpoint is over, whatever came of it: put back what was changed. */
    void (*release)(struct ckpt *c, struct object *o);
};

extern const struct kind_ops *const tracer_kinds[]; /* kinds.c; NULL at the end */

/* objects.c */
struct object *ckpt_find_object(struct ckpt *c, const struct kind_ops *ops, uint64_t dev, uint64_t ino, const void *key,
                                size_t key_len);
struct object *ckpt_add_object(struct ckpt *c, const struct kind_ops *ops, uint64_t dev, uint64_t ino, const void *key,
                               size_t key_len);
struct proc *ckpt_find_proc(const struct ckpt *c, pid_t pid);

/* fd.c: the descriptor tables of all processes into objects, descriptions and FdTable messages. */
int collect_fds(struct ckpt *c, struct err *err);
/* Pieces of it: what /proc says of one fd (dirs: fd and fdinfo of /proc/PID); a description seen for the first time. */
int ckpt_read_fd(struct ckpt *c, struct proc *p, const int dirs[2], int fd, struct fd_info *fi, struct err *err);
int ckpt_add_ofd(struct ckpt *c, const struct fd_info *fi, struct ofd **out, struct err *err);
/*
 * inflight.c: descriptions that wait in a socket's queue (SCM_RIGHTS). collect_in_flight() asks every object,
 * those found on the way too. ckpt_own_ofd() gives the description behind an fd of the tracer's own, found
 * in an object of holder's; *keep: nobody else has it open, so the fd must stay open until release.
 */
int collect_in_flight(struct ckpt *c, struct err *err);
int ckpt_own_ofd(struct ckpt *c, struct proc *holder, int fd, struct ofd **out, bool *keep, struct err *err);
/* The description that (proc, fd) refers to, NULL when that fd is not open. */
struct ofd *ckpt_find_ofd(struct ckpt *c, struct proc *p, int fd);
/*
 * A copy of a process's fd: the same open file description, so fcntl(2) and ioctl(2) on it ask what the process
 * would be told. Close it soon: while it is open, the end of a pipe or socket looks alive. -errno and err.
 */
int ckpt_get_fd(const struct proc *p, int fd, struct err *err);
/* tcpkeep.c: every object was released; it has a helper process for what the killed program's peers still send. */
void tcp_keep_end(struct ckpt *c);
/* The thread through which /proc and kcmp(2) see the descriptors (the leader may be dead). */
pid_t ckpt_fd_task(const struct proc *p);
/* "process 123 (prog): fd 7: " in front of what err says; with fi->fd -1 without the fd. Returns -err->code. */
int ckpt_fd_err(const struct fd_info *fi, struct err *err);

/*
 * The object of a file that is known by path only (executables, cwd): a File record. `via` is a
 * path of /proc (exe, cwd) through which it can be opened. Mappings: ckpt_mapping_object() in shm.h.
 */
struct object *ckpt_file_object(struct ckpt *c, struct proc *p, const char *via, const struct stat *st, const char *link,
                                struct err *err);

#endif
