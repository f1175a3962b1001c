/*
 * pidfds. The processes of the tree exist when descriptions are made, its other threads do not: a pidfd of
 * such a thread is a placeholder until they do. For a process that was reaped before the checkpoint one is
 * made anew, to live for a moment and end the same way.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/util.h"
#include "image/pidfd.pb-c.h"
#include "restorer/place.h"

#define PIDFD_THREAD O_EXCL /* linux/pidfd.h */

static bool is_other_thread(const struct restore *r, const Pidfd *m)
{
    return m->pid > 0 && !restore_proc(r, m->pid);
}

static void end_like(uint32_t status)
{
    if (WIFSIGNALED(status)) {
        setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
        signal(WTERMSIG(status), SIG_DFL);
        kill(getpid(), WTERMSIG(status));
    }
    _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 0);
}

/* A child that ends with `status` and is reaped, and the pidfd that remains. */
static int dead_pidfd(uint32_t status, unsigned flags, int *fd, struct err *err)
{
    int go[2];
    pid_t pid;

    if (pipe2(go, O_CLOEXEC) < 0)
        return err_errno(err, "pipe");
    pid = fork();
    if (pid == 0) {
        char c;

        close(go[1]);
        while (read(go[0], &c, 1) < 0 && errno == EINTR)
            ;
        end_like(status);
    }
    *fd = pid < 0 ? -1 : (int)syscall(SYS_pidfd_open, pid, flags);
    if (*fd < 0)
        err_errno(err, "a pidfd of a process that is gone");
    close(go[0]);
    close(go[1]);
    if (pid > 0)
        waitpid(pid, NULL, 0);
    return *fd < 0 ? -err->code : 0;
}

static int pidfd_prepare(struct restore *r, struct robject *o, struct err *err)
{
    const Pidfd *m = (const Pidfd *)o->msg;

    if (m->pid < 0 || (is_other_thread(r, m) && !m->thread))
        return err_set(err, EINVAL, "pidfd of process %d, which is in no image", m->pid);
    return 0;
}

static int pidfd_open_(struct restore *r, struct robject *o, struct rofd *d, int *fd, struct err *err)
{
    const Pidfd *m = (const Pidfd *)o->msg;
    unsigned flags = (d->msg->flags & O_NONBLOCK) | (m->thread ? PIDFD_THREAD : 0u);

    if (m->pid == 0)
        return dead_pidfd(m->exit_status, flags, fd, err);
    if (is_other_thread(r, m))
        *fd = eventfd(0, EFD_CLOEXEC);
    else
        *fd = (int)syscall(SYS_pidfd_open, restore_proc(r, m->pid)->host_pid, flags);
    if (*fd < 0)
        return err_errno(err, "pidfd_open of process %d", m->pid);
    return 0;
}

/* Which process has a thread of this number? */
static struct rproc *proc_of_thread(struct restore *r, pid_t tid)
{
    for (size_t i = 0; i < r->nprocs; i++)
        for (size_t k = 0; k < r->procs[i].nthreads; k++)
            if (r->procs[i].threads[k]->tid == tid)
                return &r->procs[i];
    return NULL;
}

/* Threads exist now, known by the numbers that they have inside. */
static int pidfd_arm(struct restore *r, struct robject *o, struct err *err)
{
    const Pidfd *m = (const Pidfd *)o->msg;
    struct rproc *p = is_other_thread(r, m) ? proc_of_thread(r, m->pid) : NULL;

    if (!is_other_thread(r, m))
        return 0;
    if (!p)
        return err_set(err, EINVAL, "pidfd of thread %d, which is in no image", m->pid);
    for (struct rofd *d = r->ofds; d; d = d->next) {
        unsigned flags = (d->msg->flags & O_NONBLOCK) | PIDFD_THREAD;
        int64_t remote, ret;
        if (d->object != o)
            continue;
        if (inj_syscall(&p->inj, &remote, err, SYS_pidfd_open, (uint64_t[6]){(uint64_t)m->pid, flags}) < 0)
            return -err->code;
        if (inj_failed(remote))
            return err_set(err, (int)-remote, "pidfd_open of thread %d: %s", m->pid, strerror((int)-remote));
        _cleanup_close_ int fd = inj_get_fd(&p->inj, (int)remote, err);
        if (fd < 0 || inj_syscall(&p->inj, &ret, err, SYS_close, (uint64_t[6]){(uint64_t)remote}) < 0 ||
            place_everywhere(r, d->msg->id, fd, NULL, NULL, err) < 0)
            return -err->code;
    }
    return 0;
}

const struct rebuild_ops pidfd_ops = {
    .kind = KIND_PIDFD,
    .descriptor = &pidfd__descriptor,
    .prepare = pidfd_prepare,
    .open = pidfd_open_,
    .arm = pidfd_arm,
};
