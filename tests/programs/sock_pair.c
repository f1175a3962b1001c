/*
 * A pair of unix sockets between parent and child, with data under way in both directions.
 */
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"

int main(int argc, char **argv)
{
    char buf[64] = "";
    int fds[2];
    pid_t pid;

    check_init(argc, argv);
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, fds));
    MUST(write(fds[0], "to the child", 12));
    MUST(write(fds[1], "to the parent", 13));
    pid = (pid_t)MUST(fork());
    if (pid == 0) {
        close(fds[0]);
        check_idle();
        check_num(12, read(fds[1], buf, sizeof(buf)), "bytes read by the child");
        check_str("to the child", buf, "read by the child");
        check_num(3, write(fds[1], "end", 3), "write of the child");
        return check_status();
    }
    close(fds[1]);

    check_wait();

    if (check_broken())
        check_num(2, read(fds[0], buf, 2), "bytes read");
    check_child(pid, "child");
    check_num(16, read(fds[0], buf, sizeof(buf)), "bytes read by the parent");
    check_str("to the parentend", buf, "read by the parent");
    return check_end();
}
