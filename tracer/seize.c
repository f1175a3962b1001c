/*
 * PTRACE_SEIZE and execve(2) stand in each other's way when a process has threads (kernel/ptrace.c, ptrace_attach;
 * fs/exec.c, de_thread):
 *
 * The seizing waits until the process has executed the program. Meanwhile another thread than the first one may have
 * taken the process id over: then the one that was looked up before is dead, and EPERM the answer, as it is for those
 * that may not be traced.
 *
 * The execution waits until all other threads are gone, and those that are traced already are gone only when their
 * tracer has waited for them. So it has to do that while it is itself in the call that waits for the execution: in the
 * handler of a timer, which the kernel interrupts that call for and goes on with it afterwards.
 */
#include "tracer/seize.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/util.h"
#include "tracer/procfs.h"

#define REAP_EVERY_NS 2000000
#define TRIES         100 /* each takes the program an execution */

static timer_t timer;                /* while there is a struct seizing that is ready */
static volatile sig_atomic_t reaped; /* by the handler, since seizing_begin() */

static void set_timer(void)
{
    timer_settime(timer, 0, &(struct itimerspec){.it_value = {0, REAP_EVERY_NS}}, NULL);
}

bool task_exists(pid_t pid, pid_t tid)
{
    struct proc_stat s;
    struct err ignored;

    return read_task_stat(pid, tid, &s, &ignored) == 0 && s.state != 'Z' && s.state != 'X';
}

bool bury_task(pid_t tid)
{
    siginfo_t info = {.si_pid = 0};

    /* A look first: what is traced is also told of when it has stopped, whatever is asked (kernel/exit.c). */
    if (waitid(P_PID, (id_t)tid, &info, WEXITED | WNOHANG | WNOWAIT | __WALL) < 0 || !info.si_pid ||
        (info.si_code != CLD_EXITED && info.si_code != CLD_KILLED && info.si_code != CLD_DUMPED))
        return false;
    return waitid(P_PID, (id_t)tid, &info, WEXITED | WNOHANG | __WALL) == 0;
}

static pid_t tracer_of(pid_t pid, pid_t tid)
{
    struct proc_status st;
    struct err ignored;

    if (read_status(pid, tid, &st, &ignored) < 0)
        return 0;
    proc_status_free(&st);
    return st.tracer;
}

bool seized_by_us(pid_t pid, pid_t tid)
{
    return tracer_of(pid, tid) == getpid();
}

/*
 * Comes only while the thread is in PTRACE_SEIZE, so that everything may be called here. Also those are dead which the
 * kernel has attached and nobody has told of. The first one is not waited for by who executes a program. The timer is set
 * again at the end: the thread gets as long to itself however many there are.
 */
static void reap(int sig, siginfo_t *info, void *context)
{
    const pid_t pid = info->si_value.sival_int;
    _cleanup_free_ int *tids = NULL;
    int before = errno;
    char dir[40];
    size_t n;
    struct err gone;

    (void)sig, (void)context;
    snprintf(dir, sizeof(dir), "/proc/%d/task", pid);
    if (info->si_code == SI_TIMER && list_numbers(dir, &tids, &n, &gone) == 0)
        for (size_t i = 0; i < n; i++)
            if (tids[i] != pid && bury_task(tids[i]))
                reaped = 1;
    set_timer();
    errno = before;
}

int seizing_begin(struct seizing *s, pid_t pid, struct err *err)
{
    const struct sigaction action = {.sa_sigaction = reap, .sa_flags = SA_SIGINFO | SA_RESTART};
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGALRM, .sigev_value.sival_int = pid};
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGALRM);
    reaped = 0;
    event._sigev_un._tid = gettid(); /* not the thread that reads the rings of perf: it may be in malloc */
    if (timer_create(CLOCK_MONOTONIC, &event, &timer) < 0)
        return err_errno(err, "process %d: a timer to seize its threads with", pid);
    s->ready = true;
    sigprocmask(SIG_BLOCK, &set, &s->mask);
    sigaction(SIGALRM, &action, &s->action);
    set_timer();
    return 0;
}

bool seizing_end(struct seizing *s)
{
    const struct sigaction ignore = {.sa_handler = SIG_IGN};

    if (!s->ready)
        return false;
    timer_delete(timer);
    sigaction(SIGALRM, &ignore, NULL); /* one that is pending still is dropped */
    sigaction(SIGALRM, &s->action, NULL);
    sigprocmask(SIG_SETMASK, &s->mask, NULL);
    s->ready = false;
    return reaped;
}

static int call_seize(const struct seizing *s, pid_t tid, unsigned long options)
{
    sigset_t set;
    int code;

    sigemptyset(&set);
    sigaddset(&set, SIGALRM);
    if (s->ready)
        sigprocmask(SIG_UNBLOCK, &set, NULL);
    code = ptrace(PTRACE_SEIZE, tid, NULL, options) < 0 ? errno : 0;
    if (s->ready)
        sigprocmask(SIG_BLOCK, &set, NULL);
    return code;
}

/* The kernel asks nearly the same for this as for tracing it, and does not mind that a thread is dead. */
static bool is_forbidden(pid_t tid)
{
    return syscall(SYS_kcmp, getpid(), tid, 1 /* KCMP_VM */, 0, 0) < 0 && errno == EPERM;
}

static int refuse(const struct proc *p, const struct thread *t, int code, struct err *err)
{
    pid_t other = tracer_of(p->pid, t->tid);
    struct proc_stat s;
    struct err ignored;

    if (read_task_stat(p->pid, t->tid, &s, &ignored) < 0)
        return 0;
    if (other)
        return err_set(err, EBUSY, "process %d (%s): is being traced by process %d (a debugger?); end that first", p->pid,
                       s.comm, other);
    return err_set(err, code, "process %d (%s): may not be traced (%s): it is another user's, set-user-ID, or not dumpable",
                   p->pid, s.comm, strerror(code));
}

int seize_thread(const struct seizing *s, const struct proc *p, struct thread *t, unsigned long options, struct err *err)
{
    int code = 0;

    for (int tries = 0; tries < TRIES; tries++) {
        code = call_seize(s, t->tid, options);
        t->seized = !code || (code == EPERM && seized_by_us(p->pid, t->tid)); /* left over from a thaw: see thaw_late() */
        t->gone = !t->seized;
        if (t->seized || code == ESRCH || !task_exists(p->pid, t->tid))
            return 0;
        if (code != EPERM || tracer_of(p->pid, t->tid) || is_forbidden(t->tid))
            break;
    }
    return refuse(p, t, code, err);
}
