/*
 * Netlink sockets, to the kernel and to each other: not bound, bound by the kernel and by number, connected, with
 * options, filters and multicast groups; notifications of what happens after the restart; messages that wait, from a
 * socket that is there and from one that is gone.
 */
#include <errno.h>
#include <linux/filter.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <poll.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"
#include "tests/programs/sock.h"

#ifndef SOL_NETLINK
#define SOL_NETLINK 270
#endif

static struct sockaddr_nl name_of(int fd, bool peer)
{
    struct sockaddr_nl a = {0};
    socklen_t n = sizeof(a);

    MUST(peer ? getpeername(fd, (void *)&a, &n) : getsockname(fd, (void *)&a, &n));
    return a;
}

static int open_at(int protocol, uint32_t port, uint32_t groups)
{
    struct sockaddr_nl a = {.nl_family = AF_NETLINK, .nl_pid = port, .nl_groups = groups};
    int fd = (int)MUST(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol));

    MUST(bind(fd, (void *)&a, sizeof(a)));
    return fd;
}

/* Ask the kernel for the loopback interface; the answer comes to our own port. */
static void ask(int fd, const char *what)
{
    struct {
        struct nlmsghdr h;
        struct ifinfomsg m;
    } q = {.h = {.nlmsg_len = sizeof(q), .nlmsg_type = RTM_GETLINK, .nlmsg_flags = NLM_F_REQUEST, .nlmsg_seq = 7},
           .m = {.ifi_family = AF_UNSPEC, .ifi_index = (int)if_nametoindex("lo")}};
    char buf[8192];
    struct nlmsghdr *h = (void *)buf;

    MUST(send(fd, &q, sizeof(q), 0));
    check_true(poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, 5000) == 1, "%s: an answer", what);
    ssize_t n = recv(fd, buf, sizeof(buf), MSG_DONTWAIT);
    if (!check_true(n >= (ssize_t)sizeof(*h), "%s: a whole answer", what))
        return;
    check_num(RTM_NEWLINK, h->nlmsg_type, "%s: type of the answer", what);
    check_num(name_of(fd, false).nl_pid, h->nlmsg_pid, "%s: port of the answer", what);
}

static int heard[2];
static uint32_t gone;

static void make_waiting(void)
{
    struct sockaddr_nl to;
    int there = open_at(NETLINK_USERSOCK, 0, 0), other = open_at(NETLINK_USERSOCK, 0, 0);

    for (int i = 0; i < 2; i++) {
        heard[i] = open_at(NETLINK_USERSOCK, 0, 0);
        to = name_of(heard[i], false);
        MUST(sendto(i ? other : there, i ? "gone" : "there", 5, 0, (void *)&to, sizeof(to)));
    }
    to = name_of(there, false);
    MUST(connect(heard[0], (void *)&(struct sockaddr_nl){.nl_family = AF_NETLINK, .nl_pid = to.nl_pid}, sizeof(to)));
    gone = name_of(other, false).nl_pid;
    close(other);
}

static void check_waiting(void)
{
    struct sockaddr_nl peer = name_of(heard[0], true);

    for (int i = 0; i < 2; i++) {
        struct sockaddr_nl from = {0};
        socklen_t n = sizeof(from);
        char buf[16] = "";
        check_num(5, recvfrom(heard[i], buf, sizeof(buf), MSG_DONTWAIT, (void *)&from, &n), "bytes that waited");
        check_str(i ? "gone" : "there", buf, "message that waited");
        check_num(i ? gone : peer.nl_pid, from.nl_pid, "who sent what waited");
        check_num(0, from.nl_groups, "its groups");
        sock_expect_nothing(heard[i], "where a message waited");
    }
}

static int fresh, bound, rtnl, filtered, connected, left, right, many;
static struct sockaddr_nl bound_name, rtnl_name;

