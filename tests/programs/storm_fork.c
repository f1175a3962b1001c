/*
 * A storm of processes: three workers fork as fast as they can; the children compute, fork children of their
 * own, leave orphans that report by a pipe, or execute this program again (by fork or vfork), and end with
 * a status that the parent can predict. Every child must be accounted for, with the right status.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"

#define WORKERS 3

static int status_for(uint64_t n)
{
    n = (n ^ (n >> 31)) * 0x7fb5d329728ea185u;
    return (int)((n >> 40) & 0x7f);
}

static void expect(pid_t pid, int expected, const char *what)
{
    int status = 0;
    pid_t got = waitpid(pid, &status, 0);

    if (got != pid)
        check_fail("%s: waitpid(%d): %d, %s", what, pid, got, strerror(errno));
    else
        check_num(expected, WIFEXITED(status) ? WEXITSTATUS(status) : -1000 - WTERMSIG(status), "%s: status", what);
}

static void plain(uint64_t n)
{
    pid_t pid = (pid_t)MUST(fork());

    if (pid == 0)
        _exit(status_for(n));
    expect(pid, status_for(n), "child");
}

static void nested(uint64_t n)
{
    pid_t pid = (pid_t)MUST(fork());

    if (pid == 0) {
        plain(n + 1);
        _exit(check_status() ? 126 : status_for(n));
    }
    expect(pid, status_for(n), "child with a child");
}

/* The child ends first; its child writes the number into the pipe. */
static void orphan(uint64_t n)
{
    uint64_t got = 0;
    pid_t pid;
    int fds[2];

    MUST(pipe(fds));
    pid = (pid_t)MUST(fork());
    if (pid == 0) {
        if (MUST(fork()))
            _exit(status_for(n));
        _exit(write(fds[1], &n, sizeof(n)) != sizeof(n));
    }
    close(fds[1]);
    expect(pid, status_for(n), "child that leaves an orphan");
    check_num(sizeof(n), read(fds[0], &got, sizeof(got)), "bytes from an orphan");
    check_num((long long)n, (long long)got, "number from an orphan");
    check_num(0, read(fds[0], &got, sizeof(got)), "bytes after the end of an orphan");
    close(fds[0]);
}

static void execute(uint64_t n, bool by_vfork)
{
    char number[32];
    char *const argv[] = {(char *)"storm", (char *)"--end-with", number, NULL};
    pid_t pid;

    snprintf(number, sizeof(number), "%d", status_for(n));
    pid = by_vfork ? vfork() : fork();
    MUST(pid);
    if (pid == 0) {
        execv("/proc/self/exe", argv);
        _exit(125);
    }
    expect(pid, status_for(n), by_vfork ? "program executed after vfork" : "program executed after fork");
}

static void killed(void)
{
    pid_t pid = (pid_t)MUST(fork());

    if (pid == 0)
        for (;;)
            pause();
    MUST(kill(pid, SIGKILL));
    expect(pid, -1000 - SIGKILL, "child that was killed");
}

static void work(uint64_t seed)
{
    uint64_t n;

    for (n = seed; n == seed || (!check_go() && !check_status()); n++) {
        switch (n % 7) {
        case 0:
        case 1:
            plain(n);
            break;
        case 2:
            nested(n);
            break;
        case 3:
            orphan(n);
            break;
        case 4:
            execute(n, false);
            break;
        case 5:
            execute(n, true);
            break;
        default:
            killed();
            break;
        }
    }
    if (check_broken())
        expect(getppid(), 0, "a process that is no child");
    check_num(-1, waitpid(-1, NULL, WNOHANG), "children that nobody started");
    check_num(ECHILD, errno, "errno of that");
    _exit(check_status());
}

int main(int argc, char **argv)
{
    pid_t workers[WORKERS];
    int i;

    if (argc == 3 && !strcmp(argv[1], "--end-with"))
        return atoi(argv[2]);
    check_init(argc, argv);
    for (i = 0; i < WORKERS; i++) {
        workers[i] = (pid_t)MUST(fork());
        if (workers[i] == 0)
            work((uint64_t)i << 32);
    }
    check_ready();
    for (i = 0; i < WORKERS; i++)
        check_child(workers[i], "worker");
    return check_end();
}
