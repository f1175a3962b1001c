/*
 * The kernel's table of sockets (sock_diag(7)), as a checkpoint and a restart ask it. Always the network namespace
 * of the caller.
 */
#ifndef BASE_SOCKDIAG_H
#define BASE_SOCKDIAG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "base/err.h"

/*
 * Send one netlink request and call `each` for every answer until there are no more. Returns 0 or the first error of
 * the kernel's or of `each`.
 */
int diag_dump(const void *request, size_t len, int (*each)(void *arg, const void *payload, size_t n, struct err *err),
              void *arg, struct err *err);

/* One end of a connection. IPv4 addresses are in their IPv6-mapped form, so that both ends of one compare. */
struct inet_end {
    uint8_t addr[16];
    uint16_t port; /* host byte order; 0: none */
};

struct inet_entry {
    uint32_t ino; /* 0: no fd leads to it: closed by its program, or not accepted yet */
    uint8_t family, state, shutdown;
    struct inet_end local, remote;
    uint32_t rqueue, wqueue;   /* bytes to read, not acknowledged; TCP_LISTEN: connections waiting, backlog */
    uint64_t acked, received;  /* bytes in the life of the connection (struct tcp_info) */
    uint32_t age_ms;           /* since data was sent last, or it came to be */
    uint64_t cookie;
};

/* All sockets of a protocol (IPPROTO_TCP…) in the states (bits 1 << TCP_…), of both families. */
int inet_dump(int protocol, uint32_t states, int (*each)(void *arg, const struct inet_entry *e, struct err *err),
              void *arg, struct err *err);

/* Ask again about one TCP socket, as it is at this moment. */
int inet_again(struct inet_entry *e, struct err *err);

/* Have the kernel forget a TCP socket. Takes CAP_NET_ADMIN: -EPERM. */
int inet_destroy(const struct inet_entry *e, struct err *err);

/* The parts of TCP_INFO that this project looks at. */
struct tcp_state {
    uint8_t state;     /* TCP_* */
    bool negotiated;   /* options were: it was connected once */
    uint64_t acked, received; /* bytes; SYN and FIN count as one each */
    uint32_t waiting, backlog; /* TCP_LISTEN */
};
int tcp_state(int fd, struct tcp_state *s, struct err *err);

/* Compare sockaddrs of either family as ends; false: not an internet address. */
bool inet_end_of(const void *sockaddr, size_t len, struct inet_end *e);
bool inet_same(const struct inet_end *a, const struct inet_end *b);
bool inet_is_v4(const struct inet_end *e);  /* in IPv6-mapped form */
bool inet_is_any(const struct inet_end *e); /* the address is the wildcard */

/* "127.0.0.1:80", "[::1]:80" in buf. */
const char *inet_text(const struct inet_end *e, char *buf, size_t size);

#endif
