/*
 * The vDSO: threads spin in clock_gettime() while they are checkpointed, a pointer into the vDSO taken
 * before must work after, it is where the auxiliary vector says, and no clock goes back.
 */
#include <elf.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"

typedef int (*clock_gettime_fn)(clockid_t, struct timespec *);

static const clockid_t clocks[] = {CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_MONOTONIC_COARSE, CLOCK_MONOTONIC_RAW};
static atomic_bool stop;
static clock_gettime_fn vdso_clock_gettime;

/* The symbol in the vDSO's dynamic symbol table. */
static clock_gettime_fn find_in_vdso(const char *name)
{
    const char *base = (const char *)getauxval(AT_SYSINFO_EHDR);
    const Elf64_Ehdr *eh = (const Elf64_Ehdr *)base;
    const Elf64_Phdr *ph;
    const Elf64_Dyn *dyn = NULL;
    const Elf64_Sym *syms = NULL;
    const char *strings = NULL;
    const Elf64_Word *hash = NULL;
    uintptr_t bias = 0;
    unsigned i;

    if (!base)
        check_skip("the process has no vDSO");
    ph = (const Elf64_Phdr *)(base + eh->e_phoff);
    for (i = 0; i < eh->e_phnum; i++) {
        if (ph[i].p_type == PT_LOAD && ph[i].p_offset == 0)
            bias = (uintptr_t)base - ph[i].p_vaddr;
        if (ph[i].p_type == PT_DYNAMIC)
            dyn = (const Elf64_Dyn *)(base + ph[i].p_offset);
    }
    for (; dyn && dyn->d_tag != DT_NULL; dyn++) {
        if (dyn->d_tag == DT_SYMTAB)
            syms = (const Elf64_Sym *)(bias + dyn->d_un.d_ptr);
        else if (dyn->d_tag == DT_STRTAB)
            strings = (const char *)(bias + dyn->d_un.d_ptr);
        else if (dyn->d_tag == DT_HASH)
            hash = (const Elf64_Word *)(bias + dyn->d_un.d_ptr);
    }
    for (i = 0; syms && strings && i < (hash ? hash[1] : 20); i++)
        if (!strcmp(strings + syms[i].st_name, name))
            return (clock_gettime_fn)(bias + syms[i].st_value);
    check_skip("no %s in the vDSO", name);
}

static void *spin(void *arg)
{
    clockid_t clock = *(const clockid_t *)arg;
    double last = 0;

    while (!atomic_load(&stop)) {
        struct timespec ts;
        double now;

        vdso_clock_gettime(clock, &ts);
        now = (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
        if (now < last)
            check_fail("clock %d went back: before %.9f, after %.9f", clock, last, now);
        last = now;
    }
    return NULL;
}

/* The vDSO and the kernel must tell the same time. */
static void compare_with_kernel(clockid_t clock)
{
    struct timespec kernel, vdso;
    double difference;

    MUST(syscall(SYS_clock_gettime, clock, &kernel));
    vdso_clock_gettime(clock, &vdso);
    difference = (double)(vdso.tv_sec - kernel.tv_sec) + (double)(vdso.tv_nsec - kernel.tv_nsec) / 1e9;
    check_range(-0.02, 5, difference, "seconds from the kernel's clock to the vDSO's");
}

int main(int argc, char **argv)
{
    unsigned long ehdr = getauxval(AT_SYSINFO_EHDR);
    pthread_t threads[4];
    struct timeval tv;
    double boot, real;
    unsigned i;

    check_init(argc, argv);
    vdso_clock_gettime = find_in_vdso("__vdso_clock_gettime");
    for (i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, spin, (void *)&clocks[i]);
    boot = check_now(CLOCK_BOOTTIME);
    real = check_now(CLOCK_REALTIME);

    check_wait();

    atomic_store(&stop, true);
    for (i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    check_num((long long)ehdr, (long long)getauxval(AT_SYSINFO_EHDR), "AT_SYSINFO_EHDR");
    check_mem("\177ELF", (const void *)ehdr, 4, "head of the vDSO");
    for (i = 0; i < 4; i++)
        compare_with_kernel(clocks[i]);
    compare_with_kernel(CLOCK_REALTIME);
    if (check_broken())
        boot += 1000;
    check_true(check_now(CLOCK_BOOTTIME) >= boot, "CLOCK_BOOTTIME went back");
    check_true(check_now(CLOCK_REALTIME) >= real, "CLOCK_REALTIME went back");
    gettimeofday(&tv, NULL);
    check_range(-2, 2, (double)(tv.tv_sec - time(NULL)), "gettimeofday() minus time()");
    return check_end();
}
