/*
 * epoll: what is watched for which events with which data, level- and edge-triggered, one-shot that has
 * fired, an event that has not been fetched yet, one epoll in another, one shared with a child, and a
 * descriptor that was closed while a duplicate keeps it watched.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"

static void add(int ep, int fd, uint32_t events, uint64_t data)
{
    struct epoll_event event = {.events = events, .data.u64 = data};

    MUST(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &event));
}

/* The event with this data must be among those that are ready, or must not. */
static void expect(int ep, uint64_t data, bool ready, const char *what)
{
    struct epoll_event events[16];
    int n = epoll_wait(ep, events, 16, 0), i, found = 0;

    for (i = 0; i < n; i++)
        found += events[i].data.u64 == data;
    check_num(ready, found, "%s: is it ready?", what);
}

static void check_level_and_edge(int level[2], int edge[2], int ep_level, int ep_edge)
{
    char c;

    expect(ep_level, 1, true, "level-triggered, not read");
    expect(ep_level, 1, true, "level-triggered, not read, once more");
    MUST(read(level[0], &c, 1));
    expect(ep_level, 1, false, "level-triggered, read");
    /* its event was fetched before; the byte is still there */
    expect(ep_edge, 2, false, "edge-triggered, fetched before");
    MUST(write(edge[1], "y", 1));
    expect(ep_edge, 2, true, "edge-triggered, written now");
    expect(ep_edge, 2, false, "edge-triggered, fetched now");
}

int main(int argc, char **argv)
{
    int level[2], edge[2], once[2], fresh[2], twice[2], spare, ep_level, ep_edge, ep_once, inner, outer, shared, ev;
    struct epoll_event event;
    pid_t pid;

    check_init(argc, argv);
    MUST(pipe(level));
    MUST(pipe(edge));
    MUST(pipe(once));
    MUST(pipe(fresh));
    MUST(pipe(twice));
    ep_level = (int)MUST(epoll_create1(EPOLL_CLOEXEC));
    ep_edge = (int)MUST(epoll_create1(0));
    ep_once = (int)MUST(epoll_create1(0));
    inner = (int)MUST(epoll_create1(0));
    outer = (int)MUST(epoll_create1(0));
    shared = (int)MUST(epoll_create1(0));
    ev = (int)MUST(eventfd(0, 0));
    add(ep_level, level[0], EPOLLIN, 1);
    add(ep_edge, edge[0], EPOLLIN | EPOLLET, 2);
    add(ep_once, once[0], EPOLLIN | EPOLLONESHOT, 3);
    add(ep_edge, fresh[0], EPOLLIN | EPOLLET, 0xfedcba9876543210);
    add(inner, ev, EPOLLIN, 5);
    add(outer, inner, EPOLLIN, 6);
    add(shared, level[1], EPOLLOUT, 7);
    /* watched by a descriptor that is closed; a duplicate keeps the pipe */
    add(shared, twice[0], EPOLLIN, 8);
    spare = (int)MUST(fcntl(twice[0], F_DUPFD, 200));
    close(twice[0]);
    MUST(write(level[1], "x", 1));
    MUST(write(edge[1], "x", 1));
    MUST(write(once[1], "x", 1));
    expect(ep_edge, 2, true, "edge-triggered, before");
    expect(ep_once, 3, true, "one-shot, before");
    MUST(write(fresh[1], "x", 1)); /* an edge that is not fetched before the checkpoint */
    pid = (pid_t)MUST(fork());
    if (pid == 0) {
        check_idle();
        expect(shared, 7, true, "shared epoll in the child");
        _exit(check_status());
    }

    check_wait();

    if (check_broken())
        MUST(epoll_ctl(inner, EPOLL_CTL_DEL, ev, NULL));
    expect(ep_edge, 0xfedcba9876543210, true, "edge-triggered, not fetched before");
    check_level_and_edge(level, edge, ep_level, ep_edge);
    check_num(FD_CLOEXEC, fcntl(ep_level, F_GETFD), "close-on-exec of an epoll");
    expect(ep_once, 3, false, "one-shot that has fired");
    event = (struct epoll_event){.events = EPOLLIN, .data.u64 = 33};
    check_num(0, epoll_ctl(ep_once, EPOLL_CTL_MOD, once[0], &event), "arming the one-shot again");
    expect(ep_once, 33, true, "one-shot armed again");
    expect(outer, 6, false, "nested, nothing ready");
    MUST(eventfd_write(ev, 1));
    expect(outer, 6, true, "nested, inner ready");
    expect(inner, 5, true, "inner");
    expect(shared, 7, true, "shared epoll");
    MUST(write(twice[1], "z", 1));
    expect(shared, 8, true, "watched through a closed descriptor");
    check_num(-1, epoll_ctl(outer, EPOLL_CTL_ADD, inner, &event), "adding what is there already");
    check_num(EEXIST, errno, "errno of that");
    close(spare);
    check_child(pid, "child");
    return check_end();
}
