/*
 * A storm of programs that execute themselves: a process starts threads, and one of them (the first one by turns, mostly
 * another) executes this program again, which takes the process id over and ends all others; after some rounds it ends
 * with a status that the parent can predict.
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/programs/check.h"

#define WORKERS 2
#define THREADS 4
#define ROUNDS  6

static char rounds[16], status[16];

static void execute_again(void)
{
    char *const argv[] = {(char *)"storm", rounds, status, NULL};

    execv("/proc/self/exe", argv);
    _exit(125);
}

static void *executes(void *arg)
{
    execute_again();
    return arg;
}

static void *waits(void *arg)
{
    for (;;)
        pause();
    return arg;
}

static void *spins(void *arg)
{
    for (volatile unsigned long n = 0;; n++)
        ;
    return arg;
}

/* In a process of its own; `left` executions are still to come. */
static _Noreturn void chain(int left, int result)
{
    pthread_t thread;

    if (left == 0)
        _exit(result);
    snprintf(rounds, sizeof(rounds), "%d", left - 1);
    snprintf(status, sizeof(status), "%d", result);
    for (int i = 0; i < THREADS; i++)
        if (pthread_create(&thread, NULL, i == 0 ? spins : waits, NULL))
            _exit(124);
    if (left % 4 == 0)
        execute_again();
    if (pthread_create(&thread, NULL, executes, NULL))
        _exit(124);
    for (;;)
        pause();
}

static void work(int seed)
{
    int n = seed, result = 0;

    do {
        pid_t pid = (pid_t)MUST(fork());

        n++;
        if (pid == 0)
            chain(ROUNDS, n % 100);
        if (check_num(pid, waitpid(pid, &result, 0), "waiting for a chain of programs"))
            check_num(n % 100, WIFEXITED(result) ? WEXITSTATUS(result) : -WTERMSIG(result), "status of a chain");
    } while (!check_go() && !check_status());
    if (check_broken())
        check_num((n + 1) % 100, WEXITSTATUS(result), "status of the last one");
    _exit(check_status());
}

int main(int argc, char **argv)
{
    pid_t workers[WORKERS];

    if (argc == 3)
        chain(atoi(argv[1]), atoi(argv[2]));
    check_init(argc, argv);
    for (int i = 0; i < WORKERS; i++) {
        workers[i] = (pid_t)MUST(fork());
        if (workers[i] == 0)
            work(i);
    }
    check_ready();
    for (int i = 0; i < WORKERS; i++)
        check_child(workers[i], "worker");
    return check_end();
}
