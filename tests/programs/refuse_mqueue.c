/*
 * A POSIX message queue. Until it can be checkpointed the checkpoint is refused by name, and the program goes
 * on unharmed.
 */
#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"

int main(int argc, char **argv)
{
    struct mq_attr attr = {.mq_maxmsg = 4, .mq_msgsize = 64};
    char name[64], buf[64] = "";
    mqd_t queue;

    check_init(argc, argv);
    snprintf(name, sizeof(name), "/dmtcp-test-%d", getpid());
    queue = mq_open(name, O_RDWR | O_CREAT | O_EXCL, 0600, &attr);
    if (queue == (mqd_t)-1)
        check_skip("mq_open: %s", strerror(errno));
    MUST(mq_unlink(name));
    MUST(mq_send(queue, "message", 8, 3));

    check_wait();

    if (check_broken())
        MUST(mq_receive(queue, buf, sizeof(buf), NULL));
    MUST(mq_getattr(queue, &attr));
    check_num(1, attr.mq_curmsgs, "messages");
    if (attr.mq_curmsgs == 1)
        check_num(8, mq_receive(queue, buf, sizeof(buf), NULL), "length of the message");
    check_str("message", buf, "message");
    return check_end();
}
