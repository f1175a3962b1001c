/*
 * Local TCP ports at a restart. The program that is restarted has died a moment ago, perhaps by SIGKILL: the kernel
 * keeps what remains of its connections (TIME_WAIT and the like) for up to a minute, and those keep its ports.
 */
#ifndef BASE_PORTS_H
#define BASE_PORTS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

struct ports {
    uint8_t bits[65536 / 8];
};

static inline void ports_add(struct ports *p, uint16_t port)
{
    p->bits[port / 8] |= (uint8_t)(1u << port % 8);
}

static inline bool ports_has(const struct ports *p, uint16_t port)
{
    return p->bits[port / 8] >> port % 8 & 1;
}

/*
 * Have connections end of which no program has an fd any more and whose local port is one of these and, unless it is
 * NULL, whose other end's port is one of those. Takes no rights where both ends have addresses of this host, else
 * CAP_NET_ADMIN. Returns how many there were, or a negative errno; some may stay.
 */
int ports_clear(const struct ports *local, const struct ports *remote, struct err *err);

/* ports_clear() of one port. */
int port_clear(uint16_t port, struct err *err);

/* Is it the local port of a TCP connection or listener that is alive? */
int port_in_use(uint16_t port, bool *used, struct err *err);

#endif
