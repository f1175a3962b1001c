/*
 * Some open files cannot be made when the others are: a pidfd of a thread needs the thread, a terminal's
 * stand-in depends on the number under which it is held. Their places are taken by something else until then.
 */
#include "restorer/place.h"

#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>

int place_fd(struct rproc *p, int fd, uint32_t number, bool cloexec, struct err *err)
{
    int64_t ret, ignored;
    int remote;

    if (inj_send_fds(&p->inj, &fd, &remote, 1, err) < 0)
        return -err->code;
    if ((uint32_t)remote == number) { /* it was the lowest free one */
        if (inj_syscall(&p->inj, &ret, err, SYS_fcntl,
                        (uint64_t[6]){number, F_SETFD, cloexec ? FD_CLOEXEC : 0}) < 0)
            return -err->code;
        return 0;
    }
    if (inj_syscall(&p->inj, &ret, err, SYS_dup3,
                    (uint64_t[6]){(uint64_t)remote, number, cloexec ? O_CLOEXEC : 0}) < 0 ||
        inj_syscall(&p->inj, &ignored, err, SYS_close, (uint64_t[6]){(uint64_t)remote}) < 0)
        return -err->code;
    if (inj_failed(ret))
        return err_set(err, (int)-ret, "process %d: fd %u: %s", p->pid, number, strerror((int)-ret));
    return 0;
}

int place_everywhere(struct restore *r, uint64_t ofd, int fd, bool (*chosen)(const Fd *f, void *arg),
                     void *arg, struct err *err)
{
    for (size_t i = 0; i < r->nprocs; i++) {
        struct rproc *p = &r->procs[i];

        for (size_t k = 0; p->fdtable && k < p->fdtable->n_fds; k++) {
            const Fd *f = p->fdtable->fds[k];

            if (f->ofd == ofd && (!chosen || chosen(f, arg)) && place_fd(p, fd, f->fd, f->cloexec, err) < 0)
                return -err->code;
        }
    }
    return 0;
}

struct rproc *place_holder(const struct restore *r, uint64_t ofd, uint32_t *number)
{
    for (size_t i = 0; i < r->nprocs; i++) {
        struct rproc *p = &r->procs[i];

        for (size_t k = 0; p->fdtable && k < p->fdtable->n_fds; k++)
            if (p->fdtable->fds[k]->ofd == ofd) {
                *number = p->fdtable->fds[k]->fd;
                return p;
            }
    }
    return NULL;
}
