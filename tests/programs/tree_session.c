/*
 * Sessions and process groups whose leaders are gone: the id of a dead and reaped process lives on as the
 * session and group of those it left behind. They keep it, and signals to the group reach them.
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"

struct member {
    pid_t pid, sid, pgid;
};

static volatile sig_atomic_t got;
static int up[2], report[2];

static void on_signal(int sig)
{
    got = sig;
}

/* A process that stays: tells who it is, compares, waits for a signal to its group, reports. */
static void stay(const char *who)
{
    struct member me = {getpid(), getsid(0), getpgrp()};
    char failed;
    int i;

    signal(SIGUSR1, on_signal);
    MUST(write(up[1], &me, sizeof(me)));
    check_idle();
    check_num(me.sid, getsid(0), "%s: session", who);
    check_num(me.pgid, getpgrp(), "%s: process group", who);
    for (i = 0; i < 2000 && !got; i++)
        check_sleep(0.005);
    check_num(SIGUSR1, got, "%s: signal to its group", who);
    failed = (char)check_status();
    MUST(write(report[1], &failed, 1));
    _exit(0);
}

/* A leader of a session that leaves two members behind, one in a group of its own. */
static pid_t session_leader(void)
{
    pid_t pid = (pid_t)MUST(fork());

    if (pid)
        return pid;
    MUST(setsid());
    if (MUST(fork()) == 0)
        stay("in the session of a dead leader");
    if (MUST(fork()) == 0) {
        MUST(setpgid(0, 0));
        stay("in the session of a dead leader, in a group of its own");
    }
    _exit(0);
}

/* A leader of a group in our session that leaves a member behind. */
static pid_t group_leader(void)
{
    pid_t pid = (pid_t)MUST(fork());

    if (pid)
        return pid;
    MUST(setpgid(0, 0));
    if (MUST(fork()) == 0)
        stay("in the group of a dead leader");
    _exit(0);
}

int main(int argc, char **argv)
{
    struct member members[3];
    pid_t session, group;
    char failed;
    int i;

    check_init(argc, argv);
    MUST(pipe(up));
    MUST(pipe(report));
    session = session_leader();
    group = group_leader();
    MUST(waitpid(session, NULL, 0));
    MUST(waitpid(group, NULL, 0));
    for (i = 0; i < 3; i++)
        MUST(read(up[0], &members[i], sizeof(members[i])));

    check_wait();

    for (i = 0; i < 3; i++) {
        bool in_session = members[i].sid == session;

        check_num(members[i].sid, getsid(members[i].pid), "session of %d", members[i].pid);
        check_num(members[i].pgid, getpgid(members[i].pid), "process group of %d", members[i].pid);
        check_true(in_session || members[i].pgid == group, "%d is in neither", members[i].pid);
    }
    MUST(kill(-session, check_broken() ? SIGURG : SIGUSR1));
    MUST(kill(-group, SIGUSR1));
    for (i = 0; i < 3; i++)
        if (members[i].pgid == members[i].pid)
            MUST(kill(-members[i].pid, SIGUSR1));
    for (i = 0; i < 3; i++) {
        MUST(read(report[0], &failed, 1));
        check_num(0, failed, "status of a member");
    }
    return check_end();
}
