/*
 * A helper process that has copies of the TCP sockets whose state the tracer changes while it saves them
 * (tcpkeep.c). When the tracer dies it puts them back. When the program is killed after its checkpoint, it stays for
 * a while and holds them, in repair mode and deaf: so what the peer sends meanwhile is neither answered by a reset
 * nor acknowledged, and the peer sends it again to the restarted program. A restart takes the sockets over from
 * here (restorer/tcpadopt.c) and ends the helper, by the eventfd that it waits for: a signal would not do between pid
 * namespaces. No firewall rule is needed for any of it, so none can be left.
 */
#ifndef TRACER_KEEPER_H
#define TRACER_KEEPER_H

#include <linux/filter.h>
#include <stdint.h>

#include "base/err.h"

#define KEEPER_NAME    "dmtcp_keeper" /* comm, by which a restart finds it */
#define KEEPER_SECONDS 600

/* What a socket had before. */
struct keeper_before {
    int32_t reuse;     /* SO_REUSEADDR, which the kernel clears when repair mode ends */
    uint32_t n_filter; /* instructions */
    const struct sock_filter *filter;
};

/* Start one: *sock is the channel to it. -errno. */
int keeper_start(int *sock, struct err *err);

/* Before the socket is touched: from now on it is put back if we die. */
int keeper_watch(int sock, int fd, uint64_t id, const struct keeper_before *b, struct err *err);

/* We have put it back ourselves. */
void keeper_forget(int sock, uint64_t id);

/* The program is dead: hold what is still watched. Closes the channel, as close(2) on it does when nothing is. */
void keeper_hold(int sock);

/* Make the socket deaf: every packet for it is dropped unseen. */
int tcp_deafen(int fd, struct err *err);

/* Put a socket back: out of repair mode without a packet being sent, hearing again. */
void tcp_put_back(int fd, const struct keeper_before *b);

#endif
