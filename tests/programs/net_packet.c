/*
 * Packet sockets on the loopback interface: both types, bound to a protocol and an interface or to neither, a filter,
 * memberships (promiscuous, all multicast, an address), a fanout group, options.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"
#include "tests/programs/sock.h"

#define PROTOCOL 0x88b5 /* for experiments */

static int lo;

static int open_at(int type, uint16_t protocol, int ifindex)
{
    struct sockaddr_ll a = {.sll_family = AF_PACKET, .sll_protocol = htons(protocol), .sll_ifindex = ifindex};
    int fd = socket(AF_PACKET, type | SOCK_CLOEXEC, 0);

    if (fd < 0 && errno == EPERM)
        check_skip("packet sockets take CAP_NET_RAW");
    MUST(fd);
    if (protocol || ifindex)
        MUST(bind(fd, (void *)&a, sizeof(a)));
    return fd;
}

static void send_frame(int fd, const char *text)
{
    struct sockaddr_ll a = {.sll_family = AF_PACKET, .sll_protocol = htons(PROTOCOL), .sll_ifindex = lo, .sll_halen = 6};

    MUST(sendto(fd, text, strlen(text), 0, (void *)&a, sizeof(a)));
}

/* The frame goes out and comes in: by an interface that is both it is seen twice. */
static int count(int fd, const char *text)
{
    char buf[64] = "";
    int n = 0;

    while (poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, n ? 0 : 100) == 1) {
        ssize_t k = recv(fd, buf, sizeof(buf), MSG_DONTWAIT);
        n += k == (ssize_t)strlen(text) && !memcmp(buf, text, strlen(text));
    }
    return n;
}

static int fresh, cooked, raw, filtered, group[2];

static void make(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_LEN, 0),
        BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, 4, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, 0),
        BPF_STMT(BPF_RET | BPF_K, 0xffff),
    };
    struct sock_fprog p = {4, code};
    struct packet_mreq m[3] = {{.mr_type = PACKET_MR_PROMISC}, {.mr_type = PACKET_MR_ALLMULTI},
                               {.mr_type = PACKET_MR_MULTICAST, .mr_alen = 6, .mr_address = {1, 0, 0x5e, 1, 2, 3}}};
    int one = 1, fanout = 77 | PACKET_FANOUT_HASH << 16;

    lo = (int)if_nametoindex("lo");
    fresh = open_at(SOCK_DGRAM, 0, 0);
    cooked = open_at(SOCK_DGRAM, PROTOCOL, lo);
    raw = open_at(SOCK_RAW, PROTOCOL, 0);
    MUST(setsockopt(raw, SOL_PACKET, PACKET_AUXDATA, &one, sizeof(one)));
    for (int i = 0; i < 3; i++) {
        m[i].mr_ifindex = lo;
        MUST(setsockopt(raw, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &m[i], sizeof(m[i])));
    }
    filtered = open_at(SOCK_DGRAM, 0, 0);
    MUST(setsockopt(filtered, SOL_SOCKET, SO_ATTACH_FILTER, &p, sizeof(p)));
    struct sockaddr_ll a = {.sll_family = AF_PACKET, .sll_protocol = htons(PROTOCOL), .sll_ifindex = lo};
    MUST(bind(filtered, (void *)&a, sizeof(a)));
    for (int i = 0; i < 2; i++) {
        group[i] = open_at(SOCK_DGRAM, PROTOCOL, lo);
        MUST(setsockopt(group[i], SOL_PACKET, PACKET_FANOUT, &fanout, sizeof(fanout)));
    }
}

static void check_member(int type, const char *what)
{
    struct packet_mreq m = {.mr_ifindex = lo, .mr_type = (unsigned short)type};

    if (type == PACKET_MR_MULTICAST) {
        m.mr_alen = 6;
        memcpy(m.mr_address, (uint8_t[6]){1, 0, 0x5e, 1, 2, 3}, 6);
    }
    check_num(0, setsockopt(raw, SOL_PACKET, PACKET_DROP_MEMBERSHIP, &m, sizeof(m)) < 0 ? errno : 0, "%s", what);
}

static void check(void)
{
    struct sockaddr_ll a = {0};
    socklen_t n = sizeof(a);
    int fanout = 77 | PACKET_FANOUT_HASH << 16;

    MUST(getsockname(cooked, (void *)&a, &n));
    check_num(htons(PROTOCOL), a.sll_protocol, "protocol");
    check_num(lo, a.sll_ifindex, "interface");
    n = sizeof(a);
    MUST(getsockname(fresh, (void *)&a, &n));
    check_num(0, a.sll_protocol, "protocol of a new socket");
    check_num(1, sock_int(raw, SOL_PACKET, PACKET_AUXDATA), "PACKET_AUXDATA");
    check_num(fanout, sock_int(group[0], SOL_PACKET, PACKET_FANOUT), "PACKET_FANOUT");
    check_num(fanout, sock_int(group[1], SOL_PACKET, PACKET_FANOUT), "PACKET_FANOUT");
    send_frame(fresh, "long enough");
    check_true(count(cooked, "long enough") >= 1, "a frame arrives");
    check_num(0, count(filtered, "long enough"), "frames that the filter keeps out");
    check_true(count(raw, "long enough") == 0, "a raw socket gets the header too");
    check_num(1, count(group[0], "long enough") + count(group[1], "long enough"), "sockets of a group that get it");
    send_frame(fresh, "hi");
    check_true(count(filtered, "hi") >= 1, "a frame that the filter lets pass");
    check_member(PACKET_MR_PROMISC, "promiscuous");
    check_member(PACKET_MR_ALLMULTI, "all multicast");
    check_member(PACKET_MR_MULTICAST, "a multicast address");
}

int main(int argc, char **argv)
{
    check_init(argc, argv);
    make();
    check_wait();
    if (check_broken())
        MUST(close(cooked)), cooked = open_at(SOCK_DGRAM, 0, 0);
    check();
    return check_end();
}
