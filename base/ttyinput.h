/*
 * Input that waits in a terminal's line discipline (N_TTY), as pieces that say where lines end, and how to
 * put it there again through the other end of a pseudo-terminal. The tracer needs both directions, the
 * restorer the second.
 */
#ifndef BASE_TTYINPUT_H
#define BASE_TTYINPUT_H

#include <asm/termbits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

/*
 * What can be typed again as processed input: the line discipline holds N_TTY_BUF_SIZE - 1 bytes (n_tty.c),
 * and needs room for one more to take the character that opens the gate (below).
 */
#define TTY_INPUT_MAX 4094u

struct tty_piece {
    const uint8_t *data;
    size_t len;
    bool line; /* a whole line as read(2) returns it; else typed so far, or not canonical */
    bool eof;  /* the line was ended by the end-of-file character, which is not in data */
};

/*
 * Into pieces: the `len` bytes that were read after switching off canonical mode, when before that FIONREAD
 * said `counted` bytes and poll(2) said that a read would not block (`readable`). t is the mode in which they
 * were typed. *pieces is the caller's to free; the data is not copied. What goes beyond TTY_INPUT_MAX was not
 * processed yet (but for the first byte, which will be once more) and is in no piece.
 */
int tty_input_split(const struct termios2 *t, const uint8_t *data, size_t len, size_t counted, bool readable,
                    struct tty_piece **pieces, size_t *n, struct err *err);

/* How to type it again. */
struct tty_refill {
    struct termios2 during; /* the mode meanwhile: no echo, no signals, no translation, nothing special but
                               what is used */
    bool gate; /* first write `stop`, then the bytes, then `start`: output flows again when all was processed
                */
    uint8_t stop, start;
    uint8_t *bytes; /* malloc'ed */
    size_t len;
};
int tty_refill_make(const struct termios2 *t, const struct tty_piece *pieces, size_t n, struct tty_refill *r,
                    struct err *err);

/* Is the discipline in canonical mode? With EXTPROC it only looks so. */
static inline bool tty_canonical(const struct termios2 *t)
{
    return (t->c_lflag & ICANON) && !(t->c_lflag & EXTPROC);
}

#endif
