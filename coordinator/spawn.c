/*
 * See spawn.h. The children here are made by clone(2) without an exit signal: fork would leave a pending
 * SIGCHLD behind when the caller has it blocked, and a pending signal survives the caller's execve
 * (signal(7)).
 */
#include "coordinator/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/util.h"
#include "coordinator/client.h"

#ifndef DMTCP_BINDIR
#define DMTCP_BINDIR "/usr/local/bin"
#endif
#ifndef DMTCP_LIBEXECDIR
#define DMTCP_LIBEXECDIR "/usr/local/libexec/dmtcp"
#endif

static pid_t fork_silently(void)
{
    return (pid_t)syscall(SYS_clone, 0, NULL, NULL, NULL, NULL);
}

static void fresh_signals(void)
{
    sigset_t none;

    for (int sig = 1; sig < NSIG; sig++)
        signal(sig, SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

/* In the new process. Does not return; what goes wrong is said on the last fd. */
static void become(const char *path, char *const argv[], const int *fds, int n)
{
    int moved[8], null;
    char text[300];

    setsid();
    fresh_signals();
    for (int i = 0; i < n; i++) /* first out of the way of each other */
        moved[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, SPAWN_FIRST_FD + n);
    for (int i = 0; i < n; i++)
        if (moved[i] < 0 || dup2(moved[i], SPAWN_FIRST_FD + i) < 0)
            _exit(127);
    close_range((unsigned)(SPAWN_FIRST_FD + n), ~0u, 0);
    null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null < 0)
        _exit(127);
    for (int i = 0; i < 3; i++)
        if (null != i)
            dup2(null, i);
        else
            fcntl(i, F_SETFD, 0);
    if (chdir("/") == 0)
        execv(path, argv);
    snprintf(text, sizeof(text), "%s: %s", path, strerror(errno));
    if (n > 0 && write_full(SPAWN_FIRST_FD + n - 1, text, strlen(text)) < 0)
        _exit(127);
    _exit(127);
}

int spawn_detached(const char *path, char *const argv[], const int *fds, int n, struct err *err)
{
    int subreaper = 0, status;
    pid_t pid;

    if (n > 8)
        return err_set(err, EINVAL, "too many fds");
    /* A subreaper would get the orphan: not wanted in what the caller is about to become. */
    prctl(PR_GET_CHILD_SUBREAPER, &subreaper);
    if (subreaper)
        prctl(PR_SET_CHILD_SUBREAPER, 0);
    pid = fork_silently();
    if (pid == 0) {
        pid = fork_silently();
        if (pid == 0)
            become(path, argv, fds, n);
        _exit(pid < 0 ? errno : 0);
    }
    if (pid < 0) {
        err_errno(err, "fork");
    } else {
        while (waitpid(pid, &status, __WALL) < 0 && errno == EINTR)
            ;
    }
    if (subreaper)
        prctl(PR_SET_CHILD_SUBREAPER, 1);
    if (pid < 0)
        return -err->code;
    if (!WIFEXITED(status) || WEXITSTATUS(status))
        return err_set(err, WIFEXITED(status) ? WEXITSTATUS(status) : EIO, "fork: %s",
                       strerror(WIFEXITED(status) ? WEXITSTATUS(status) : EIO));
    return 0;
}

ssize_t spawn_read(int fd, char *text, size_t size)
{
    size_t n = 0;
    ssize_t got;

    while (n < size - 1 && (got = read(fd, text + n, size - 1 - n)) != 0) {
        if (got < 0 && errno != EINTR)
            return -errno;
        n += got > 0 ? (size_t)got : 0;
    }
    text[n] = '\0';
    return (ssize_t)n;
}

char *coord_find_program(const char *name, const char *module, struct err *err)
{
    _cleanup_free_ char *self = readlink_dup("/proc/self/exe");
    char *slash = self ? strrchr(self, '/') : NULL;
    char *candidate[5] = {0}, *found = NULL;

    if (slash) {
        *slash = '\0';
        candidate[0] = format("%s/%s", self, name);
        candidate[1] = format("%s/../%s/%s", self, module, name);
        candidate[2] = format("%s/../libexec/dmtcp/%s", self, name);
    }
    candidate[3] = format("%s/%s", DMTCP_BINDIR, name);
    candidate[4] = format("%s/%s", DMTCP_LIBEXECDIR, name);
    for (size_t i = 0; i < ARRAY_SIZE(candidate); i++) {
        struct stat st;
        if (!found && candidate[i] && stat(candidate[i], &st) == 0 && S_ISREG(st.st_mode) &&
            access(candidate[i], X_OK) == 0)
            found = candidate[i];
        else
            free(candidate[i]);
    }
    if (!found)
        err_set(err, ENOENT, "%s is neither next to this program (%s) nor in %s or %s", name,
                self ? self : "?", DMTCP_BINDIR, DMTCP_LIBEXECDIR);
    return found;
}
