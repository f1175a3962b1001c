/*
 * For a static binary with another C library than the usual: threads, heap, stdio, children, signals; the same
 * output each time.
 */
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define THREADS 4

static volatile sig_atomic_t caught;
static __thread uint64_t mine;

static void on_signal(int sig)
{
    (void)sig;
    caught++;
}

static uint64_t mix(uint64_t x)
{
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9u;
    x ^= x >> 27;
    return x * 0x94d049bb133111ebu;
}

static void *work(void *arg)
{
    uint64_t *result = arg, *heap = calloc(5000, sizeof(*heap)), sum = 0;
    int i;

    mine = *result;
    for (i = 0; i < 2000000; i++) {
        mine = mix(mine + (uint64_t)i);
        heap[mine % 5000] += mine;
    }
    for (i = 0; i < 5000; i++)
        sum = mix(sum ^ heap[i]);
    free(heap);
    *result = sum;
    return NULL;
}

int main(int argc, char **argv)
{
    int rounds = argc > 1 ? atoi(argv[1]) : 60, round, i, status;

    signal(SIGUSR1, on_signal);
    for (round = 0; round < rounds; round++) {
        struct timespec ts = {0, 5000000};
        uint64_t results[THREADS], sum = 0;
        pthread_t threads[THREADS];
        pid_t pid;

        for (i = 0; i < THREADS; i++) {
            results[i] = (uint64_t)(round * 10 + i);
            pthread_create(&threads[i], NULL, work, &results[i]);
        }
        fflush(stdout);
        pid = fork();
        if (pid == 0)
            _exit((int)(mix((uint64_t)round) & 63));
        for (i = 0; i < THREADS; i++) {
            pthread_join(threads[i], NULL);
            sum ^= mix(results[i] + (uint64_t)i);
        }
        raise(SIGUSR1);
        if (waitpid(pid, &status, 0) != pid)
            return 1;
        nanosleep(&ts, NULL);
        printf("%d %016llx %d\n", round, (unsigned long long)sum, WEXITSTATUS(status));
    }
    printf("caught %d\nend\n", (int)caught);
    return 0;
}
