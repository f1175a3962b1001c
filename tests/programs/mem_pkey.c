/*
 * Memory protection keys: keys that are allocated, mappings that have one, and the rights register.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"
#include "tests/programs/maps.h"

int main(int argc, char **argv)
{
    unsigned char *p = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int keys[3], fds[2], next;

    check_init(argc, argv);
    MUST(p);
    MUST(pipe(fds));
    keys[0] = pkey_alloc(0, 0);
    if (keys[0] < 0)
        check_skip("the CPU has no protection keys (pku): pkey_alloc: %s", strerror(errno));
    keys[1] = (int)MUST(pkey_alloc(0, PKEY_DISABLE_WRITE));
    keys[2] = (int)MUST(pkey_alloc(0, PKEY_DISABLE_ACCESS));
    MUST(pkey_free(keys[0]));
    p[0] = 42;
    p[4096] = 43;
    MUST(pkey_mprotect(p, 4096, PROT_READ | PROT_WRITE, keys[1]));
    MUST(pkey_mprotect(p + 4096, 4096, PROT_READ | PROT_WRITE, keys[2]));

    check_wait();

    if (check_broken())
        MUST(pkey_set(keys[1], 0));
    check_num(PKEY_DISABLE_WRITE, pkey_get(keys[1]), "rights of a key");
    check_num(PKEY_DISABLE_ACCESS, pkey_get(keys[2]), "rights of another key");
    check_num(keys[1], maps_kib(p, "ProtectionKey"), "key of a mapping");
    check_num(keys[2], maps_kib(p + 4096, "ProtectionKey"), "key of another mapping");
    check_num(42, p[0], "byte under a key that allows reading");
    check_num(-1, write(fds[1], p + 4096, 1), "write from memory under a key without access");
    MUST(pkey_set(keys[2], 0));
    check_num(43, p[4096], "byte under the other key");
    next = (int)MUST(pkey_alloc(0, 0));
    check_num(keys[0], next, "key that is allocated next");
    return check_end();
}
