/*
 * The injector: put the parasite into a process, run batches of system calls in it, take it out.
 *
 * The same executor serves a checkpoint (inj_enter … inj_leave on a running program that is in a
 * ptrace-stop) and a restart (inj_area_local, inj_spawn, inj_fork on skeleton processes that consist
 * of nothing else). It knows no feature: what is asked of a process is plain C in the caller.
 *
 * One thread per process, the host, runs the executor; it takes batches from a control socket whose
 * other end the caller holds. When that end closes, the parasite plays the undo journal and returns to
 * the program by itself (blob.h).
 */
#ifndef INJECTOR_INJECT_H
#define INJECTOR_INJECT_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/types.h>
#include <sys/user.h>

#include "base/err.h"
#include "injector/blob/blob.h"

#define INJ_MAX_CALLS  2048u
#define INJ_DATA_SIZE  (1u << 20) /* bytes of argument data that one batch can carry */
#define INJ_SLOT_STACK 2048u      /* stack of a thread that is not the host */
#define INJ_MAX_FDS    253u       /* the kernel's SCM_MAX_FD */

struct inj {
    pid_t pid;
    pid_t tid;         /* the host thread */
    int pidfd;         /* owned */
    int ctl;           /* our end of the control socket, owned */
    int remote_ctl;    /* its end: an fd number in the process */
    uint64_t base;     /* the area */
    uint64_t size;
    uint32_t nslots;
    uint32_t slot;     /* of the host thread */
    uint64_t guard;    /* guard.h; 0: none */
    struct user_regs_struct call; /* for a call under guard */
    struct inj_limit { /* a limit that was in the way, raised while the parasite is in */
        int resource;
        bool raised;
        struct rlimit old;
    } limit[3];
    bool entered;      /* by inj_enter: regs and mask below are the program's */
    struct user_regs_struct regs;
    uint64_t sigmask;
};

/* Bytes of an area for a process with up to `slots` threads in the parasite at once (1: the host). */
uint64_t inj_area_size(uint32_t slots);

/*
 * Enter a process: tid is in a ptrace-stop with the registers *regs and signal mask `sigmask`, and every
 * other thread of the process is stopped too. Afterwards inj->ctl works. On failure the thread is as it
 * was. Up to `guests` other threads can run calls there at a time.
 */
int inj_enter(struct inj *inj, pid_t pid, pid_t tid, const struct user_regs_struct *regs, uint64_t sigmask,
              uint32_t guests, struct err *err);

/* Another thread of the process, stopped as the host was, and the batch of its own that it is to run. */
struct inj_guest {
    pid_t tid;
    const struct user_regs_struct *regs;
    uint64_t sigmask;
    struct blob_call *calls; /* results come here */
    uint32_t ncalls;
};

/*
 * Have n guests run their batches side by side; together they may have INJ_MAX_CALLS calls. Their arguments may point
 * into inj_scratch(). Afterwards all are stopped, with their own registers and masks.
 */
int inj_run_guests(struct inj *inj, struct inj_guest *guest, uint32_t n, struct err *err);
uint64_t inj_scratch(const struct inj *inj); /* the address of INJ_DATA_SIZE bytes that no batch uses at the moment */

/* Take the parasite out; the thread is in a ptrace-stop again, with its own registers and mask. */
int inj_leave(struct inj *inj, struct err *err);

/* Free what the caller's side holds (also after a failure). */
void inj_close(struct inj *inj);

/* --- batches --------------------------------------------------------------------------------- */

struct inj_batch {
    struct inj *inj;
    struct blob_call *calls;
    uint32_t ncalls;
    uint8_t *data;
    uint32_t used;
    bool overflow; /* more than fits was asked for: inj_run refuses */
};

int inj_begin(struct inj_batch *b, struct inj *inj, struct err *err);
void inj_end(struct inj_batch *b);
#define _cleanup_batch_ __attribute__((cleanup(inj_end)))

/* Forget the calls and data, keep the memory: for the next batch. */
void inj_reset(struct inj_batch *b);

/* Append a call; returns its number. Unused arguments are 0. */
uint32_t inj_add(struct inj_batch *b, uint32_t flags, long nr, uint64_t a0, uint64_t a1, uint64_t a2, uint64_t a3,
                 uint64_t a4, uint64_t a5);
#define INJ_CALL_(b, f, nr, a, c, d, e, g, h, ...)                                                          \
    inj_add(b, f, nr, (uint64_t)(a), (uint64_t)(c), (uint64_t)(d), (uint64_t)(e), (uint64_t)(g), (uint64_t)(h))
/* inj_call(batch, flags, nr, up to six arguments) */
#define inj_call(b, f, ...) INJ_CALL_(b, f, __VA_ARGS__, 0, 0, 0, 0, 0, 0, 0)

