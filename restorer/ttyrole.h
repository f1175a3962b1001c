/* What the files about terminals share: tty.c (makes them), ttyfill.c (puts back what waits), terminal.c
 * (outside). */
#ifndef RESTORER_TTYROLE_H
#define RESTORER_TTYROLE_H

#include "image/tty.pb-c.h"
#include "restorer/restore.h"

#ifndef TIOCGPTPEER
#define TIOCGPTPEER _IO('T', 0x41)
#endif

#define TTY_PTY     1u /* Tty.type */
#define TTY_OUTSIDE 2u
#define TTY_HUNG    3u

/* The driver's fds of a pseudo-terminal, in robject.priv; robject.fd is the master. */
struct rtty {
    int slave;
};

/* A new description of the slave, closed at exec; -1 with errno. */
int tty_open_slave(int master, uint32_t flags);

/* Put back mode, input, output and what else the image says; then the driver's slave is closed. */
int tty_fill(struct robject *o, struct err *err);

/* Terminals outside. */
int terminal_open(struct restore *r, struct robject *o, struct rofd *d, int *fd, struct err *err);
int terminal_place(struct restore *r, struct robject *o, struct err *err);
int terminal_arm(struct restore *r, struct robject *o, struct err *err);
/* A leader that had such a terminal takes the one that stands in, if it has no session any more. */
int terminal_acquire(struct restore *r, struct rproc *leader, struct err *err);
int terminal_foreground(struct restore *r, struct err *err);
/* Run ioctl(fd, request, value) in a process, value being passed as a pointer unless it is NULL. */
int remote_tty_ioctl(struct rproc *p, int fd, unsigned long request, const int *value, int64_t *ret,
                     struct err *err);
/* The terminal that stands in, the driver's; -1: dmtcp_restart has none. Close it. */
int terminal_own(const struct restore *r);

#endif
