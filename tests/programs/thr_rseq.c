/*
 * Restartable sequences: threads add to per-CPU counters in critical sections that they are in most of the
 * time. If a thread was ever put back into the middle of one as if nothing had happened, a count is lost.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/rseq.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"

#define THREADS  6
#define MAX_CPUS 1024

struct slot {
    volatile unsigned long count;
    char pad[56];
};

static struct slot slots[MAX_CPUS];
static atomic_bool stop;

static struct rseq *own_rseq(void)
{
    return (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);
}

/*
 * Add one to the counter of the CPU we are on; false if the sequence was interrupted. The store is the
 * last instruction: the commit. Between load and store it dawdles, to be caught there.
 */
static bool add_one(struct rseq *rs)
{
    unsigned cpu = *(volatile unsigned *)&rs->cpu_id_start;
    volatile unsigned long *count = &slots[cpu % MAX_CPUS].count;

    __asm__ goto(".pushsection __rseq_cs, \"aw\"\n"
                 ".balign 32\n"
                 "3: .long 0, 0\n"
                 ".quad 1f, 2f - 1f, 4f\n"
                 ".popsection\n"
                 "leaq 3b(%%rip), %%rax\n"
                 "movq %%rax, %[cs]\n"
                 "1: cmpl %[cpu], %[id]\n"
                 "jne %l[aborted]\n"
                 "movq (%[count]), %%rax\n"
                 "incq %%rax\n"
                 "movl $300, %%ecx\n"
                 "5: pause; decl %%ecx; jnz 5b\n"
                 "movq %%rax, (%[count])\n"
                 "2:\n"
                 ".pushsection __rseq_failure, \"ax\"\n"
                 ".byte 0x0f, 0xb9, 0x3d\n" /* ud1 with the signature as its operand */
                 ".long %c[sig]\n"
                 "4: jmp %l[aborted]\n"
                 ".popsection\n"
                 :
                 : [cs] "m"(rs->rseq_cs), [id] "m"(rs->cpu_id), [cpu] "r"(cpu), [count] "r"(count),
                   [sig] "i"(RSEQ_SIG)
                 : "rax", "rcx", "memory", "cc"
                 : aborted);
    return true;
aborted:
    return false;
}

static void *adder(void *arg)
{
    unsigned long *done = arg;
    struct rseq *rs = own_rseq();

    while (!atomic_load(&stop))
        if (add_one(rs))
            ++*done;
    check_true((int)rs->cpu_id >= 0, "cpu_id of the rseq area is %d: it is not registered any more", (int)rs->cpu_id);
    return NULL;
}

int main(int argc, char **argv)
{
    unsigned long done[THREADS][8] = {{0}}, sum = 0, counted = 0;
    pthread_t threads[THREADS];
    int i;

    check_init(argc, argv);
    if (__rseq_size == 0)
        check_skip("glibc has not registered rseq (kernel or tunable)");
    for (i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, adder, done[i]);

    check_wait();

    atomic_store(&stop, true);
    for (i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        sum += done[i][0];
    }
    if (check_broken())
        sum--;
    for (i = 0; i < MAX_CPUS; i++)
        counted += slots[i].count;
    check_num((long long)sum, (long long)counted, "counts in per-CPU counters");
    check_true(sum > 0, "nothing was counted");
    return check_end();
}
