/*
 * What madvise() sets for good on a mapping, seen in VmFlags and by effect: DONTFORK, WIPEONFORK, DONTDUMP,
 * MERGEABLE, HUGEPAGE, NOHUGEPAGE, SEQUENTIAL, RANDOM.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"
#include "tests/programs/maps.h"

#define SIZE (4ul * 1024 * 1024)

struct advice {
    const char *name, *flag;
    int advice, undo;
    unsigned char *p;
    bool set;
};

static struct advice list[] = {
    {"MADV_DONTFORK", "dc", MADV_DONTFORK, MADV_DOFORK, NULL, false},
    {"MADV_WIPEONFORK", "wf", MADV_WIPEONFORK, MADV_KEEPONFORK, NULL, false},
    {"MADV_DONTDUMP", "dd", MADV_DONTDUMP, MADV_DODUMP, NULL, false},
    {"MADV_MERGEABLE", "mg", MADV_MERGEABLE, MADV_UNMERGEABLE, NULL, false},
    {"MADV_HUGEPAGE", "hg", MADV_HUGEPAGE, MADV_NOHUGEPAGE, NULL, false},
    {"MADV_NOHUGEPAGE", "nh", MADV_NOHUGEPAGE, MADV_HUGEPAGE, NULL, false},
    {"MADV_SEQUENTIAL", "sr", MADV_SEQUENTIAL, MADV_NORMAL, NULL, false},
    {"MADV_RANDOM", "rr", MADV_RANDOM, MADV_NORMAL, NULL, false},
};

#define COUNT (sizeof(list) / sizeof(list[0]))

static char before[MAPS_SIZE];

/* A child sees neither DONTFORK memory nor the content of WIPEONFORK memory. */
static void check_fork(void)
{
    unsigned char vec[1];
    pid_t pid = (pid_t)MUST(fork());

    if (pid == 0) {
        check_num(-1, mincore(list[0].p, 4096, vec), "mincore() of MADV_DONTFORK memory in a child");
        check_num(0, list[1].p[77], "byte of MADV_WIPEONFORK memory in a child");
        _exit(check_status());
    }
    check_child(pid, "child for MADV_DONTFORK and MADV_WIPEONFORK");
}

int main(int argc, char **argv)
{
    unsigned i;

    check_init(argc, argv);
    for (i = 0; i < COUNT; i++) {
        struct advice *a = &list[i];

        a->p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        MUST(a->p);
        check_fill(a->p, SIZE, i);
        a->set = madvise(a->p, SIZE, a->advice) == 0;
        if (!a->set && errno != EINVAL)
            check_die("%s: %s", a->name, strerror(errno));
        if (!a->set)
            check_note("%s: the kernel does not have it", a->name);
    }
    maps_snapshot(before, sizeof(before));

    check_wait();

    if (check_broken())
        MUST(madvise(list[2].p, SIZE, list[2].undo));
    maps_compare(before, "memory map");
    for (i = 0; i < COUNT; i++) {
        check_num(list[i].set, maps_has_flag(list[i].p, list[i].flag), "%s", list[i].name);
        check_filled(list[i].p, SIZE, i, list[i].name);
    }
    check_fork();
    return check_end();
}
