/*
 * Unix sockets that listen, with connections that nobody has accepted yet, in order; names that are relative,
 * removed, replaced by another socket's; who made the other end, between processes, also dead ones.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"
#include "tests/programs/sock.h"

#define WAITING 5

static int queue, waiting[WAITING], relative, removed, removed_client, removed_server, replaced, replacing;

static void make_queue(void)
{
    unlink(check_path("queue"));
    queue = sock_listener(SOCK_STREAM, check_path("queue"), WAITING - 1); /* one more fits */
    for (int i = 0; i < WAITING; i++)
        waiting[i] = sock_connected(SOCK_STREAM, check_path("queue"));
    MUST(shutdown(waiting[2], SHUT_WR));
}

static void check_queue(void)
{
    struct sockaddr_un a;
    socklen_t n = sock_unix(&a, check_path("queue"));
    int fd = (int)MUST(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0));

    check_num(EAGAIN, connect(fd, (void *)&a, n) < 0 ? errno : 0, "errno when the backlog is full");
    for (int i = 0; i < WAITING; i++)
        if (i != 2)
            MUST(send(waiting[i], &i, sizeof(i), 0));
    for (int i = 0; i < WAITING; i++) {
        int v = -1;
        fd = (int)MUST(accept(queue, NULL, NULL));
        if (i == 2) {
            sock_expect_end(fd, "a connection that was half-closed before it was accepted");
            continue;
        }
        check_num(sizeof(v), recv(fd, &v, sizeof(v), MSG_DONTWAIT), "bytes of connection %d", i);
        check_num(i, v, "connection %d", i);
        check_str(check_path("queue"), sock_name(fd, false), "name of an accepted socket");
        sock_expect_peer(fd, getpid(), "accepted socket");
        sock_expect_peer(waiting[i], getpid(), "client");
        check_str(check_path("queue"), sock_name(waiting[i], true), "name of the peer");
    }
}

static void make_names(void)
{
    MUST(chdir(check_dir()));
    mkdir("sub", 0755);
    unlink("sub/relative");
    relative = sock_listener(SOCK_STREAM, "sub/relative", 3);
    unlink("removed");
    removed = sock_listener(SOCK_STREAM, check_path("removed"), 3);
    removed_client = sock_connected(SOCK_STREAM, check_path("removed"));
    removed_server = (int)MUST(accept(removed, NULL, NULL));
    MUST(unlink(check_path("removed")));
    unlink("replaced");
    replaced = sock_listener(SOCK_STREAM, check_path("replaced"), 3);
    MUST(unlink(check_path("replaced")));
    replacing = sock_listener(SOCK_STREAM, check_path("replaced"), 3);
}

static void check_names(void)
{
    struct sockaddr_un a;
    socklen_t n = sock_unix(&a, check_path("removed"));
    struct stat st;
    int fd;

    check_str("sub/relative", sock_name(relative, false), "a relative name");
    fd = sock_connected(SOCK_STREAM, "sub/relative");
    check_true(accept(relative, NULL, NULL) >= 0, "a connection by a relative name");
    close(fd);
    check_str(check_path("removed"), sock_name(removed, false), "a name that was removed");
    check_num(-1, stat(check_path("removed"), &st), "the file that was removed");
    fd = (int)MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    check_num(ENOENT, connect(fd, (void *)&a, n) < 0 ? errno : 0, "connecting to what was removed");
    check_str(check_path("removed"), sock_name(removed_client, true), "a peer whose name was removed");
    MUST(send(removed_client, "still", 5, 0));
    sock_expect(removed_server, "still", "a connection whose name was removed");
    check_str(check_path("replaced"), sock_name(replaced, false), "a name that was taken over");
    check_str(check_path("replaced"), sock_name(replacing, false), "the name that took over");
    fd = sock_connected(SOCK_STREAM, check_path("replaced"));
    check_num(EAGAIN, accept4(replaced, NULL, NULL, 0) < 0 ? errno : 0, "who is replaced gets no connections");
    check_true(accept(replacing, NULL, NULL) >= 0, "who replaced it does");
}

/* A child connects to the parent's socket; another listens, hands the parent the accepted end, and dies. */
static int from_child, to_dead;
static pid_t child, dead;

static void make_processes(void)
{
    int l = sock_listener(SOCK_STREAM, "@sock_listen parent", 3), done[2];
    char c;

    child = (pid_t)MUST(fork());
    if (child == 0) {
        int fd = sock_connected(SOCK_STREAM, "@sock_listen parent");
        MUST(send(fd, "ready", 5, 0));
        sock_expect_peer(fd, getppid(), "child");
        check_idle();
        sock_expect_peer(fd, getppid(), "child");
        sock_expect(fd, "bye", "child");
        _exit(check_status());
    }
    from_child = (int)MUST(accept(l, NULL, NULL));
    close(l);
    MUST(recv(from_child, &c, 1, 0));
    l = sock_bound(SOCK_STREAM, "@sock_listen dead");
    MUST(pipe(done));
    dead = (pid_t)MUST(fork());
    if (dead == 0) {
        MUST(listen(l, 3));
        _exit(0);
    }
    check_child(dead, "the one that dies");
    to_dead = sock_connected(SOCK_STREAM, "@sock_listen dead");
    MUST(accept(l, NULL, NULL));
    close(done[0]);
    close(done[1]);
}

int main(int argc, char **argv)
{
    check_init(argc, argv);
    make_queue();
    make_names();
    make_processes();
    MUST(fcntl(replaced, F_SETFL, O_NONBLOCK));

    check_wait();

    if (check_broken())
        MUST(send(waiting[0], "spoiled", 7, 0));
    check_queue();
    check_names();
    sock_expect(from_child, "eady", "from the child");
    sock_expect_peer(from_child, child, "made by the child");
    MUST(send(from_child, "bye", 3, 0));
    check_child(child, "child");
    sock_expect_peer(to_dead, dead, "made by one that is dead");
    return check_end();
}
