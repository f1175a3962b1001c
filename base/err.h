/*
 * Errors as values. Every function that can fail takes a `struct err *` as its last
 * argument and returns 0 or a negative errno. The function that notices a failure writes
 * the innermost text; each caller that knows more puts its own words in front with
 * err_wrap(), so that main prints one line that reads from the outside to the inside:
 *
 *   dmtcp_restart: ckpt_a.out_….dmtcp: pages: chunk 17 at 0x7f…: checksum does not match
 *
 * Only main() prints. Nothing aborts on what a user, a peer, a program or a file can cause.
 */
#ifndef BASE_ERR_H
#define BASE_ERR_H

struct err {
    int code;       /* errno value, positive; 0 while nothing went wrong */
    char msg[1000]; /* one line, no newline at the end */
};

/* Set the text; returns -code (code 0 counts as EINVAL). */
int err_set(struct err *err, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Set the text and append ": strerror(errno)"; returns -errno. Call it before anything changes errno. */
int err_errno(struct err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Put "text: " in front of the message that is there; returns -err->code. */
int err_wrap(struct err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
