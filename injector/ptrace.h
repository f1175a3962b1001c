/*
 * ptrace(2) in the few shapes that this project uses. Threads are entered by PTRACE_SEIZE and
 * PTRACE_INTERRUPT only: no signal is ever sent to stop one. All return 0 or -errno and set err.
 */
#ifndef INJECTOR_PTRACE_H
#define INJECTOR_PTRACE_H

#include <signal.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/user.h>

#include "base/err.h"

int pt_seize(pid_t tid, unsigned long options, struct err *err);
int pt_interrupt(pid_t tid, struct err *err);
int pt_cont(pid_t tid, int sig, struct err *err);
int pt_detach(pid_t tid, int sig, struct err *err);

/*
 * Wait for the next stop of one thread. *status is wait(2)'s. -ESRCH when the thread is gone (its
 * exit status is then in *status when it could be had).
 */
int pt_wait(pid_t tid, int *status, struct err *err);

int pt_get_regs(pid_t tid, struct user_regs_struct *regs, struct err *err);
int pt_set_regs(pid_t tid, const struct user_regs_struct *regs, struct err *err);

/* Extended state in XSAVE format; *buf is fresh memory of *len bytes. */
int pt_get_xstate(pid_t tid, void **buf, size_t *len, struct err *err);
int pt_set_xstate(pid_t tid, const void *buf, size_t len, struct err *err);

int pt_get_sigmask(pid_t tid, uint64_t *mask, struct err *err);
int pt_set_sigmask(pid_t tid, uint64_t mask, struct err *err);

/*
 * The mask for the calls below: all but SIGTRAP. A step ends with one that is forced on the thread, and the kernel
 * takes the handler of a forced signal away when it is blocked (force_sig_info_to_task()).
 */
#define PT_STEP_MASK (~(1ull << (SIGTRAP - 1)))

/*
 * Run one system call in a thread that is in a ptrace-stop, by stepping over the syscall
 * instruction at ip (see pt_find_syscall). The thread's registers are as before afterwards. The
 * signals of PT_STEP_MASK must be blocked in it. This is the one window in which a tracer's death would leave a
 * thread with registers that are not its own: it is as long as the call.
 */
int pt_syscall(pid_t tid, uint64_t ip, const struct user_regs_struct *orig, int64_t *ret, long nr,
               const uint64_t arg[6], struct err *err);

/*
 * The same in two halves, so that many threads run theirs at the same time: begin does not wait, end does. Each
 * begin that returned 0 needs its end. The thread's registers stay changed until the caller sets them.
 */
int pt_syscall_begin(pid_t tid, uint64_t ip, const struct user_regs_struct *orig, long nr, const uint64_t arg[6],
                     struct err *err);
int pt_syscall_end(pid_t tid, uint64_t ip, int64_t *ret, struct err *err);

/* The address of a syscall instruction in the process: in its vDSO, else in any executable mapping. */
int pt_find_syscall(pid_t pid, uint64_t *ip, struct err *err);

/* Memory of another process: whole transfers only. */
int pt_read(pid_t pid, uint64_t addr, void *buf, size_t len, struct err *err);
int pt_write(pid_t pid, uint64_t addr, const void *buf, size_t len, struct err *err);
/* The same through /proc/PID/mem, which also writes where the process itself may not. */
int pt_poke(pid_t pid, uint64_t addr, const void *buf, size_t len, struct err *err);

#endif
