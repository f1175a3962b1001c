/*
 * memfds: content, offset, name, seals, mappings of them (one writable that was made before a
 * future-write seal), and one that a child shares. Also O_TMPFILE-like life: no name anywhere.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

#define SIZE (1024 * 1024)

static unsigned char data[SIZE];

static int make(const char *name, unsigned flags, uint64_t seed)
{
    int fd = (int)MUST(memfd_create(name, flags));

    check_fill(data, SIZE, seed);
    if (write(fd, data, SIZE) != SIZE)
        check_die("memfd %s: %s", name, strerror(errno));
    return fd;
}

static void check_content(int fd, uint64_t seed, const char *what)
{
    memset(data, 0, SIZE);
    check_num(SIZE, pread(fd, data, SIZE, 0), "%s: bytes read", what);
    check_filled(data, SIZE, seed, what);
}

static void check_name(int fd, const char *name)
{
    char link[64], target[200] = "", expected[200];

    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    MUST(readlink(link, target, sizeof(target) - 1));
    snprintf(expected, sizeof(expected), "/memfd:%s (deleted)", name);
    check_str(expected, target, "name of a memfd");
}

static int child(int shared)
{
    check_wait_go();
    check_content(shared, 3, "memfd in the child");
    check_num(5000, lseek(shared, 0, SEEK_CUR), "offset of the shared memfd in the child");
    return check_status();
}

int main(int argc, char **argv)
{
    int sealed, plain, shared, future;
    unsigned char *map, *futuremap;
    const int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL;
    struct stat st;
    pid_t pid;

    check_init(argc, argv);
    sealed = make("sealed one", MFD_ALLOW_SEALING | MFD_CLOEXEC, 1);
    MUST(fcntl(sealed, F_ADD_SEALS, seals));
    plain = make("plain", 0, 2);
    map = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, plain, 0);
    MUST(map);
    shared = make("shared", MFD_ALLOW_SEALING, 3);
    MUST(lseek(shared, 5000, SEEK_SET));
    future = make("future", MFD_ALLOW_SEALING, 4);
    futuremap = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, future, 0);
    MUST(futuremap);
    MUST(fcntl(future, F_ADD_SEALS, F_SEAL_FUTURE_WRITE));
    MUST(ftruncate(plain, 3 * SIZE)); /* a hole at the end */
    pid = (pid_t)MUST(fork());
    if (pid == 0)
        return child(shared);

    check_wait();

    if (check_broken())
        MUST(fcntl(shared, F_ADD_SEALS, F_SEAL_GROW));
    check_num(seals, fcntl(sealed, F_GET_SEALS), "seals");
    check_num(-1, write(sealed, "x", 1), "write to a sealed memfd");
    check_num(F_SEAL_SEAL, fcntl(plain, F_GET_SEALS), "seals of one made without MFD_ALLOW_SEALING");
    check_num(0, fcntl(shared, F_GET_SEALS), "seals of one that has none");
    check_num(F_SEAL_FUTURE_WRITE, fcntl(future, F_GET_SEALS), "future-write seal");
    check_num(FD_CLOEXEC, fcntl(sealed, F_GETFD), "close-on-exec");
    check_name(sealed, "sealed one");
    check_name(plain, "plain");
    check_content(sealed, 1, "sealed memfd");
    check_content(plain, 2, "plain memfd");
    check_content(future, 4, "memfd with a future-write seal");
    map[77] ^= 0xff;
    check_num(1, pread(plain, data, 1, 77), "read of a byte");
    check_num(map[77], data[0], "byte written through the mapping, read through the memfd");
    futuremap[5] ^= 0xff;
    check_num(1, pread(future, data, 1, 5), "read of a byte");
    check_num(futuremap[5], data[0], "byte written through the mapping made before the seal");
    MUST(fstat(plain, &st));
    check_num(3 * SIZE, st.st_size, "size of the memfd with a hole");
    check_range(0, SIZE / 512 + 64, (double)st.st_blocks, "blocks of the memfd with a hole");
    check_child(pid, "child");
    return check_end();
}
