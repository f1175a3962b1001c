/* What the test programs about sockets share. All die when a set-up call fails and report what differs. */
#ifndef TESTS_PROGRAMS_SOCK_H
#define TESTS_PROGRAMS_SOCK_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/un.h>

/* The address for a name; a first character '@' stands for an abstract name. Returns its length. */
socklen_t sock_unix(struct sockaddr_un *a, const char *name);

/* A socket bound to the name; "" not bound. */
int sock_bound(int type, const char *name);
int sock_listener(int type, const char *name, int backlog);
void sock_connect(int fd, const char *name);
int sock_connected(int type, const char *name);

/* Write a pattern until nothing more goes in without waiting; returns the bytes. */
size_t sock_stuff(int fd, unsigned seed);

/* Read exactly that, or a text, in pieces of any size; then nothing more may be there (errno EAGAIN). */
void sock_drain(int fd, size_t bytes, unsigned seed, const char *what);
void sock_expect(int fd, const char *text, const char *what);
void sock_expect_nothing(int fd, const char *what);
void sock_expect_end(int fd, const char *what);

/* getsockname or getpeername as text ("@…" for abstract), in a static buffer of 4. */
const char *sock_name(int fd, bool peer);

/* SO_PEERCRED */
void sock_expect_peer(int fd, pid_t pid, const char *what);

int sock_int(int fd, int level, int option);

#endif
