/*
 * The names of unix sockets. bind(2) keeps the text that it was given and makes a node in the file system. At a
 * checkpoint the text can be relative to a directory that the process has left, and the node renamed, removed,
 * or in the way of another socket's. What counts is the node: sock_diag tells its inode number, and to who may
 * administrate the network SIOCUNIXFILE gives the node itself.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/sockios.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/un.h>

#include "base/util.h"
#include "tracer/socket.h"
#include "tracer/unix.h"

#ifndef SIOCUNIXFILE
#define SIOCUNIXFILE (SIOCPROTOPRIVATE + 0)
#endif

/* The node behind an O_PATH fd: its present path. False when it has none. */
static bool present_path(int node, char *path, size_t size)
{
    char self[40];
    struct stat a, b;
    ssize_t n;

    snprintf(self, sizeof(self), "/proc/self/fd/%d", node);
    n = readlink(self, path, size - 1);
    if (n <= 0 || path[0] != '/')
        return false;
    path[n] = '\0';
    return fstat(node, &a) == 0 && lstat(path, &b) == 0 && a.st_ino == b.st_ino && a.st_dev == b.st_dev;
}

static int open_below(const char *fmt, pid_t pid, const char *name, uint32_t ino)
{
    char path[PATH_MAX];
    struct stat st;
    int fd;

    snprintf(path, sizeof(path), fmt, pid, name);
    fd = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return -1;
    if (fstat(fd, &st) == 0 && S_ISSOCK(st.st_mode) && (uint32_t)st.st_ino == ino)
        return fd;
    close(fd);
    return -1;
}

/* Without the ioctl: where the name leads today, from the directories of all who may have bound it. */
static int search(struct ckpt *c, const struct fd_info *fi, const char *name, uint32_t ino)
{
    int fd;

    if (name[0] == '/')
        return open_below("/proc/%d/root%s", fi->proc->pid, name, ino);
    fd = open_below("/proc/%d/cwd/%s", fi->proc->pid, name, ino);
    for (size_t i = 0; fd < 0 && i < c->nprocs; i++)
        if (!c->procs[i]->zombie)
            fd = open_below("/proc/%d/cwd/%s", c->procs[i]->pid, name, ino);
    return fd;
}

static int save(struct ckpt *c, Unix *m, int node, const char *path, struct err *err)
{
    UnixFile *f = arena_alloc(c->arena, sizeof(*f));
    struct stat st;

    if (!f || fstat(node, &st) < 0)
        return err_set(err, ENOMEM, "out of memory");
    unix_file__init(f);
    f->path = arena_text(c->arena, path);
    f->mode = st.st_mode & 07777;
    f->uid = st.st_uid;
    f->gid = st.st_gid;
    m->file = f;
    return 0;
}

int unix_locate(struct ckpt *c, int fd, struct object *o, struct err *err)
{
    const struct unix_sock *k = o->priv;
    Unix *m = (Unix *)o->msg;
    char name[sizeof(struct sockaddr_un)] = "", path[PATH_MAX];
    _cleanup_close_ int node = -1;
    bool sure;

    if (!m->name.len || !m->name.data[0] || m->name.len >= sizeof(name))
        return 0;
    memcpy(name, m->name.data, m->name.len);
    node = ioctl(fd, SIOCUNIXFILE);
    sure = node >= 0 || errno == ENOENT;
    if (!sure && k->diag->has_file)
        node = search(c, k->fi, name, k->diag->file_ino);
    if (node >= 0 && present_path(node, path, sizeof(path)))
        return save(c, m, node, path, err);
    if (sure || name[0] == '/' || (m->state == UNIX_CONNECTED && m->socket->type != SOCK_DGRAM))
        return 0;
    return err_set(err, ENOTSUP,
                   "bound to \"%s\", relative to a directory that can't be found out without CAP_NET_ADMIN", name);
}
