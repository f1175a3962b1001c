/*
 * A restart in the making. One process, the driver, knows everything: it reads the images, makes skeleton
 * processes (injector/inject.h) and builds all they need by remote system calls, in one thread, in one order.
 * So there is no synchronisation between the processes that are rebuilt.
 *
 * A kind of object has one file here (pipe.c, …) with one struct rebuild_ops; the core never asks which
 * kind it handles.
 */
#ifndef RESTORER_RESTORE_H
#define RESTORER_RESTORE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "coordinator/options.h"
#include "image/fd.pb-c.h"
#include "image/image.pb-c.h"
#include "image/image.h"
#include "image/kinds.h"
#include "image/mm.pb-c.h"
#include "image/process.pb-c.h"
#include "image/signal.pb-c.h"
#include "image/thread.pb-c.h"
#include "image/timer.pb-c.h"
#include "injector/inject.h"

struct rproc {
    struct image *image;
    const char *path;      /* of the image, for messages */
    ImageHead *head;
    Process *process;      /* the only record that a zombie has besides the head */
    Mm *mm;
    Signals *signals;
    Timers *timers;
    Thread **threads;      /* the leader first */
    size_t nthreads;
    FdTable *fdtable;
    struct rproc *parent;  /* in the tree; NULL: outside */
    pid_t pid;             /* in the image, and inside the restored pid namespace */
    pid_t host_pid;        /* as the driver sees it: differs in a new pid namespace */
    struct inj inj;
    bool alive;
    Mm *own_mm;            /* of one that shares another's memory (then mm is that one's); else NULL */
    struct rproc *mm_home; /* in whose image its memory is: itself unless it shares it (CLONE_VM) */
    bool built;            /* its private memory stands: children forked from now on share it */
    uint32_t slot;         /* of its host thread in the area (blob.h) */
    uint32_t next_slot;    /* of a process that has its memory first: slots given out */
    uint64_t vdso;         /* where this kernel's vDSO is in it; 0: unmapped */
    struct rproc *came_from; /* whose copy its memory was when it was forked; NULL: the driver's */
    int64_t *call_ends;    /* of each thread: CLOCK_MONOTONIC, ns, when its interrupted call ends; 0: none */
    bool seized;           /* its threads are traced, and stopped */
    bool cleared;          /* nothing of the driver is mapped in it */
    void *priv;            /* of fd.c and the kinds */
};

struct robject {
    uint64_t id;
    const struct rebuild_ops *ops;
    ProtobufCMessage *msg; /* unpacked record of the kind */
    struct rproc *home;    /* the process in whose image it is */
    int fd;                /* the driver's own fd for it, -1: none (rebuild sets it if the kind has one) */
    void *priv;
    size_t unopened;       /* descriptions of it that are still to be made */
    struct robject *next;
};

/* An open file description: made once in the driver (or fetched into it) and sent to all that hold it. */
struct rofd {
    Ofd *msg;
    struct robject *object;
    int fd;                /* the driver's copy, -1: none (see restore_ofd_fd()) */
    struct rproc *proc;    /* a process that holds it and the number it has there */
    int remote;
    bool placed;           /* it is there already */
    struct rofd *next;
};

struct restore_options {
    bool no_strict_checking;
    bool in_new_pidns, pids_must_match;
    bool skip_file_checks;
    bool ignore_cpu;       /* --ignore-cpu-features */
    int stdio[3];          /* what stands in for outside streams */
    const char *restartdir, *tmpdir;
    char **plugin;         /* absolute paths of the libraries, loaded */
    size_t n_plugin;
    enum ext_tcp ext_tcp;
};

struct restore {
    struct restore_options options;
    struct rproc *procs;
    size_t nprocs;
    struct robject *objects;
    struct rofd *ofds;
    void *index;           /* hashes: object by id, ofd by id */
    uint64_t area;         /* where the parasite's area is in every skeleton: free in all of them */
    uint32_t slots;
    uint64_t vdso_home;    /* where the vDSO is until it goes to its place: next to the area */
    int ctl_fd;            /* first of the fd numbers that no process uses: the control sockets have them */
    uint32_t ctl_fds;      /* how many they are */
    bool new_pidns;
    bool new_userns;
    bool new_timens;
    int64_t monotonic_shift, boottime_shift; /* ns, for new_timens */
    pid_t pid_max;         /* of the namespace that dmtcp_restart is in: pids are below it */
    size_t n_objects;
    int report;            /* the driver's end of the channel to dmtcp_restart, -1 there */
    struct caps *caps;     /* the driver's capabilities (creds.c) */
    size_t xstate_size;    /* of this CPU (regs.c) */
    struct vdso *vdso;     /* of this kernel (vdso.c) */
    struct rsockets *sockets; /* socket.h */
    struct kept *kept;     /* what restore_alloc() gave */
};

