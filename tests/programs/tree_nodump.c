/*
 * A process that is not dumpable: only root can look into it, and what it has does not become dumpable by
 * being restarted.
 */
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"

int main(int argc, char **argv)
{
    char secret[64];

    check_init(argc, argv);
    check_fill(secret, sizeof(secret), 1);
    MUST(prctl(PR_SET_DUMPABLE, 0));

    check_wait();

    if (check_broken())
        MUST(prctl(PR_SET_DUMPABLE, 1));
    check_num(0, prctl(PR_GET_DUMPABLE), "dumpable");
    check_filled(secret, sizeof(secret), 1, "memory");
    return check_end();
}
