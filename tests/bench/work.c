/*
 * What is run bare and under launch to compare: bench_work KIND N prints the seconds that N steps took.
 * "hello" prints at once. fork: children that exit; thread: threads that end; signal: signals to itself that are
 * handled; compute: arithmetic without system calls.
 */
#include "tests/bench/bench.h"

#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile sig_atomic_t handled;

static void on_signal(int sig)
{
    handled += sig != 0;
}

static void *nothing(void *arg)
{
    return arg;
}

static void step_fork(void)
{
    pid_t pid = (pid_t)MUST(fork());

    if (pid == 0)
        _exit(0);
    MUST(waitpid(pid, NULL, 0));
}

static void step_thread(void)
{
    pthread_t t;

    MUST(-pthread_create(&t, NULL, nothing, NULL));
    MUST(-pthread_join(t, NULL));
}

static void step_signal(void)
{
    MUST(kill(getpid(), SIGUSR1));
}

static void step_compute(void)
{
    static uint64_t state = 1;

    for (int i = 0; i < 10000; i++)
        bench_random(&state);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*step)(void);
    } kinds[] = {{"fork", step_fork}, {"thread", step_thread}, {"signal", step_signal}, {"compute", step_compute}};
    long n = argc > 2 ? atol(argv[2]) : 0;

    signal(SIGUSR1, on_signal);
    for (size_t k = 0; argc > 1 && k < sizeof(kinds) / sizeof(kinds[0]); k++) {
        uint64_t begin = bench_ns();
        if (strcmp(argv[1], kinds[k].name) != 0)
            continue;
        for (long i = 0; i < n; i++)
            kinds[k].step();
        printf("%.9f\n", (double)(bench_ns() - begin) / 1e9);
        return 0;
    }
    return argc > 1 && !strcmp(argv[1], "hello") ? MUST(write(1, "hello\n", 6)) != 6 : 2;
}
