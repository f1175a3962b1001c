/*
 * Who is who in a tree of processes: pid, parent, process group, session and tids of children, grandchildren,
 * a daemon (double fork, setsid) and a process with threads; a chain of 20 descendants and 60 siblings.
 * Each process compares its own; the parents wait for their children.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"

#define CHAIN    20
#define SIBLINGS 60

struct ids {
    pid_t pid, ppid, pgid, sid, tid;
};

static int up[2]; /* every process writes a byte into it when it is set up */
static int processes;

static void look(struct ids *ids)
{
    *ids = (struct ids){getpid(), getppid(), getpgrp(), getsid(0), (pid_t)syscall(SYS_gettid)};
}

static void compare(const char *who, const struct ids *before, bool parent_too)
{
    struct ids after;

    look(&after);
    check_num(before->pid, after.pid, "%s: pid", who);
    check_num(before->tid, after.tid, "%s: tid", who);
    check_num(before->pgid, after.pgid, "%s: process group of %d", who, after.pid);
    check_num(before->sid, after.sid, "%s: session of %d", who, after.pid);
    if (parent_too)
        check_num(before->ppid, after.ppid, "%s: parent of %d", who, after.pid);
}

static void arrive(struct ids *ids)
{
    look(ids);
    MUST(write(up[1], "x", 1));
}

static void leaf(const char *who)
{
    struct ids ids;

    arrive(&ids);
    check_idle();
    compare(who, &ids, true);
    _exit(check_status());
}

static pid_t start_chain(int depth)
{
    pid_t pid = (pid_t)MUST(fork()), child = 0;
    struct ids ids;

    if (pid)
        return pid;
    if (depth > 1)
        child = start_chain(depth - 1);
    if (depth == 10)
        MUST(setpgid(0, 0));
    arrive(&ids);
    check_idle();
    compare("chain", &ids, true);
    if (child)
        check_child(child, "next of the chain");
    _exit(check_status());
}

static void *thread(void *arg)
{
    struct ids ids;

    arrive(&ids);
    check_idle();
    compare("thread", &ids, true);
    return arg;
}

static pid_t start_threaded(void)
{
    pid_t pid = (pid_t)MUST(fork());
    pthread_t threads[5];
    struct ids ids;
    int i;

    if (pid)
        return pid;
    for (i = 0; i < 5; i++)
        pthread_create(&threads[i], NULL, thread, NULL);
    arrive(&ids);
    check_idle();
    for (i = 0; i < 5; i++)
        pthread_join(threads[i], NULL);
    compare("process with threads", &ids, true);
    _exit(check_status());
}

/* The daemon's parent is outside the tree and may be another one after a restart. It reports on a pipe. */
static void start_daemon(int report)
{
    pid_t pid = (pid_t)MUST(fork());
    struct ids ids;
    char failed;

    if (pid) {
        MUST(waitpid(pid, NULL, 0));
        return;
    }
    MUST(setsid());
    if (MUST(fork()))
        _exit(0);
    arrive(&ids);
    check_idle();
    compare("daemon", &ids, false);
    failed = (char)check_status();
    MUST(write(report, &failed, 1));
    _exit(0);
}

static pid_t start_group(void)
{
    pid_t pid = (pid_t)MUST(fork()), child;
    struct ids ids;

    if (pid)
        return pid;
    MUST(setpgid(0, 0));
    child = (pid_t)MUST(fork());
    if (child == 0)
        leaf("member of a process group");
    arrive(&ids);
    check_idle();
    compare("leader of a process group", &ids, true);
    check_child(child, "member of a process group");
    _exit(check_status());
}

int main(int argc, char **argv)
{
    pid_t pids[SIBLINGS + 3];
    int report[2], n = 0, i;
    struct ids ids;
    char c;

    check_init(argc, argv);
    MUST(pipe(up));
    MUST(pipe(report));
    pids[n++] = start_chain(CHAIN);
    pids[n++] = start_threaded();
    pids[n++] = start_group();
    start_daemon(report[1]);
    while (n < SIBLINGS + 3) {
        pids[n] = (pid_t)MUST(fork());
        if (pids[n++] == 0)
            leaf("sibling");
    }
    processes = CHAIN + (1 + 5) + 2 + 1 + SIBLINGS;
    look(&ids);
    for (i = 0; i < processes; i++)
        MUST(read(up[0], &c, 1));

    check_wait();

    if (check_broken())
        ids.pgid++;
    compare("root of the tree", &ids, false);
    for (i = 0; i < n; i++)
        check_child(pids[i], "child");
    MUST(read(report[0], &c, 1));
    check_num(0, c, "status of the daemon");
    return check_end();
}
