/* Buffers of sockets, made larger for a moment by a checkpoint and a restart. */
#ifndef BASE_SOCKBUF_H
#define BASE_SOCKBUF_H

#include <stdint.h>
#include <sys/socket.h>

#ifndef SO_BUF_LOCK
#define SO_BUF_LOCK 72 /* since Linux 5.14 */
#endif

/*
 * Set SO_SNDBUF or SO_RCVBUF (option) to what getsockopt(2) is to say, beyond the system's limit for who may. 0, or -1
 * with errno.
 */
int sockbuf_set(int fd, int option, uint32_t size);

/*
 * Make the receive buffer as large as the caller may, up to `want` bytes (as for SO_RCVBUF). CAP_NET_ADMIN may do
 * anything; others have net.core.rmem_max, and for TCP what the kernel itself would give, net.ipv4.tcp_rmem. Returns
 * SO_RCVBUF afterwards, which is never less than before. SO_BUF_LOCK and SO_RCVBUF are the caller's to put back.
 */
int sockbuf_widen_receive(int fd, int want);

#endif
