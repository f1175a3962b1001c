/* See keepback.h. */
#include "tracer/keepback.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/ptrace.h>
#include <unistd.h>

#include "base/util.h"

#define WAIT_MS 250

struct kept_thread {
    pid_t tid;
    long call_nr; /* as in struct thread, at that time */
    int64_t call_since_ns, at_ns;
};

int keepback_add_end(struct keepback *k, int fd, struct err *err)
{
    int *more = grow(k->fd, k->nfds, &k->cap_fds, sizeof(*more)), copy;

    if (!more)
        return err_set(err, ENOMEM, "out of memory");
    k->fd = more;
    copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (copy < 0)
        return err_errno(err, "another descriptor");
    k->fd[k->nfds++] = copy;
    return 0;
}

bool keepback_add_thread(struct keepback *k, const struct thread *t)
{
    struct kept_thread *more = grow(k->thread, k->nthreads, &k->cap_threads, sizeof(*more));

    if (!more)
        return false;
    k->thread = more;
    more[k->nthreads++] = (struct kept_thread){t->tid, t->call_nr, t->call_since_ns, monotonic_ns()};
    return true;
}

bool keepback_find(const struct keepback *k, struct thread *t)
{
    for (size_t i = 0; i < k->nthreads; i++) {
        const struct kept_thread *kept = &k->thread[i];
        if (kept->tid != t->tid)
            continue;
        t->call_nr = kept->call_nr;
        t->call_since_ns = kept->call_since_ns < 0 ? -1 : kept->call_since_ns + monotonic_ns() - kept->at_ns;
        return true;
    }
    return false;
}

static bool all_is_sent(const struct keepback *k)
{
    for (size_t i = 0; i < k->nfds; i++) {
        int left = 0;
        if (ioctl(k->fd[i], SIOCOUTQ, &left) == 0 && left > 0)
            return false;
    }
    return true;
}

void keepback_wait(const struct keepback *k)
{
    for (int ms = 0; ms < WAIT_MS && !all_is_sent(k); ms++)
        poll(NULL, 0, 1);
}

void keepback_forget(struct keepback *k)
{
    for (size_t i = 0; i < k->nfds; i++)
        close(k->fd[i]);
    free(k->fd);
    free(k->thread);
    *k = (struct keepback){0};
}

void keepback_release(struct keepback *k)
{
    for (size_t i = 0; i < k->nthreads; i++)
        ptrace(PTRACE_DETACH, k->thread[i].tid, NULL, 0);
    keepback_forget(k);
}
