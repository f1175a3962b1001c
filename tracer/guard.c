/*
 * See guard.h. The child leaves the tracer's session and ignores what is sent to groups, so that it ends only
 * by itself.
 */
#include "tracer/guard.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

struct outcome {
    int ret;
    bool done;
    struct err err;
};

void *guard_alloc(size_t n)
{
    void *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    return p == MAP_FAILED ? NULL : p;
}

void guard_free(void *p, size_t n)
{
    if (p)
        munmap(p, n);
}

static _Noreturn void child(struct outcome *o, int (*f)(void *arg, struct err *err), void *arg)
{
    sigset_t all;

    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, NULL);
    setsid();
    o->ret = f(arg, &o->err);
    o->done = true;
    _exit(0);
}

int guarded(int (*f)(void *arg, struct err *err), void *arg, struct err *err)
{
    struct outcome *o = guard_alloc(sizeof(*o));
    pid_t pid = o ? fork() : -1;
    int ret;

    if (pid < 0) {
        err_errno(err, "making a helper process");
        guard_free(o, sizeof(*o));
        return -err->code;
    }
    if (pid == 0)
        child(o, f, arg);
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        ;
    ret = o->done ? o->ret : err_set(err, EIO, "a helper process of the tracer has died");
    if (o->done && ret < 0)
        *err = o->err;
    guard_free(o, sizeof(*o));
    return ret;
}
