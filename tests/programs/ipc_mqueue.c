/*
 * POSIX message queues: full ones with priorities, an empty one with a notification that has a value, one
 * that is unlinked, descriptors of several kinds on one queue, a child that has one too.
 */
#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"

static volatile sig_atomic_t notified, with_value;

static void on_signal(int sig, siginfo_t *info, void *context)
{
    (void)sig;
    (void)context;
    notified++;
    with_value = info->si_value.sival_int;
}

static mqd_t make(char *name, size_t size, const char *what, long maxmsg, long msgsize)
{
    struct mq_attr attr = {.mq_maxmsg = maxmsg, .mq_msgsize = msgsize};

    snprintf(name, size, "/dmtcp-test-%s-%d", what, getpid());
    return (mqd_t)MUST(mq_open(name, O_RDWR | O_CREAT | O_EXCL | O_NONBLOCK, 0640, &attr));
}

static void notify(mqd_t q, int value)
{
    struct sigevent ev = {
        .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN + 3, .sigev_value.sival_int = value};

    MUST(mq_notify(q, &ev));
}

static void send(mqd_t q, unsigned priority, const char *text)
{
    MUST(mq_send(q, text, strlen(text), priority));
}

static void expect(mqd_t q, unsigned priority, const char *text)
{
    char buf[200] = "";
    unsigned got = 0;
    ssize_t n = mq_receive(q, buf, sizeof(buf), &got);

    check_num((long long)strlen(text), n, "length of '%s'", text);
    check_str(text, buf, "message");
    check_num(priority, got, "priority of '%s'", text);
}

static void expect_empty(mqd_t q, const char *what)
{
    char buf[200];

    check_num(-1, mq_receive(q, buf, sizeof(buf), NULL), "messages left in %s", what);
    check_num(EAGAIN, errno, "errno of that");
}

static _Noreturn void child(mqd_t q)
{
    check_idle();
    expect(q, 9, "for the child");
    _exit(check_status());
}

int main(int argc, char **argv)
{
    struct sigaction sa = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO};
    char full_name[64], quiet_name[64], gone_name[64], child_name[64];
    mqd_t full, reader, quiet, gone, family;
    struct mq_attr attr;
    struct stat st;
    pid_t pid;
    int i;

    check_init(argc, argv);
    MUST(sigaction(SIGRTMIN + 3, &sa, NULL));
    full = make(full_name, sizeof(full_name), "full", 6, 60);
    reader = (mqd_t)MUST(mq_open(full_name, O_RDONLY | O_NONBLOCK));
    quiet = make(quiet_name, sizeof(quiet_name), "quiet", 3, 50);
    gone = make(gone_name, sizeof(gone_name), "gone", 4, 40);
    family = make(child_name, sizeof(child_name), "family", 2, 30);
    send(full, 1, "one, first");
    send(full, 5, "five");
    send(full, 0, "nothing");
    send(full, 1, "one, second");
    send(full, 32767, "top");
    notify(full, 4711); /* comes only when it was emptied */
    send(full, 1, "");
    notify(quiet, 1234567);
    send(gone, 2, "nobody finds me");
    MUST(mq_unlink(gone_name));
    send(family, 9, "for the child");
    pid = (pid_t)MUST(fork());
    if (pid == 0)
        child(family);

    check_wait();

    check_child(pid, "child with a queue");
    check_num(0, notified, "notifications before there is anything to notify");
    MUST(mq_getattr(full, &attr));
    check_num(check_broken() ? 5 : 6, attr.mq_curmsgs, "messages");
    check_num(6, attr.mq_maxmsg, "mq_maxmsg");
    check_num(60, attr.mq_msgsize, "mq_msgsize");
    MUST(fstat(full, &st));
    check_num(0640, st.st_mode & 07777, "mode");
    expect(reader, 32767, "top");
    expect(reader, 5, "five");
    expect(full, 1, "one, first");
    expect(full, 1, "one, second");
    expect(full, 1, "");
    expect(full, 0, "nothing");
    expect_empty(full, "the full queue");
    expect_empty(quiet, "the quiet queue");
    send(quiet, 1, "wake up");
    for (i = 0; i < 1000 && !notified; i++)
        check_sleep(0.002);
    check_num(1, notified, "notification");
    check_num(1234567, with_value, "value of the notification");
    send(full, 1, "wake up");
    for (i = 0; i < 1000 && notified < 2; i++)
        check_sleep(0.002);
    check_num(2, notified, "notifications");
    check_num(4711, with_value, "value of the other notification");
    expect(gone, 2, "nobody finds me");
    check_num(-1, mq_open(gone_name, O_RDONLY), "opening the unlinked queue");
    check_num(O_NONBLOCK, fcntl(gone, F_GETFL) & O_NONBLOCK, "O_NONBLOCK");
    check_num(-1, mq_send(reader, "x", 1, 0), "sending to a descriptor for reading");
    MUST(mq_unlink(full_name));
    MUST(mq_unlink(quiet_name));
    MUST(mq_unlink(child_name));
    return check_end();
}
