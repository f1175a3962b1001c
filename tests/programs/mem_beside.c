/*
 * Memory right beside the place that the kernel gives to whoever maps next, with the flags that a checkpointer is
 * likely to use for its own: the kernel then makes one map of both, and what belongs to the program must be told
 * from what does not. jemalloc maps like this. The last mapping is the one that has a neighbour.
 */
#include <sys/mman.h>

#include "tests/programs/check.h"
#include "tests/programs/maps.h"

#define SIZE  (1ul << 20)
#define SORTS 4

static char before[MAPS_SIZE];

int main(int argc, char **argv)
{
    static const struct {
        int prot, flags;
    } sort[SORTS] = {
        {PROT_READ | PROT_WRITE, 0},
        {PROT_READ | PROT_EXEC, MAP_NORESERVE},
        {PROT_NONE, MAP_NORESERVE},
        {PROT_READ | PROT_WRITE, MAP_NORESERVE},
    };
    unsigned char *at[SORTS];

    check_init(argc, argv);
    for (int i = 0; i < SORTS; i++) {
        at[i] = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | sort[i].flags, -1, 0);
        MUST(at[i]);
        check_fill(at[i], SIZE, (uint64_t)i);
        MUST(mprotect(at[i], SIZE, sort[i].prot));
    }
    maps_snapshot(before, sizeof(before));

    check_wait();

    if (check_broken())
        at[SORTS - 1][SIZE - 1] ^= 1;
    maps_compare(before, "memory map");
    for (int i = 0; i < SORTS; i++) {
        MUST(mprotect(at[i], SIZE, PROT_READ | PROT_WRITE));
        check_filled(at[i], SIZE, (uint64_t)i, "mapping beside others");
    }
    return check_end();
}
