/*
 * The memory map of a process as text that can be compared: for programs about memory.
 * All buffers belong to the caller; nothing is allocated.
 */
#ifndef TESTS_PROGRAMS_MAPS_H
#define TESTS_PROGRAMS_MAPS_H

#include <stdbool.h>
#include <stddef.h>

#define MAPS_SIZE (512 * 1024)

/*
 * /proc/self/smaps as one line per mapping: addresses, permissions, offset, name, VmFlags that a
 * program can notice. Neighbours that differ in nothing are one line (the kernel may merge or not).
 * Names of deleted files are left out: shared anonymous memory has one (/dev/zero), and without root it
 * can only be shared again under another.
 */
void maps_snapshot(char *text, size_t size);

/* Compare a snapshot with the present; what says what was being tested. */
void maps_compare(const char *before, const char *what);

/* A field of the smaps entry of the mapping that begins at or contains addr; "" or -1 if there is none. */
bool maps_has_flag(const void *addr, const char *flag);
long maps_kib(const void *addr, const char *field);

/* A field of /proc/self/smaps_rollup in KiB. */
long maps_rollup_kib(const char *field);

#endif
