/*
 * Who waits for a word instead of in vfork(2) makes two system calls that it would not have made (vfork.c).
 * Its seccomp filters, if it has any, may forbid them, and nobody is there to lift a filter when the program
 * runs again. What they say is found out by asking them: a child of ours installs each and makes the calls.
 *
 * The filters of a thread that can't be stopped can't be read. But its child has them too: a child has its
 * parent's and those that it has added.
 */
#include "tracer/vforkfilter.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tracer/guard.h"
#include "tracer/procfs.h"

static int count_filters(pid_t tid, uint32_t *n, struct err *err)
{
    struct proc_status st;

    if (read_status(tid, tid, &st, err) < 0)
        return -err->code;
    *n = st.seccomp ? st.seccomp_filters : 0;
    proc_status_free(&st);
    return 0;
}

/* In a child, which the filter may kill for it. */
static int try_calls(void *arg, struct err *err)
{
    const struct sock_fprog *filter = arg;
    const uint64_t none = 0;
    uint32_t word = 0;

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
        syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, filter) < 0)
        return err_errno(err, "a seccomp filter");
    if (syscall(SYS_futex, &word, FUTEX_WAIT, 1, NULL) != -1 || errno != EAGAIN)
        return err_set(err, EBUSY, "futex(2)");
    if (syscall(SYS_rt_sigprocmask, SIG_SETMASK, &none, NULL, sizeof(none)) < 0)
        return err_set(err, EBUSY, "rt_sigprocmask(2)");
    return 0;
}

int vfork_check_filters(struct thread *const *waiting, size_t n, pid_t child, struct err *err)
{
    struct sock_filter code[BPF_MAXINSNS];
    struct sock_fprog filter = {.filter = code};
    uint32_t filters = 0, more = 0;
    struct err why;

    for (size_t i = 0; i < n; i++) {
        if (count_filters(waiting[i]->tid, &more, err) < 0)
            return -err->code;
        filters = more > filters ? more : filters;
    }
    if (count_filters(child, &more, err) < 0)
        return -err->code;
    for (uint32_t i = 0; i < filters && i < more; i++) { /* the oldest first */
        long len = ptrace(PTRACE_SECCOMP_GET_FILTER, child, (void *)(uintptr_t)i, code);
        if (len < 0 || len > BPF_MAXINSNS)
            return err_set(err, EBUSY, "it has a seccomp filter, which only root (CAP_SYS_ADMIN) may read");
        filter.len = (unsigned short)len;
        if (guarded(try_calls, &filter, &why) < 0)
            return err_set(err, EBUSY, "it has a seccomp filter that forbids to wait in another way (%s)",
                           why.msg);
    }
    return 0;
}