/* Zeroed memory that lives until images_close(); NULL if there is none. */
void *restore_alloc(struct restore *r, size_t size);
/* The bytes as a text, kept as long. */
char *restore_text(struct restore *r, const ProtobufCBinaryData *bytes);

struct rebuild_ops {
    uint32_t kind;
    const ProtobufCMessageDescriptor *descriptor;
    /* Before anything is touched: can it be rebuilt here (path exists, right size, may be opened)? */
    int (*prepare)(struct restore *r, struct robject *o, struct err *err);
    /*
     * For objects that mappings refer to: an fd that mmap(2) in the target can use, for writing through a
     * shared mapping or not. Called before any process exists, so before rebuild; the fd stays the object's
     * (the same one may be given each time). NULL: objects of this kind are never mapped.
     */
    int (*map)(struct restore *r, struct robject *o, bool write, int *fd, struct err *err);
    /* Make the object. Skeletons exist, none has its fds yet. */
    int (*rebuild)(struct restore *r, struct robject *o, struct err *err);
    /* Make one open file description of it: *fd is the driver's. Flags, position, owner are set by the core. */
    int (*open)(struct restore *r, struct robject *o, struct rofd *d, int *fd, struct err *err);
    /* The descriptions are not ours alone (dmtcp_restart's own streams): the core leaves flags and position alone. */
    bool borrowed;
    /*
     * There may be very many: a description is made when the first process gets it, and the driver keeps no copy, so that
     * its own limit of open files does not count. `open` knows by o->unopened which is the last.
     */
    bool passing;
    /* What goes to fd `number` of a process, if not d->fd: an fd of the driver, which stays whoever's it is. */
    int (*pick)(struct restore *r, struct rofd *d, uint32_t number);
    /* Every process has its fds: queued content, epoll items, armed timers. */
    int (*refill)(struct restore *r, struct robject *o, struct err *err);
    /* Last, after threads stand and just before everyone runs. */
    int (*arm)(struct restore *r, struct robject *o, struct err *err);
    /* After that, with every process's own credentials: what remembers those of its maker. */
    int (*last)(struct restore *r, struct robject *o, struct err *err);
    /* Everything stands and the coordinator has agreed: what others outside see of it. Should not fail any more. */
    int (*go)(struct restore *r, struct robject *o, struct err *err);
};

extern const struct rebuild_ops *const restorer_kinds[]; /* kinds.c; NULL at the end */

/* Something that is not as it was and that the user should read; said by dmtcp_restart (driver.c). */
void restore_note(const struct restore *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

struct robject *restore_object(const struct restore *r, uint64_t id);
struct rofd *restore_ofd(const struct restore *r, uint64_t id);
/* The driver's fd of it, made or fetched back if need be; -errno and err. */
int restore_ofd_fd(struct restore *r, struct rofd *d, struct err *err);
struct rproc *restore_proc(const struct restore *r, pid_t pid);

/* objects.c, fd.c: everything about objects and descriptors, in the order in which the core calls it. */
int prepare_objects(struct restore *r, struct err *err);    /* before anything is touched */
int rebuild_objects(struct restore *r, struct err *err);    /* makes objects; skeletons exist */
int rebuild_fd_tables(struct restore *r, struct err *err);  /* descriptions, sent into every process, at their numbers */
int refill_objects(struct restore *r, struct err *err);     /* content, epoll items, and then locks */
/* Threads exist, all else is done: timers, seals, who gets SIGIO. From here on the program may notice things. */
int arm_objects(struct restore *r, struct err *err);
int last_objects(struct restore *r, struct err *err);       /* after thread_host() */
int plugins_restart(struct restore *r, struct err *err);    /* plugin.c; everything stands, and the coordinator has agreed */
int go_objects(struct restore *r, struct err *err);         /* the very last step */

#endif
