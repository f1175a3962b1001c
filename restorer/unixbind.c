/*
 * Names of unix sockets. bind(2) keeps the text that it is given and makes a file where that text leads. Both must
 * be as they were, and they need not go together any more: the directory may have been left, the file removed,
 * or another socket been bound to the same name. So each socket is bound in an empty directory of its own
 * that is the root and working directory of the child that does it; then the file is moved to where it was, in
 * place of the stale one that the dead program left there, or removed.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/util.h"
#include "restorer/unix.h"

socklen_t unix_address(const ProtobufCBinaryData *name, struct sockaddr_un *a)
{
    *a = (struct sockaddr_un){.sun_family = AF_UNIX};
    memcpy(a->sun_path, name->data, name->len < sizeof(a->sun_path) ? name->len : sizeof(a->sun_path));
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + name->len);
}

static bool is_abstract(const ProtobufCBinaryData *name)
{
    return name->len && name->data[0] == '\0';
}

static void file_path(const UnixFile *f, char path[static PATH_MAX])
{
    size_t n = f->path.len < PATH_MAX ? f->path.len : PATH_MAX - 1;

    memcpy(path, f->path.data, n);
    path[n] = '\0';
}

/*
 * Is anybody bound there? Connecting a datagram socket tells without doing anything to him: it is refused when
 * there is nobody, and when he has another type.
 */
static bool in_use(const char *path)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    _cleanup_close_ int node = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    _cleanup_close_ int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    snprintf(a.sun_path, sizeof(a.sun_path), "/proc/self/fd/%d", node);
    if (node < 0 || fd < 0)
        return false;
    return connect(fd, (void *)&a, sizeof(a)) == 0 || errno == EPROTOTYPE || errno == EPERM;
}

int unix_check_file(const UnixFile *f, struct err *err)
{
    char path[PATH_MAX], *slash;
    struct stat st;

    if (!f->path.len || f->path.len >= PATH_MAX || f->path.data[0] != '/' || memchr(f->path.data, 0, f->path.len))
        return err_set(err, EINVAL, "a path that cannot be one");
    file_path(f, path);
    if (lstat(path, &st) == 0) {
        if (!S_ISSOCK(st.st_mode))
            return err_set(err, EEXIST, "%s is not a socket any more", path);
        return in_use(path) ? err_set(err, EADDRINUSE, "%s is in use by another program", path) : 0;
    }
    slash = strrchr(path, '/');
    slash[slash == path] = '\0';
    return access(path, W_OK) < 0 ? err_errno(err, "the directory of a socket, %s", path) : 0;
}

/* ---- in the child ---- */

struct shared {
    int failed; /* errno */
    char step[64];
    char path[PATH_MAX];
};

struct binder {
    struct shared *s;
    int root, cwd; /* the driver's, to come back to */
    const char *tmp;
};

static int fail(struct binder *b, const char *step, const char *path)
{
    b->s->failed = errno ? errno : EIO;
    snprintf(b->s->step, sizeof(b->s->step), "%s", step);
    snprintf(b->s->path, sizeof(b->s->path), "%s", path);
    return -1;
}

/* The directories in front of the last component: made, and afterwards removed again. */
static void directories(char *path, bool make)
{
    if (make) {
        for (char *p = path + 1; *p; p++)
            if (*p == '/') {
                *p = '\0';
                mkdir(path, 0755);
                *p = '/';
            }
        return;
    }
    for (char *p = strrchr(path, '/'); p && p != path; p = strrchr(path, '/')) {
        *p = '\0';
        rmdir(path);
    }
}

static int leave(const struct binder *b)
{
    return fchdir(b->root) < 0 || chroot(".") < 0 || fchdir(b->cwd) < 0 ? -1 : 0;
}

/* In the scratch directory as root: the file ends up as "/=", a name that no bound name leads to. */
static int bind_inside(struct bind_job *j)
{
    struct sockaddr_un a;
    socklen_t len = unix_address(j->name, &a);
    char path[sizeof(a.sun_path) + 1] = "";
    int saved;

    memcpy(path, a.sun_path, j->name->len < sizeof(a.sun_path) ? j->name->len : sizeof(a.sun_path));
    directories(path, true);
    if (bind(j->fd, (void *)&a, len) < 0 || (j->node = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC)) < 0 ||
        rename(path, "/=") < 0) {
        saved = errno;
        directories(path, false);
        errno = saved;
        return -1;
    }
    directories(path, false);
    return 0;
}