/* Copy n bytes (NULL: zeros) into the data area; returns their address in the target, 16-aligned. */
uint64_t inj_data(struct inj_batch *b, const void *p, size_t n);
static inline uint64_t inj_str(struct inj_batch *b, const char *s)
{
    return inj_data(b, s, __builtin_strlen(s) + 1);
}

/* Run it and fetch results and data. Only a dead target or a broken channel is an error here. */
int inj_run(struct inj_batch *b, struct err *err);

/* Begin to run it, without waiting for the end: for calls that do not return, or for the next. */
int inj_start(const struct inj_batch *b, struct err *err);

/*
 * The end of a batch that was started and has one BLOB_FORK_REST call. When the child exists, *pidfd is for it (the
 * caller's, -1: there is none) and it has sent the message BLOB_HELLO by a call of its own; it was inj_says() that
 * appended that. Results are those of the parent's part.
 */
int inj_finish_fork(struct inj_batch *b, uint32_t fork_call, int *pidfd, struct err *err);
void inj_says(struct inj_batch *b, uint32_t op);

/*
 * Run a batch whose calls are clones (BLOB_MUST | BLOB_CLONE_VM) of up to n threads that each have a first
 * batch in their slot, and wait until these have run too. The data area is fetched afterwards.
 */
int inj_run_threads(struct inj_batch *b, uint32_t n, struct err *err);

/* After inj_run: a call's result, and what now is at an address that inj_data gave. */
int64_t inj_ret(const struct inj_batch *b, uint32_t call);
void *inj_at(const struct inj_batch *b, uint64_t addr);

/* The first BLOB_MUST call that failed, as an error "<what>: <call>: strerror"; 0 when none did. */
int inj_check(const struct inj_batch *b, struct err *err, const char *what);

/* Is the result an error? */
static inline bool inj_failed(int64_t ret)
{
    return ret < 0 && ret > -4096;
}

/* One call, for when there is no batch to make. *ret may be an error of the target's. */
int inj_syscall(struct inj *inj, int64_t *ret, struct err *err, long nr, const uint64_t arg[6]);

/*
 * Send fds into the target; remote[i] becomes the number that fds[i] got there (close-on-exec set).
 * n is at most INJ_MAX_FDS.
 */
int inj_send_fds(struct inj *inj, const int *fds, int *remote, uint32_t n, struct err *err);

/* Fetch a copy of the target's fd (close-on-exec); -errno and err on failure. */
int inj_get_fd(struct inj *inj, int remote, struct err *err);

/* --- processes made of nothing but the parasite -------------------------------------------------- */

/* Map an area with the parasite's code at `base` in this very process, to be inherited by inj_spawn. */
int inj_area_local(uint64_t base, uint32_t slots, struct err *err);

/*
 * Make a child of this process (or of its parent with CLONE_PARENT in flags) that runs the executor
 * in the local area and nothing else. pid 0: any. Its control socket becomes fd `remote_ctl` there,
 * and it has no other fds. The caller must be single-threaded. The child is not traced yet.
 */
int inj_spawn(struct inj *child, uint64_t base, uint32_t slots, uint64_t clone_flags, pid_t pid, int remote_ctl,
              struct err *err);

/*
 * Let `parent` fork. flags: clone flags besides the exit signal; set_tid as in clone3(2), npids levels of
 * pid namespaces. CLONE_VM children get the slot `slot` and its stack. The child's control socket is at
 * remote_ctl there (the parent's copy of it is closed again). A child never returns to the program: when its control
 * socket ends it exits. When the parent is traced with
 * PTRACE_O_TRACEFORK and its kin, the child's first ptrace-stop is still to be waited for and continued by
 * `attach` (may be NULL), called with the child's pid before its greeting is expected.
 */
struct inj_fork_args {
    uint64_t flags;
    int exit_signal;
    const pid_t *set_tid;
    uint32_t nset_tid;
    int remote_ctl;
    uint32_t slot;
    int (*attach)(void *arg, pid_t pid, struct err *err);
    void *arg;
};
int inj_fork(struct inj *parent, struct inj *child, const struct inj_fork_args *a, struct err *err);

/* Let a skeleton end, wait until it has, and close our side. Its parent still has to reap it. */
void inj_exit(struct inj *inj, int status);

/* The address of slot number i's record and the top of its stack. */
uint64_t inj_slot(const struct inj *inj, uint32_t i);
uint64_t inj_slot_stack(const struct inj *inj, uint32_t i);

/* Wait for the next message of the parasite; handles stops that come in between. */
int inj_wait_msg(struct inj *inj, struct blob_msg *m, struct err *err);

#endif
