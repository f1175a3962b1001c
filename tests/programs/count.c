/*
 * The first program that must survive: one thread, no files, counting. Each step changes heap, stack,
 * data and bss in a way that depends on all steps before; at the end the same number of steps is done
 * anew from the start, and everything must be the same. It slows down after a while, for that takes as long.
 */
#include "tests/programs/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define WORDS 20000
#define FAST  50000000u /* steps at full speed */

static uint64_t in_data[512] = {1, 2, 3};
static uint64_t in_bss[512];

struct world {
    uint64_t *heap, *stack, *data, *bss;
    uint64_t sum;
};

static void step(struct world *w, uint64_t n)
{
    uint64_t x = (w->sum ^ n) * 0x9e3779b97f4a7c15u;

    w->heap[x % WORDS] += x;
    w->stack[(x >> 20) % 512] ^= w->heap[(x >> 10) % WORDS];
    w->data[(x >> 30) % 512] += w->stack[(x >> 25) % 512] + 1;
    w->bss[(x >> 40) % 512] ^= w->data[(x >> 35) % 512] * 3;
    w->sum += w->bss[(x >> 45) % 512] + x;
}

int main(int argc, char **argv)
{
    uint64_t stack[512] = {0}, stack2[512] = {0}, data2[512] = {1, 2, 3}, bss2[512] = {0};
    struct world w = {calloc(WORDS, 8), stack, in_data, in_bss, 0};
    struct world again = {calloc(WORDS, 8), stack2, data2, bss2, 0};
    uint64_t n = 0, i;
    double next = 0;

    check_init(argc, argv);
    check_ready();
    for (;; n++) {
        step(&w, n);
        if ((n & 0x3ff) == 0 && check_now(CLOCK_MONOTONIC) > next) {
            if (check_go())
                break;
            next = check_now(CLOCK_MONOTONIC) + 0.002;
            if (n > FAST)
                check_sleep(0.02);
        }
    }
    n++;
    if (check_broken())
        w.heap[WORDS / 2]++;
    for (i = 0; i < n; i++)
        step(&again, i);
    check_num((long long)again.sum, (long long)w.sum, "sum after %llu steps", (unsigned long long)n);
    check_mem(again.heap, w.heap, WORDS * 8, "heap");
    check_mem(again.stack, w.stack, sizeof(stack), "stack");
    check_mem(again.data, w.data, sizeof(in_data), "data");
    check_mem(again.bss, w.bss, sizeof(in_bss), "bss");
    return check_end();
}
