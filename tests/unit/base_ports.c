/*
 * What remains of a connection keeps its port, and is removed without any right: from either end, for all kinds of
 * addresses, and never by connecting to somebody who listens there now.
 */
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/ports.h"
#include "base/util.h"

#define NOBODY 65534

union address {
    struct sockaddr sa;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

enum kind { V4, V6, MAPPED };

static socklen_t loopback(enum kind kind, uint16_t port, union address *a)
{
    memset(a, 0, sizeof(*a));
    if (kind == V4) {
        a->v4 = (struct sockaddr_in){AF_INET, htons(port), {htonl(INADDR_LOOPBACK)}, {0}};
        return sizeof(a->v4);
    }
    a->v6 = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = htons(port), .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    if (kind == MAPPED)
        memcpy(&a->v6.sin6_addr, (uint8_t[16]){[10] = 0xff, [11] = 0xff, 127, 0, 0, 1}, 16);
    return sizeof(a->v6);
}

static int new_socket(enum kind kind)
{
    return socket(kind == V4 ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
}

static uint16_t port_of(int fd)
{
    union address a;
    socklen_t n = sizeof(a);

    if (getsockname(fd, &a.sa, &n) < 0)
        return 0;
    return ntohs(a.sa.sa_family == AF_INET ? a.v4.sin_port : a.v6.sin6_port);
}

static bool can_bind(enum kind kind, uint16_t port)
{
    _cleanup_close_ int fd = new_socket(kind);
    union address a;
    socklen_t n = loopback(kind, port, &a);
    int one = 1;

    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    return bind(fd, &a.sa, n) == 0;
}

/* Leaves the end that is closed first in TIME_WAIT; returns its port, 0 for an error. */
static uint16_t leave_remains(enum kind kind, bool of_server)
{
    _cleanup_close_ int listener = new_socket(kind), client = new_socket(kind);
    union address a;
    socklen_t n = loopback(kind, 0, &a);
    int server;
    uint16_t port;

    if (bind(listener, &a.sa, n) < 0 || listen(listener, 1) < 0)
        return 0;
    n = loopback(kind, port_of(listener), &a);
    if (connect(client, &a.sa, n) < 0 || (server = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) < 0)
        return 0;
    port = port_of(of_server ? server : client);
    close(of_server ? server : take_fd(&client));
    if (of_server)
        close(take_fd(&client));
    else
        close(server);
    return port;
}

/* Exit status of a process without rights: number of the step that went wrong. */
static int remove_it(enum kind kind, bool of_server)
{
    struct err err;
    uint16_t port;

    if (setresgid(NOBODY, NOBODY, NOBODY) < 0 || setresuid(NOBODY, NOBODY, NOBODY) < 0)
        return geteuid() == 0;
    port = leave_remains(kind, of_server);
    if (port == 0)
        return 2;
    if (can_bind(kind, port))
        return 3;
    if (port_clear(port, &err) != 1)
        return 4;
    if (!can_bind(kind, port))
        return 5;
    return port_clear(port, &err) == 0 ? 0 : 6;
}

static int connect_to(enum kind kind, int listener, int *server)
{
    int fd = new_socket(kind);
    union address a;
    socklen_t n = loopback(kind, port_of(listener), &a);

    if (connect(fd, &a.sa, n) < 0 || (*server = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) < 0)
        return -1;
    return fd;
}

/* The port of one's other end is itself kept by what remains of the second. */
static int remove_tangle(void)
{
    struct ports ports = {0};
    struct err err;
    uint16_t clients, servers;

    if (setresgid(NOBODY, NOBODY, NOBODY) < 0 || setresuid(NOBODY, NOBODY, NOBODY) < 0)
        return geteuid() == 0;
    for (int i = 0; i < 8; i++) { /* the kernel tells them in the order of a hash */
        _cleanup_close_ int listener = new_socket(V4);
        union address a;
        socklen_t n = loopback(V4, 0, &a);
        int client, server;
        if (bind(listener, &a.sa, n) < 0 || listen(listener, 2) < 0 || (client = connect_to(V4, listener, &server)) < 0)
            return 2;
        clients = port_of(client);
        servers = port_of(server);
        close(client);
        close(server);
        if ((client = connect_to(V4, listener, &server)) < 0)
            return 3;
        close(server);
        close(client);
        close(take_fd(&listener));
        if (can_bind(V4, clients) || can_bind(V4, servers))
            return 4;
        ports_add(&ports, clients);
        ports_add(&ports, servers);
        if (ports_clear(&ports, NULL, &err) != 2)
            return 5;
        if (!can_bind(V4, clients) || !can_bind(V4, servers))
            return 6;
    }
    return 0;
}

/* One that listens now, with an address of its own, is not bothered. */
static int spare_listener(void)
{
    _cleanup_close_ int fd = -1;
    union address a;
    socklen_t n;
    struct err err;
    uint16_t port;

    if (setresgid(NOBODY, NOBODY, NOBODY) < 0 || setresuid(NOBODY, NOBODY, NOBODY) < 0)
        return geteuid() == 0;
    port = leave_remains(V4, true);
    n = loopback(V4, port, &a);
    a.v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1);
    fd = new_socket(V4);
    if (port == 0 || bind(fd, &a.sa, n) < 0 || listen(fd, 4) < 0)
        return 2;
    if (port_clear(port, &err) != 1)
        return 3;
    return poll(&(struct pollfd){fd, POLLIN, 0}, 1, 0) == 0 ? 0 : 4;
}

static int status_of(pid_t pid)
{
    int status = -1;

    assert_true(pid > 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void test_removed(void **state)
{
    static const struct { enum kind kind; bool of_server; } cases[] = {{V4, true}, {V4, false}, {V6, true}, {V6, false},
                                                                       {MAPPED, true}, {MAPPED, false}};

    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        pid_t pid = fork();
        if (pid == 0)
            _exit(remove_it(cases[i].kind, cases[i].of_server));
        if (status_of(pid) != 0)
            fail_msg("case %zu", i);
    }
}

static void test_tangle(void **state)
{
    pid_t pid = fork();

    if (pid == 0)
        _exit(remove_tangle());
    assert_int_equal(status_of(pid), 0);
}

static void test_spared(void **state)
{
    pid_t pid = fork();

    if (pid == 0)
        _exit(spare_listener());
    assert_int_equal(status_of(pid), 0);
}

static void test_in_use(void **state)
{
    _cleanup_close_ int fd = new_socket(V4);
    union address a;
    socklen_t n = loopback(V4, 0, &a);
    struct err err;
    bool used = false;
    uint16_t port;

    assert_int_equal(bind(fd, &a.sa, n), 0);
    assert_int_equal(listen(fd, 1), 0);
    port = port_of(fd);
    assert_int_equal(port_in_use(port, &used, &err), 0);
    assert_true(used);
    close(take_fd(&fd));
    assert_int_equal(port_in_use(port, &used, &err), 0);
    assert_false(used);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_removed),
        cmocka_unit_test(test_tangle),
        cmocka_unit_test(test_spared),
        cmocka_unit_test(test_in_use),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
