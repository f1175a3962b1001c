/*
 * System V shared memory of huge pages: attached, attached in part, and detached. It must be of huge pages again.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>

#include "tests/programs/check.h"
#include "tests/programs/maps.h"

#define HUGE (2ul * 1024 * 1024)

static int make(size_t size)
{
    int id = shmget(IPC_PRIVATE, size, IPC_CREAT | SHM_HUGETLB | 0600);

    if (id < 0)
        check_skip("no shared memory of huge pages (/proc/sys/vm/nr_hugepages, CAP_IPC_LOCK): %s", strerror(errno));
    return id;
}

static unsigned char *attach(int id)
{
    unsigned char *p = shmat(id, NULL, 0);

    MUST(p);
    return p;
}

static void compare(unsigned char *p, size_t n, uint64_t seed, const char *what)
{
    check_filled(p, n, seed, what);
    check_true(maps_has_flag(p, "ht"), "%s: no huge pages any more", what);
    check_num(2048, maps_kib(p, "KernelPageSize"), "%s: page size in KiB", what);
}

int main(int argc, char **argv)
{
    int whole, part, detached;
    unsigned char *w, *p, *d;
    struct shmid_ds ds;

    check_init(argc, argv);
    whole = make(HUGE);
    part = make(2 * HUGE);
    detached = make(HUGE / 2); /* less than a page: what it is made of shows in no number */
    w = attach(whole);
    p = attach(part);
    d = attach(detached);
    check_fill(w, HUGE, 1);
    check_fill(p, 2 * HUGE, 2);
    check_fill(d, HUGE / 2, 3);
    MUST(shmdt(d));
    MUST(munmap(p, HUGE));

    check_wait();

    if (check_broken())
        w[HUGE - 1] ^= 1;
    compare(w, HUGE, 1, "attached");
    check_true(maps_has_flag(p + HUGE, "ht"), "attached in part: no huge pages any more");
    d = attach(detached);
    compare(d, HUGE / 2, 3, "detached");
    MUST(shmctl(detached, IPC_STAT, &ds));
    check_num(HUGE / 2, (long long)ds.shm_segsz, "size of the detached");
    p = attach(part);
    compare(p, 2 * HUGE, 2, "attached in part");
    shmctl(whole, IPC_RMID, NULL);
    shmctl(part, IPC_RMID, NULL);
    shmctl(detached, IPC_RMID, NULL);
    return check_end();
}
