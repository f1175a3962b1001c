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
 * Wait for the next stop of one thread. *status is wait(2)'s. -ESRCH when the thread is gone; *status is then its exit
 * status, or 0 for the leader of a dead process whose other threads have still to be waited for: the kernel reports it
 * only after them (delay_group_leader() in kernel/exit.c). SIGCHLD must not be ignored.
 */
int pt_wait(pid_t tid, int *status, struct err *err);

int pt_get_regs(pid_t tid, struct user_regs_struct *regs, struct err *err);
int pt_set_regs(pid_t tid, const struct user_regs_struct *regs, struct err *err);

/* Make *regs those of a thread that goes on with our own code at ip: no system call to be restarted, plain flags. */
void pt_go_to(struct user_regs_struct *regs, uint64_t ip);

/* Extended state in XSAVE format; *buf is fresh memory of *len bytes. */
int pt_get_xstate(pid_t tid, void **buf, size_t *len, struct err *err);
int pt_set_xstate(pid_t tid, const void *buf, size_t len, struct err *err);

int pt_get_sigmask(pid_t tid, uint64_t *mask, struct err *err);
int pt_set_sigmask(pid_t tid, uint64_t mask, struct err *err);

/*
 * Run one system call in a thread that is in a ptrace-stop: *at has its registers, with rip at a syscall instruction;
 * number and arguments are filled in. All signals must be blocked. It is stopped behind the instruction afterwards,
 * with registers that are not its own, until the caller sets them.
 *
 * The call is made between two stops of PTRACE_SYSCALL, not by a step: a tracer that is killed takes these along, while
 * the trap flag of a step would stay and its trap kill the thread. The thread must have been seized with
 * PTRACE_O_TRACESYSGOOD: without it the kernel sends SIGTRAP when a stop ends with the tracer
 * (ptrace_report_syscall()).
 *
 * No mask holds SIGSTOP back: one that is on its way comes first, is delivered, and the call is made in a process
 * that counts as stopped. So it is when it is let go, and its parent has been told.
 */
int pt_call(pid_t tid, const struct user_regs_struct *at, int64_t *ret, long nr, const uint64_t arg[6],
            struct err *err);

/* The same at ip (see pt_find_syscall), with registers else as in *orig, which the thread has afterwards. */
int pt_syscall(pid_t tid, uint64_t ip, const struct user_regs_struct *orig, int64_t *ret, long nr,
               const uint64_t arg[6], struct err *err);

/* The signal that a wait(2) status of a ptrace-stop is about to deliver, if it is SIGSTOP; else 0. */
int pt_sigstop(int status);

/* Where the executable part of the process's vDSO is; both 0 when it has none. */
int pt_find_vdso(pid_t pid, uint64_t *start, uint64_t *end, struct err *err);

/* The address of a syscall instruction in the process: in its vDSO, else in any executable mapping. */
int pt_find_syscall(pid_t pid, uint64_t *ip, struct err *err);

/* Memory of another process: whole transfers only. */
int pt_read(pid_t pid, uint64_t addr, void *buf, size_t len, struct err *err);
int pt_write(pid_t pid, uint64_t addr, const void *buf, size_t len, struct err *err);
/* The same through /proc/PID/mem, which also writes where the process itself may not. */
int pt_poke(pid_t pid, uint64_t addr, const void *buf, size_t len, struct err *err);

#endif
