/*
 * What this machine can do at most: bench_limit prints one "name value" a line; bytes a second, with as many
 * threads as there are processors, or seconds for one of what is made.
 */
#include "tests/bench/bench.h"

#include <lz4.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define SPAN    ((size_t)128 << 20) /* of each thread: far more than caches hold */
#define CHUNK   ((size_t)256 << 10)
#define THREADS 16

enum job { COPY, FAULT, COMPRESS, EXPAND };

struct worker {
    pthread_t thread;
    enum job job;
    char *from, *to;
    int *packed;
};

static void *run(void *arg)
{
    struct worker *w = arg;
    int room = LZ4_compressBound((int)CHUNK), stored;
    char *buf = malloc((size_t)room);

    for (size_t at = 0, i = 0; at < SPAN; at += CHUNK, i++) {
        switch (w->job) {
        case COPY:
        case FAULT:
            memcpy(w->to + at, w->from + at, CHUNK);
            break;
        case COMPRESS:
            stored = LZ4_compress_default(w->from + at, w->to + at, (int)CHUNK, (int)CHUNK);
            w->packed[i] = stored;
            break;
        case EXPAND:
            if (w->packed[i])
                LZ4_decompress_safe(w->to + at, buf, w->packed[i], room);
            break;
        default:
            break;
        }
    }
    free(buf);
    return NULL;
}

static void *map(size_t len)
{
    void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (p == MAP_FAILED)
        bench_must(-1, "mmap");
    return p;
}

static void measure(struct worker *w, long n, enum job job, const char *name)
{
    uint64_t begin, took;

    if (job == FAULT)
        for (long i = 0; i < n; i++)
            MUST(madvise(w[i].to, SPAN, MADV_DONTNEED));
    begin = bench_ns();
    for (long i = 0; i < n; i++) {
        w[i].job = job;
        MUST(-pthread_create(&w[i].thread, NULL, run, &w[i]));
    }
    for (long i = 0; i < n; i++)
        pthread_join(w[i].thread, NULL);
    took = bench_ns() - begin;
    printf("%s %.0f\n", name, (double)SPAN * (double)n / ((double)took / 1e9));
}

static void *nothing(void *arg)
{
    return arg;
}

static void measure_tasks(void)
{
    uint64_t begin = bench_ns();
    pthread_t t;

    for (int i = 0; i < 200; i++) {
        pid_t pid = (pid_t)MUST(fork());
        if (pid == 0)
            _exit(0);
        waitpid(pid, NULL, 0);
    }
    printf("fork %.9f\n", (double)(bench_ns() - begin) / 200e9);
    begin = bench_ns();
    for (int i = 0; i < 1000; i++) {
        MUST(-pthread_create(&t, NULL, nothing, NULL));
        pthread_join(t, NULL);
    }
    printf("thread %.9f\n", (double)(bench_ns() - begin) / 1000e9);
}

int main(void)
{
    static const char *const contents[] = {"zero", "compressible", "random"};
    struct worker w[THREADS] = {0};
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    char name[64];

    measure_tasks();
    n = n > THREADS ? THREADS : n < 1 ? 1 : n;
    for (long i = 0; i < n; i++) {
        w[i].from = map(SPAN);
        w[i].to = map(SPAN);
        w[i].packed = calloc(SPAN / CHUNK, sizeof(int));
    }
    for (size_t c = 0; c < 3; c++) {
        for (long i = 0; i < n; i++)
            bench_fill(w[i].from, SPAN, contents[c]);
        snprintf(name, sizeof(name), "lz4-%s", contents[c]);
        measure(w, n, COMPRESS, name);
        snprintf(name, sizeof(name), "unlz4-%s", contents[c]);
        measure(w, n, EXPAND, name);
    }
    measure(w, n, COPY, "warm");
    measure(w, n, COPY, "copy");
    measure(w, n, FAULT, "copy-fault");
    return 0;
}
