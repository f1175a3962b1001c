/*
 * A storm of descriptors: files are opened, written, read back, duplicated, renamed, unlinked and closed,
 * pipes and FIFOs filled and emptied, by two processes that share some of the descriptions. What is in each
 * file and at which offset each description stands is known all the time.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"

#define SLOTS 16

struct slot {
    int fd, duplicate; /* -1: free */
    uint64_t seed;
    off_t size, at;
    bool unlinked;
    char name[600];
};

struct storm {
    struct slot slots[SLOTS];
    uint64_t random;
    unsigned long rounds, names;
    int me;
};

static uint64_t next(struct storm *s)
{
    s->random ^= s->random << 13;
    s->random ^= s->random >> 7;
    s->random ^= s->random << 17;
    return s->random;
}

static void new_name(struct storm *s, char *name, size_t size)
{
    char base[64];

    snprintf(base, sizeof(base), "f%d-%lu", s->me, s->names++);
    snprintf(name, size, "%s", check_path(base));
}

static void open_one(struct storm *s, struct slot *slot)
{
    static _Thread_local unsigned char data[20000];

    new_name(s, slot->name, sizeof(slot->name));
    slot->seed = next(s);
    slot->size = (off_t)(next(s) % sizeof(data)) + 1;
    slot->fd = (int)MUST(open(slot->name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    slot->duplicate = -1;
    slot->unlinked = false;
    check_fill(data, (size_t)slot->size, slot->seed);
    check_num(slot->size, write(slot->fd, data, (size_t)slot->size), "bytes written");
    slot->at = slot->size;
}

static void verify(const struct slot *slot)
{
    static _Thread_local unsigned char data[20000];
    struct stat st;

    MUST(fstat(slot->fd, &st));
    check_num(slot->size, st.st_size, "size of a file");
    check_num(slot->unlinked ? 0 : 1, (long long)st.st_nlink, "links of a file");
    check_num(slot->at, lseek(slot->fd, 0, SEEK_CUR), "offset");
    if (slot->duplicate >= 0)
        check_num(slot->at, lseek(slot->duplicate, 0, SEEK_CUR), "offset of a duplicate");
    check_num(slot->size, pread(slot->fd, data, sizeof(data), 0), "bytes read");
    check_filled(data, (size_t)slot->size, slot->seed, "content of a file");
}

static void close_one(struct slot *slot)
{
    verify(slot);
    close(slot->fd);
    if (slot->duplicate >= 0)
        close(slot->duplicate);
    if (!slot->unlinked)
        MUST(unlink(slot->name));
    slot->fd = -1;
}

static void change(struct storm *s, struct slot *slot)
{
    char name[600];

    switch (next(s) % 5) {
    case 0:
        slot->at = (off_t)(next(s) % 30000);
        check_num(slot->at, lseek(slot->duplicate >= 0 ? slot->duplicate : slot->fd, slot->at, SEEK_SET), "lseek");
        break;
    case 1:
        if (slot->duplicate < 0)
            slot->duplicate = (int)MUST(fcntl(slot->fd, F_DUPFD_CLOEXEC, 100));
        break;
    case 2:
        if (!slot->unlinked) {
            new_name(s, name, sizeof(name));
            MUST(rename(slot->name, name));
            memcpy(slot->name, name, sizeof(name));
        }
        break;
    case 3:
        if (!slot->unlinked)
            MUST(unlink(slot->name));
        slot->unlinked = true;
        break;
    default:
        verify(slot);
        break;
    }
}

static void use_pipe(struct storm *s)
{
    unsigned char out[3000], in[3000];
    size_t n = 1 + next(s) % sizeof(out);
    int fds[2], ev;

    MUST(pipe2(fds, O_CLOEXEC));
    check_fill(out, n, s->random);
    check_num((long long)n, write(fds[1], out, n), "bytes written to a pipe");
    ev = (int)MUST(eventfd(5, EFD_CLOEXEC));
    check_num((long long)n, read(fds[0], in, sizeof(in)), "bytes read from a pipe");
    check_mem(out, in, n, "pipe");
    close(ev);
    close(fds[0]);
    close(fds[1]);
}

/* Parent and child write lines of one length through one description: none may be lost or doubled. */
static void append(int shared, int me, unsigned long n)
{
    char line[17];

    snprintf(line, sizeof(line), "%d %013lu\n", me, n % 10000000000000ul);
    check_num(16, write(shared, line, 16), "bytes written to the shared file");
}

static void storm(struct storm *s, int shared)
{
    for (; (!check_go() || s->rounds <= 20) && !check_status(); s->rounds++) { /* verify_shared() wants so many */
        struct slot *slot = &s->slots[next(s) % SLOTS];

        if (slot->fd < 0)
            open_one(s, slot);
        else if (next(s) % 4 == 0)
            close_one(slot);
        else
            change(s, slot);
        if (next(s) % 4 == 0)
            use_pipe(s);
        append(shared, s->me, s->rounds);
    }
    for (int i = 0; i < SLOTS; i++)
        if (s->slots[i].fd >= 0)
            close_one(&s->slots[i]);
    check_true(s->rounds > 0, "not one round");
}

static void verify_shared(int shared)
{
    unsigned long next_of[2] = {0, 0}, n;
    char line[17] = "";
    off_t at;
    int me;

    for (at = 0; pread(shared, line, 16, at) == 16; at += 16) {
        if (!check_true(sscanf(line, "%d %lu", &me, &n) == 2 && (me == 0 || me == 1), "line '%s' at %lld", line,
                        (long long)at) ||
            !check_num((long long)next_of[me], (long long)n, "line of process %d at %lld", me, (long long)at))
            return;
        next_of[me]++;
    }
    check_true(next_of[0] > 20 && next_of[1] > 20, "only %lu and %lu lines", next_of[0], next_of[1]);
}

int main(int argc, char **argv)
{
    static struct storm storms[2];
    int shared, i, k;
    pid_t pid;

    check_init(argc, argv);
    shared = (int)MUST(open(check_path("shared"), O_RDWR | O_CREAT | O_TRUNC, 0644));
    for (i = 0; i < 2; i++) {
        storms[i].random = 88172645463325252u + (uint64_t)i;
        storms[i].me = i;
        for (k = 0; k < SLOTS; k++)
            storms[i].slots[k].fd = -1;
    }
    pid = (pid_t)MUST(fork());
    if (pid == 0) {
        storm(&storms[1], shared);
        _exit(check_status());
    }
    check_ready();
    storm(&storms[0], shared);
    check_child(pid, "child");
    if (check_broken())
        append(shared, 0, 0);
    verify_shared(shared);
    return check_end();
}
