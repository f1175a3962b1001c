/*
 * The helper that has copies of TCP sockets whose state the tracer changes: it puts them back when the tracer dies, and
 * holds them, silent and deaf, when the program was killed.
 */
#include <dirent.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "tracer/keeper.h"

struct pair {
    int client, server;
};

static struct pair connection(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
    socklen_t n = sizeof(a);
    struct pair p;

    setsockopt(l, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    assert_int_equal(bind(l, (void *)&a, n), 0);
    assert_int_equal(listen(l, 1), 0);
    assert_int_equal(getsockname(l, (void *)&a, &n), 0);
    p.client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(p.client, (void *)&a, n), 0);
    p.server = accept(l, NULL, NULL);
    assert_true(p.server >= 0);
    close(l);
    return p;
}

static bool comes(int fd, int ms)
{
    return poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, ms) == 1;
}

static void change(int sock, int fd)
{
    struct keeper_before b = {.reuse = 1};
    struct err err;
    int on = TCP_REPAIR_ON;

    assert_int_equal(keeper_watch(sock, fd, 1, &b, &err), 0);
    assert_int_equal(tcp_deafen(fd, &err), 0);
    assert_int_equal(setsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &on, sizeof(on)), 0);
}

/* Is this machine one where repair mode can be had? */
static void need_repair(int fd)
{
    int nonsense = 77;

    if (setsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &nonsense, sizeof(nonsense)) < 0 && errno == EPERM)
        skip();
}

/* A tracer that does something to the server's end and dies. */
static void tracer(const struct pair *p, bool hold)
{
    int sock, status;
    struct err err;
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid > 0) {
        assert_int_equal(waitpid(pid, &status, 0), pid);
        return;
    }
    if (keeper_start(&sock, &err) < 0)
        _exit(1);
    change(sock, p->server);
    if (hold) {
        keeper_hold(sock);
        _exit(0);
    }
    raise(SIGKILL);
}

static void test_put_back(void **state)
{
    struct pair p = connection();
    int v = 0;
    socklen_t n = sizeof(v);
    char buf[8];

    need_repair(p.server);
    tracer(&p, false);
    assert_int_equal(send(p.client, "hello", 5, 0), 5);
    assert_true(comes(p.server, 5000));
    assert_int_equal(recv(p.server, buf, sizeof(buf), 0), 5);
    assert_int_equal(getsockopt(p.server, IPPROTO_TCP, TCP_REPAIR, &v, &n), 0);
    assert_int_equal(v, 0);
    assert_int_equal(getsockopt(p.server, SOL_SOCKET, SO_REUSEADDR, &v, &n), 0);
    assert_int_equal(v, 1);
    assert_int_equal(send(p.server, "hi", 2, 0), 2);
    assert_true(comes(p.client, 5000));
    close(p.client);
    close(p.server);
}

/* The child of ours that has the keeper's name. */
static pid_t find_keeper(void)
{
    DIR *d = opendir("/proc");
    pid_t pid = -1;

    assert_non_null(d);
    for (const struct dirent *e; pid < 0 && (e = readdir(d));) {
        siginfo_t si = {0};
        char path[64], comm[32] = "";
        FILE *f;
        snprintf(path, sizeof(path), "/proc/%.16s/comm", e->d_name);
        f = atoi(e->d_name) > 0 ? fopen(path, "re") : NULL;
        if (!f)
            continue;
        if (fgets(comm, sizeof(comm), f) && !strcmp(comm, KEEPER_NAME "\n") &&
            waitid(P_PID, (id_t)atoi(e->d_name), &si, WEXITED | WNOHANG | WNOWAIT) == 0)
            pid = atoi(e->d_name);
        fclose(f);
    }
    closedir(d);
    return pid;
}

static void test_hold(void **state)
{
    struct pair p = connection();
    pid_t keeper;

    need_repair(p.server);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    tracer(&p, true);
    close(p.server); /* as the program's end does */
    assert_int_equal(send(p.client, "hello", 5, 0), 5);
    assert_false(comes(p.client, 300)); /* no reset */
    keeper = find_keeper();
    assert_true(keeper > 0);
    kill(keeper, SIGTERM);
    assert_int_equal(waitpid(keeper, NULL, 0), keeper);
    assert_false(comes(p.client, 50)); /* nor does its end send one, nor the end of the stream */
    close(p.client);
}

static void test_nothing_to_hold(void **state)
{
    struct pair p = connection();
    struct err err;
    int sock;

    need_repair(p.server);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    assert_int_equal(keeper_start(&sock, &err), 0);
    change(sock, p.server);
    tcp_put_back(p.server, &(struct keeper_before){.reuse = 1});
    keeper_forget(sock, 1);
    keeper_hold(sock);
    assert_true(wait(NULL) > 0); /* it ends at once */
    assert_int_equal(send(p.client, "hello", 5, 0), 5);
    assert_true(comes(p.server, 5000));
    close(p.client);
    close(p.server);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_put_back),
        cmocka_unit_test(test_hold),
        cmocka_unit_test(test_nothing_to_hold),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
