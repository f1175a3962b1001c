/*
 * A process that has used up what it may have of address space and data (ulimit -v, ulimit -d): there is no room for
 * anything more in it, except where the limit may be raised for as long as that takes. It has its limits afterwards, and
 * they hold.
 */
#include <errno.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/programs/check.h"

#define SLACK (64ull << 10)
#define MORE  (1ul << 20)

/* A line of /proc/self/status, in bytes. */
static rlim_t used(const char *key)
{
    char line[64];
    unsigned long long kib = 0;

    sscanf(check_status_line("self", key, line, sizeof(line)), "%llu", &kib);
    return (rlim_t)(kib << 10);
}

/* Returns the hard limit, which stays. */
static rlim_t set(int resource, rlim_t value)
{
    struct rlimit limit;

    MUST(getrlimit((__rlimit_resource_t)resource, &limit));
    limit.rlim_cur = value;
    MUST(setrlimit((__rlimit_resource_t)resource, &limit));
    return limit.rlim_max;
}

static void check_limit(int resource, const char *key)
{
    const rlim_t value = used(key) + SLACK;
    const rlim_t hard = set(resource, value);
    struct rlimit now;
    void *p;

    check_idle();
    if (check_broken())
        set(resource, value - 4096);
    MUST(getrlimit((__rlimit_resource_t)resource, &now));
    check_num((long long)value, (long long)now.rlim_cur, "limit of %s", key);
    check_num((long long)hard, (long long)now.rlim_max, "hard limit of %s", key);
    p = mmap(NULL, MORE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    check_num(ENOMEM, p == MAP_FAILED ? errno : 0, "errno of a mapping beyond the limit of %s", key);
    _exit(check_status());
}

int main(int argc, char **argv)
{
    const struct {
        int resource;
        const char *key;
    } all[] = {{RLIMIT_AS, "VmSize"}, {RLIMIT_DATA, "VmData"}};
    pid_t pids[2];

    check_init(argc, argv);
    for (int i = 0; i < 2; i++) {
        pids[i] = (pid_t)MUST(fork());
        if (pids[i] == 0)
            check_limit(all[i].resource, all[i].key);
    }
    check_sleep(0.05);
    check_wait();
    for (int i = 0; i < 2; i++)
        check_child(pids[i], all[i].key);
    return check_end();
}