static bool is_member(int fd, unsigned group)
{
    uint32_t bits[64] = {0};
    socklen_t n = sizeof(bits);

    MUST(getsockopt(fd, SOL_NETLINK, NETLINK_LIST_MEMBERSHIPS, bits, &n));
    group--;
    return group / 32 < 64 && (bits[group / 32] >> group % 32 & 1);
}

static void make(void)
{
    struct sock_filter nothing[] = {BPF_STMT(BPF_RET | BPF_K, 0)};
    struct sock_fprog p = {1, nothing};
    struct sockaddr_nl to;
    int one = 1, group = RTNLGRP_NEIGH;

    fresh = (int)MUST(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
    bound = open_at(NETLINK_ROUTE, 0x40000000u + (uint32_t)getpid(), 0);
    MUST(setsockopt(bound, SOL_NETLINK, NETLINK_EXT_ACK, &one, sizeof(one)));
    MUST(setsockopt(bound, SOL_NETLINK, NETLINK_PKTINFO, &one, sizeof(one)));
    ask(bound, "before");
    bound_name = name_of(bound, false);
    rtnl = open_at(NETLINK_ROUTE, 0, RTMGRP_LINK | RTMGRP_IPV4_IFADDR);
    MUST(setsockopt(rtnl, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof(group)));
    rtnl_name = name_of(rtnl, false);
    filtered = open_at(NETLINK_ROUTE, 0, RTMGRP_LINK);
    MUST(setsockopt(filtered, SOL_SOCKET, SO_ATTACH_FILTER, &p, sizeof(p)));
    connected = open_at(NETLINK_ROUTE, 0, 0);
    MUST(connect(connected, (void *)&(struct sockaddr_nl){.nl_family = AF_NETLINK}, sizeof(to)));
    left = open_at(NETLINK_USERSOCK, 0, 0);
    right = open_at(NETLINK_USERSOCK, 0, 0);
    to = name_of(right, false);
    MUST(connect(left, (void *)&to, sizeof(to)));
    make_waiting();
    many = (int)MUST(socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_GENERIC));
}

static void check(void)
{
    struct sockaddr_nl a = name_of(fresh, false);
    struct sockaddr_nl from = {0};
    socklen_t n = sizeof(from);
    char buf[16] = "";

    check_num(0, a.nl_pid, "port of a new socket");
    ask(fresh, "new");
    a = name_of(bound, false);
    check_mem(&bound_name, &a, sizeof(a), "address");
    check_num(1, sock_int(bound, SOL_NETLINK, NETLINK_EXT_ACK), "NETLINK_EXT_ACK");
    check_num(1, sock_int(bound, SOL_NETLINK, NETLINK_PKTINFO), "NETLINK_PKTINFO");
    ask(bound, "bound");
    a = name_of(rtnl, false);
    check_mem(&rtnl_name, &a, sizeof(a), "address with groups");
    check_num(1, is_member(rtnl, RTNLGRP_LINK), "group of links");
    check_num(1, is_member(rtnl, RTNLGRP_NEIGH), "group of neighbours");
    check_num(0, is_member(rtnl, RTNLGRP_IPV6_IFADDR), "group that it is not in");
    ask(rtnl, "with groups");
    MUST(send(filtered, "", 0, 0) < 0 ? 0 : 0);
    ask(connected, "connected");
    a = name_of(right, false);
    from = name_of(left, true);
    check_num(a.nl_pid, from.nl_pid, "peer");
    MUST(send(left, "hello", 5, 0));
    check_num(5, recvfrom(right, buf, sizeof(buf), MSG_DONTWAIT, (void *)&from, &n), "bytes from another program");
    check_num(name_of(left, false).nl_pid, from.nl_pid, "who sent it");
    sock_expect_nothing(many, "generic netlink");
    check_waiting();
}

int main(int argc, char **argv)
{
    check_init(argc, argv);
    make();
    check_wait();
    if (check_broken())
        close(bound), bound = open_at(NETLINK_ROUTE, 0, 0);
    check();
    return check_end();
}
