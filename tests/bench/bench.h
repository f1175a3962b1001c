/* What the programs of the benchmark share. They end with a message when anything at all goes wrong. */
#ifndef TESTS_BENCH_BENCH_H
#define TESTS_BENCH_BENCH_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MUST(call) bench_must((long)(call), #call)

static inline long bench_must(long result, const char *what)
{
    if (result < 0) {
        perror(what);
        exit(2);
    }
    return result;
}

/* CLOCK_MONOTONIC; the system call is what a program pays that reads the clock without the vDSO. */
static inline uint64_t bench_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static inline uint64_t bench_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* Memory that holds "zero", "compressible" (LZ4 makes it about a sixth) or "random" content. */
static inline void bench_fill(void *p, size_t len, const char *content)
{
    uint64_t *w = p, state = 88172645463325252u;
    size_t keep = !strcmp(content, "random") ? 16 : !strcmp(content, "compressible") ? 2 : 0;

    memset(p, 1, len); /* a page that was only read is no memory of the process's own */
    for (size_t i = 0; i < len / 8; i++)
        w[i] = i % 16 < keep ? bench_random(&state) : 0;
}

#endif
