/* Backtraces of ptrace-stopped threads. */
#ifndef TRACER_BACKTRACE_H
#define TRACER_BACKTRACE_H

#include <stdint.h>
#include <sys/types.h>

/* Called for each frame, innermost first; name is "" when it is not known. */
typedef void (*backtrace_frame)(void *arg, int n, uint64_t ip, const char *name, uint64_t offset);

/* Returns how many frames were found. */
int backtrace_thread(pid_t tid, backtrace_frame frame, void *arg);

#endif
