/*
 * An MPI program of which every number is known: rings of messages of many sizes, reductions, scattered and gathered
 * arrays, requests under way while others are waited for, and one-sided windows. Rank 0 looks whether to stop.
 */
#include <fcntl.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define AFTERWARDS 20
#define LARGE      300000

static int rank, size;
static unsigned *out, *in;

static void wrong(const char *what, long round, long got, long expected)
{
    printf("wrong: %s in round %ld at rank %d: %ld and not %ld\n", what, round, rank, got, expected);
    fflush(stdout);
    MPI_Abort(MPI_COMM_WORLD, 1);
}

static void equal(long got, long expected, const char *what, long round)
{
    if (got != expected)
        wrong(what, round, got, expected);
}

/* To the next and from the one before, several at a time. */
static void ring(long round)
{
    int next = (rank + 1) % size, before = (rank + size - 1) % size;
    int length[3] = {1, 1000, 1 + (int)(round * 7919 % LARGE)};
    MPI_Request requests[6];
    MPI_Status statuses[6];
    unsigned *o = out, *i = in;

    for (int k = 0; k < 3; k++, o += LARGE, i += LARGE) {
        for (int n = 0; n < length[k]; n++)
            o[n] = (unsigned)(rank * 1000003 + round * 17 + n * 31 + k);
        MPI_Irecv(i, length[k], MPI_UNSIGNED, before, k, MPI_COMM_WORLD, &requests[k]);
        MPI_Isend(o, length[k], MPI_UNSIGNED, next, k, MPI_COMM_WORLD, &requests[3 + k]);
    }
    MPI_Waitall(6, requests, statuses);
    for (int k = 0; k < 3; k++)
        for (int n = 0; n < length[k]; n++)
            equal(in[k * LARGE + n], (unsigned)(before * 1000003 + round * 17 + n * 31 + k), "message", round);
}

static void collective(long round)
{
    long mine = rank + round, sum, all[64], expected = size * round + size * (size - 1) / 2;

    MPI_Allreduce(&mine, &sum, 1, MPI_LONG, MPI_SUM, MPI_COMM_WORLD);
    equal(sum, expected, "sum", round);
    MPI_Allgather(&mine, 1, MPI_LONG, all, 1, MPI_LONG, MPI_COMM_WORLD);
    for (int i = 0; i < size; i++)
        equal(all[i], i + round, "gathered", round);
    MPI_Barrier(MPI_COMM_WORLD);
}

static void one_sided(MPI_Win window, long *memory, long round)
{
    long mine = rank * 1000 + round;

    MPI_Win_fence(0, window);
    MPI_Put(&mine, 1, MPI_LONG, (rank + 1) % size, 0, 1, MPI_LONG, window);
    MPI_Win_fence(0, window);
    equal(memory[0], (rank + size - 1) % size * 1000 + round, "window", round);
}

int main(int argc, char **argv)
{
    int left = AFTERWARDS;
    MPI_Win window;
    long *memory;

    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    out = calloc(3 * LARGE, sizeof(*out));
    in = calloc(3 * LARGE, sizeof(*in));
    MPI_Win_allocate(sizeof(long), sizeof(long), MPI_INFO_NULL, MPI_COMM_WORLD, &memory, &window);
    for (long round = 0; left; round++) {
        int stop = rank == 0 && access("stop", F_OK) == 0;
        MPI_Bcast(&stop, 1, MPI_INT, 0, MPI_COMM_WORLD);
        left -= stop;
        ring(round);
        collective(round);
        if (argc < 2) /* MPICH 4.0 loses what is put into a window, also uninterrupted */
            one_sided(window, memory, round);
        if (round == 3 && rank == 0)
            close(open("ready", O_CREAT | O_WRONLY, 0644));
    }
    if (rank == 0)
        puts("all as it should be");
    fflush(stdout);
    MPI_Win_free(&window);
    MPI_Finalize();
    return 0;
}
