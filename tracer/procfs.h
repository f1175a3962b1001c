/*
 * What /proc says of a process, parsed. The text is hostile (a process names itself): every parser checks what
 * it reads and takes a buffer, so that it can be fuzzed (tests/fuzz/proc_fuzz.c). Sources: proc(5) and the
 * kernel's fs/proc.
 */
#ifndef TRACER_PROCFS_H
#define TRACER_PROCFS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"

#define PF_EXITING 0x4 /* of proc_stat.flags: include/linux/sched.h */

struct proc_stat {
    pid_t pid;
    char comm[64];
    char state;
    pid_t ppid, pgrp, sid, tpgid;
    uint32_t tty;
    uint32_t flags;       /* PF_* */
    uint32_t cpu;         /* on which it ran last */
    uint64_t starttime;   /* clock ticks since boot */
    uint32_t exit_signal, exit_code;
    uint64_t start_code, end_code, start_stack, start_data, end_data, start_brk;
    uint64_t arg_start, arg_end, env_start, env_end;
};
int parse_stat(const char *text, size_t len, struct proc_stat *s, struct err *err);
int read_stat(pid_t pid, struct proc_stat *s, struct err *err);
int read_task_stat(pid_t pid, pid_t tid, struct proc_stat *s, struct err *err);

struct proc_status {
    uint32_t umask;
    pid_t tgid, tracer;
    uint32_t uids[4], gids[4];
    uint32_t *groups; /* malloc'ed */
    size_t ngroups;
    uint64_t sig_blocked, sig_ignored, sig_caught, sig_pending, shared_pending;
    uint64_t cap_inh, cap_prm, cap_eff, cap_bnd, cap_amb;
    bool no_new_privs;
    uint32_t seccomp, seccomp_filters;
    uint32_t threads;
    bool thp_enabled;
};
int parse_status(const char *text, struct proc_status *s, struct err *err);
int read_status(pid_t pid, pid_t tid, struct proc_status *s, struct err *err);
void proc_status_free(struct proc_status *s);
bool has_other_threads(pid_t pid); /* than the first */
/*
 * Is it dead, waited for or not? A first thread that has ended while others go on looks like a zombie, and so does who
 * is executing a program until that is done. start: clock ticks (/proc/PID/stat); another process with its pid is not it.
 */
bool is_dead(pid_t pid, uint64_t start);

/* A line of maps, with the VmFlags of smaps. */
struct map {
    uint64_t start, end, offset, ino;
    uint32_t major, minor;
    char perms[5];
    char flags[160]; /* "rd wr mr mw me ac" */
    char *name;      /* malloc'ed, unescaped; "" when there is none */
    uint64_t page_size; /* KernelPageSize in bytes */
    uint64_t rss, locked;
};
int parse_smaps(char *text, struct map **maps, size_t *n, struct err *err); /* text is changed */
int read_maps(pid_t pid, struct map **maps, size_t *n, struct err *err);
void maps_free(struct map *maps, size_t n);
static inline bool map_flag(const struct map *m, const char *two)
{
    for (const char *p = m->flags; p[0] && p[1]; p += p[2] == ' ' ? 3 : 2)
        if (p[0] == two[0] && p[1] == two[1])
            return true;
    return false;
}

/* The numbers in a directory (/proc/PID/task, …): malloc'ed array, ascending. */
int list_numbers(const char *dir, int **out, size_t *n, struct err *err);

#endif
