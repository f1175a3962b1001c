/*
 * What the test programs share: how they report and how they wait for being checkpointed.
 *
 *   prog --go FILE --out FILE [--break]
 *
 * A program sets its state up, calls check_wait() and then compares the state with what it was.
 * check_wait() says "ready" and polls until the file --go exists; in between the program is left
 * alone (control), checkpointed, or killed and restarted, any number of times: it can't tell which.
 * Reports go to the file --out and to standard output, one line each; --out is opened anew for each
 * line, so a program has no more open files than its test is about:
 *
 *   ready | NOTE: … | FAIL: what: before …, after … | SKIP: why | PASS
 *
 * Exit status: 0 pass, 1 something differs, 2 the set-up failed, 77 skipped. With --break the program
 * spoils its state itself before it compares, which shows that it can fail.
 *
 * The functions allocate nothing and may be called from any process and thread of the program.
 */
#ifndef TESTS_PROGRAMS_CHECK_H
#define TESTS_PROGRAMS_CHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

void check_init(int argc, char **argv);
bool check_broken(void);

/* The directory of --out (absolute), where the program may make files; a path in it in a static buffer of 4. */
const char *check_dir(void);
const char *check_path(const char *name);

/* From now on look for --go and --out in dir: for programs that change their root. */
void check_set_dir(const char *dir);

void check_ready(void);   /* say that the state is set up */
bool check_go(void);      /* has --go appeared? */
void check_wait_go(void); /* poll until it has; records the gaps (below) */
void check_wait(void);    /* check_ready() and check_wait_go() */
void check_idle(void);    /* poll until it has, in any thread; records nothing */

void check_note(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void check_fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void check_skip(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));
void check_die(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));

/* Compare; report what differs. Return whether it was equal. */
bool check_true(bool cond, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
bool check_num(long long before, long long after, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
bool check_str(const char *before, const char *after, const char *what);
bool check_mem(const void *before, const void *after, size_t len, const char *what);
bool check_text(const char *before, const char *after, const char *what); /* says the first line that differs */
bool check_range(double low, double high, double got, const char *what);

/* A pattern that depends on seed and position. */
void check_fill(void *p, size_t len, uint64_t seed);
bool check_filled(const void *p, size_t len, uint64_t seed, const char *what);

/* Wait for a child and demand that it exits with 0. */
void check_child(pid_t pid, const char *what);

/* The last call of main: says PASS unless this process failed. Returns the exit status. */
int check_end(void);

/* The exit status of a child process: 1 if it failed. Says nothing. */
int check_status(void);

/* A set-up call that must work: dies with its text otherwise. Returns the value of the call. */
#define MUST(call) check_must((long)(call), #call, __FILE__, __LINE__)
long check_must(long result, const char *what, const char *file, int line);

/* A whole small file, NUL-terminated and cut off at size; returns its length. Dies if it can't be opened. */
size_t check_slurp(const char *path, char *buf, size_t size);
void check_spit(const char *path, const void *data, size_t len);

/* The value of a line "Key:\tvalue" of /proc/PID/status ("self" or a number), in buf. */
char *check_status_line(const char *pid, const char *key, char *buf, size_t size);

/* Seconds of a clock. */
double check_now(clockid_t clock);
void check_sleep(double seconds);

/*
 * Seconds within [from, to] of CLOCK_MONOTONIC in which the process that polls in check_wait_go()
 * evidently did not run (it was frozen, or dead between checkpoint and restart).
 */
double check_gap(double from, double to);

/*
 * What is left of a timer that had `left` seconds at `then` (CLOCK_MONOTONIC) must be `now_left` by now.
 * Gaps may or may not have counted.
 */
bool check_remaining(double then, double left, double now_left, const char *what);

#endif
