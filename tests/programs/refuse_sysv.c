/*
 * System V shared memory, semaphores and messages. Until they can be checkpointed the checkpoint of a process
 * with such memory attached is refused by name, and the program goes on unharmed.
 */
#include <stdio.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/shm.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"

int main(int argc, char **argv)
{
    unsigned char *p;
    int id;

    check_init(argc, argv);
    id = (int)MUST(shmget(IPC_PRIVATE, 65536, IPC_CREAT | 0600));
    p = shmat(id, NULL, 0);
    MUST(p);
    MUST(shmctl(id, IPC_RMID, NULL)); /* goes when the last one detaches */
    check_fill(p, 65536, 1);

    check_wait();

    if (check_broken())
        p[5] ^= 1;
    check_filled(p, 65536, 1, "shared memory");
    MUST(shmdt(p));
    return check_end();
}
