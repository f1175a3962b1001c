/*
 * A storm of mappings: two threads and a child map, unmap, protect, move, grow and advise away memory as fast
 * as they can, anonymous, of files and of memfds, and know what must be in each page.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"

#define AREAS 24
#define PAGE  4096ul

enum kind { NOTHING, ANONYMOUS, SHARED, PRIVATE_FILE, MEMFD };

struct area {
    enum kind kind;
    unsigned char *p;
    size_t pages;
    uint64_t seed;
    bool readonly;
};

struct storm {
    struct area areas[AREAS];
    uint64_t random;
    int file;
    unsigned long rounds;
};

static uint64_t next(struct storm *s)
{
    s->random ^= s->random << 13;
    s->random ^= s->random >> 7;
    s->random ^= s->random << 17;
    return s->random;
}

static void verify(const struct area *a)
{
    size_t i;

    for (i = 0; i < a->pages; i++)
        check_filled(a->p + i * PAGE, 64, a->seed + (a->kind == PRIVATE_FILE ? 0 : i), "start of a page");
}

static void fill(struct area *a)
{
    size_t i;

    for (i = 0; i < a->pages; i++)
        check_fill(a->p + i * PAGE, 64, a->seed + i);
}

static void make(struct storm *s, struct area *a)
{
    int fd = -1, flags = MAP_PRIVATE | MAP_ANONYMOUS;

    a->kind = (enum kind)(1 + next(s) % 4);
    a->pages = 1 + next(s) % 32;
    a->seed = next(s);
    a->readonly = false;
    if (a->kind == SHARED)
        flags = MAP_SHARED | MAP_ANONYMOUS;
    if (a->kind == PRIVATE_FILE) {
        flags = MAP_PRIVATE;
        fd = s->file;
        a->seed = 1;
        a->pages = 1 + a->pages % 16;
    }
    if (a->kind == MEMFD) {
        flags = MAP_SHARED;
        fd = (int)MUST(memfd_create("storm", MFD_CLOEXEC));
        MUST(ftruncate(fd, (off_t)(a->pages * PAGE)));
    }
    a->p = mmap(NULL, a->pages * PAGE, PROT_READ | PROT_WRITE, flags, fd, 0);
    MUST(a->p);
    if (a->kind == MEMFD)
        close(fd);
    if (a->kind != PRIVATE_FILE)
        fill(a);
}

static void unmake(struct area *a)
{
    verify(a);
    MUST(munmap(a->p, a->pages * PAGE));
    a->kind = NOTHING;
}

static void change(struct storm *s, struct area *a)
{
    size_t pages;

    switch (next(s) % 4) {
    case 0:
        a->readonly = !a->readonly;
        MUST(mprotect(a->p, a->pages * PAGE, a->readonly ? PROT_READ : PROT_READ | PROT_WRITE));
        break;
    case 1: /* may move */
        pages = a->pages + (a->kind == ANONYMOUS && !a->readonly ? 1 + next(s) % 8 : 0);
        a->p = mremap(a->p, a->pages * PAGE, pages * PAGE, MREMAP_MAYMOVE);
        MUST(a->p);
        if (pages != a->pages) {
            a->pages = pages;
            fill(a);
        }
        break;
    case 2:
        if (a->kind == ANONYMOUS && !a->readonly) {
            MUST(madvise(a->p, a->pages * PAGE, MADV_DONTNEED));
            check_num(0, a->p[0], "byte of memory that was advised away");
            fill(a);
        }
        break;
    default:
        verify(a);
        break;
    }
}

static void *storm(void *arg)
{
    struct storm *s = arg;

    for (; (!check_go() || !s->rounds) && !check_status(); s->rounds++) {
        struct area *a = &s->areas[next(s) % AREAS];

        if (a->kind == NOTHING)
            make(s, a);
        else if (next(s) % 3 == 0)
            unmake(a);
        else
            change(s, a);
    }
    if (check_broken())
        s->areas[0].seed++;
    for (unsigned i = 0; i < AREAS; i++)
        if (s->areas[i].kind != NOTHING)
            unmake(&s->areas[i]);
    check_true(s->rounds > 0, "not one round");
    return NULL;
}

static int make_file(void)
{
    unsigned char page[PAGE];
    int fd = (int)MUST(open(check_path("mapped"), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644)), i;

    memset(page, 0, sizeof(page));
    check_fill(page, 64, 1);
    for (i = 0; i < 16; i++)
        MUST(write(fd, page, sizeof(page)));
    return fd;
}

int main(int argc, char **argv)
{
    static struct storm storms[3];
    pthread_t thread;
    pid_t pid;
    int i;

    check_init(argc, argv);
    for (i = 0; i < 3; i++)
        storms[i] = (struct storm){.random = 88172645463325252u + (uint64_t)i, .file = make_file()};
    pid = (pid_t)MUST(fork());
    if (pid == 0) {
        storm(&storms[2]);
        return check_status();
    }
    pthread_create(&thread, NULL, storm, &storms[1]);
    check_ready();
    storm(&storms[0]);
    pthread_join(thread, NULL);
    check_child(pid, "child");
    return check_end();
}