static int put_in_place(const struct binder *b, const char *scratch, const UnixFile *f)
{
    char from[PATH_MAX + 4], to[PATH_MAX];

    (void)b;
    snprintf(from, sizeof(from), "%s/=", scratch);
    if (!f) {
        chmod(from, 0777); /* others may have to connect to it still */
        return unlink(from);
    }
    file_path(f, to);
    if (lchown(from, f->uid, f->gid) < 0 && errno != EPERM && errno != EINVAL)
        return -1;
    if (chmod(from, f->mode & 07777) < 0)
        return -1;
    return rename(from, to);
}

static int do_job(struct binder *b, struct bind_job *j)
{
    char scratch[PATH_MAX];
    int r;

    if (j->file) {
        char *slash;
        file_path(j->file, scratch);
        slash = strrchr(scratch, '/');
        if ((size_t)(slash - scratch) + sizeof("/.dmtcp-XXXXXX") > sizeof(scratch))
            return fail(b, "path too long", scratch);
        memcpy(slash, "/.dmtcp-XXXXXX", sizeof("/.dmtcp-XXXXXX"));
    } else {
        snprintf(scratch, sizeof(scratch), "%.4000s/dmtcp-XXXXXX", b->tmp);
    }
    if (!mkdtemp(scratch))
        return fail(b, "a directory to bind in", scratch);
    if (chroot(scratch) < 0 || chdir("/") < 0) {
        fail(b, "chroot", scratch);
        rmdir(scratch);
        return -1;
    }
    r = bind_inside(j);
    if (r < 0)
        fail(b, "bind", "");
    if (leave(b) < 0)
        return fail(b, "leaving the scratch directory", scratch);
    if (r == 0 && put_in_place(b, scratch, j->file) < 0)
        r = fail(b, "moving a socket's file to its place from", scratch);
    rmdir(scratch);
    return r;
}

static _Noreturn void child_main(struct binder *b, struct bind_job *jobs, size_t n)
{
    b->root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    b->cwd = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
    umask(0);
    if (b->root < 0 || b->cwd < 0)
        fail(b, "directories", "");
    for (size_t i = 0; i < n && !b->s->failed; i++)
        if (!is_abstract(jobs[i].name))
            do_job(b, &jobs[i]);
    if (b->root >= 0)
        close(b->root);
    if (b->cwd >= 0)
        close(b->cwd);
    _exit(0);
}

/* The child shares the table of fds, so the files' fds that it opens are ours. */
static int run_child(struct restore *r, struct bind_job *jobs, size_t n, struct err *err)
{
    size_t size = sizeof(struct shared) + n * sizeof(*jobs);
    struct clone_args a = {.flags = CLONE_FILES, .exit_signal = SIGCHLD};
    struct binder b = {.tmp = r->options.tmpdir ? r->options.tmpdir : "/tmp"};
    struct bind_job *theirs;
    long pid;
    int ret = 0;

    b.s = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (b.s == MAP_FAILED)
        return err_errno(err, "memory");
    theirs = (struct bind_job *)(b.s + 1);
    memcpy(theirs, jobs, n * sizeof(*jobs));
    b.s->failed = 0;
    pid = syscall(SYS_clone3, &a, sizeof(a));
    if (pid == 0)
        child_main(&b, theirs, n);
    if (pid < 0)
        ret = err_errno(err, "a helper process");
    while (pid > 0 && waitpid((pid_t)pid, NULL, __WALL) < 0 && errno == EINTR)
        ;
    memcpy(jobs, theirs, n * sizeof(*jobs));
    if (ret == 0 && b.s->failed)
        ret = err_set(err, b.s->failed, "%s %s: %s", b.s->step, b.s->path, strerror(b.s->failed));
    munmap(b.s, size);
    return ret;
}

int unix_bind(struct restore *r, struct bind_job *jobs, size_t n, struct err *err)
{
    bool paths = false;

    for (size_t i = 0; i < n; i++) {
        struct sockaddr_un a;
        socklen_t len = unix_address(jobs[i].name, &a);
        jobs[i].node = -1;
        if (!is_abstract(jobs[i].name))
            paths = true;
        else if (bind(jobs[i].fd, (void *)&a, len) < 0)
            return err_errno(err, "the abstract name \"@%.*s\"", (int)jobs[i].name->len - 1, a.sun_path + 1);
    }
    return paths ? run_child(r, jobs, n, err) : 0;
}
