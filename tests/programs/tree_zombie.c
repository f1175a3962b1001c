/*
 * Dead children that nobody has waited for yet: exited with a status, killed by a signal, in groups of
 * their own, with the process that dies last a thread; and such a child of a child. waitid() says the same
 * of each as it said before.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"

enum how { EXIT_42, EXIT_0, KILLED, ABORTED, GROUP, HOWS };

struct zombie {
    pid_t pid;
    siginfo_t info;
    pid_t pgid;
    char comm[32];
};

static pid_t start(enum how how)
{
    pid_t pid = (pid_t)MUST(fork());

    if (pid)
        return pid;
    prctl(PR_SET_NAME, "a zombie");
    switch (how) {
    case EXIT_42:
        _exit(42);
    case EXIT_0:
        _exit(0);
    case KILLED:
        raise(SIGKILL);
        break;
    case ABORTED:
        signal(SIGABRT, SIG_DFL);
        abort();
    case GROUP:
        setpgid(0, 0);
        _exit(7);
    default:
        break;
    }
    _exit(99);
}

static void comm_of(pid_t pid, char *comm, size_t size)
{
    char path[64], stat[1024];
    char *end;

    snprintf(path, sizeof(path), "/proc/%d/stat", pid);
    check_slurp(path, stat, sizeof(stat));
    end = strrchr(stat, ')');
    if (end)
        end[3] = 0; /* with the state */
    snprintf(comm, size, "%s", strchr(stat, '(') ? strchr(stat, '(') : "?");
}

static void look(struct zombie *z)
{
    memset(&z->info, 0, sizeof(z->info));
    MUST(waitid(P_PID, (id_t)z->pid, &z->info, WEXITED | WNOWAIT));
    z->pgid = (pid_t)MUST(getpgid(z->pid));
    comm_of(z->pid, z->comm, sizeof(z->comm));
}

static void compare(const struct zombie *before)
{
    struct zombie now = {.pid = before->pid};
    int status = 0;

    if (waitid(P_PID, (id_t)now.pid, &now.info, WEXITED | WNOWAIT) < 0) {
        check_fail("waitid(%d): %s", now.pid, strerror(errno));
        return;
    }
    look(&now);
    check_num(before->info.si_code, now.info.si_code, "zombie %d: si_code", now.pid);
    check_num(before->info.si_status, now.info.si_status, "zombie %d: si_status", now.pid);
    check_num(before->info.si_uid, now.info.si_uid, "zombie %d: si_uid", now.pid);
    check_num(before->pgid, now.pgid, "zombie %d: process group", now.pid);
    check_str(before->comm, now.comm, "name and state of a zombie");
    check_num(now.pid, waitpid(now.pid, &status, 0), "waitpid(%d)", now.pid);
    check_num(-1, waitpid(now.pid, &status, WNOHANG), "waitpid(%d) once more", now.pid);
}

static void with_zombies(const char *who, bool main_process)
{
    struct zombie zombies[HOWS];
    int i;

    for (i = 0; i < HOWS; i++) {
        zombies[i].pid = start((enum how)i);
        look(&zombies[i]);
    }
    if (main_process)
        check_wait();
    else
        check_idle();
    if (check_broken())
        zombies[0].info.si_status++;
    for (i = 0; i < HOWS; i++)
        compare(&zombies[i]);
    check_num(-1, main_process ? -1 : waitpid(-1, NULL, WNOHANG), "%s: waitpid() of any other child", who);
}

int main(int argc, char **argv)
{
    struct rlimit none = {0, 0};
    pid_t child;

    check_init(argc, argv);
    MUST(setrlimit(RLIMIT_CORE, &none));
    child = (pid_t)MUST(fork());
    if (child == 0) {
        with_zombies("child", false);
        _exit(check_status());
    }
    with_zombies("parent", true);
    check_child(child, "child");
    return check_end();
}
