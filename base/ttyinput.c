/*
 * The line discipline keeps typed input as bytes with marks where lines end; the byte of an end-of-file mark
 * is NUL. A raw read gives the bytes without the marks, so they are found again from the characters that end
 * lines and from the number of bytes that FIONREAD counted, in which end-of-file marks are left out (n_tty.c:
 * inq_canon()).
 *
 * To type it again, every special character is switched off (_POSIX_VDISABLE) but four, chosen among the
 * bytes that do not occur: one ends a line without being in it, one quotes, and two stop and start the
 * output. The last two serve as a gate, since what is written to a master is processed later, by a kernel
 * thread: output that was stopped before the first byte and flows again says that the last one has been
 * processed.
 */
#include "base/ttyinput.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static bool ends_line(const struct termios2 *t, uint8_t c)
{
    if (c == '\n')
        return true;
    return c && (c == t->c_cc[VEOL] || ((t->c_lflag & IEXTEN) && c == t->c_cc[VEOL2]));
}

/* Where the whole lines end: `counted` bytes, and as many NULs as there are end-of-file marks among them. */
static size_t lines_end(const uint8_t *data, size_t len, size_t counted)
{
    size_t end = counted < len ? counted : len;

    for (;;) {
        size_t marks = 0, next;

        for (size_t i = 0; i < end; i++)
            marks += data[i] == 0;
        next = counted + marks < len ? counted + marks : len;
        if (next == end)
            break;
        end = next;
    }
    while (end < len && data[end] == 0)
        end++;
    return end;
}

static void split_lines(const struct termios2 *t, const uint8_t *data, size_t end, struct tty_piece *p,
                        size_t *n)
{
    size_t from = 0;

    for (size_t i = 0; i < end; i++) {
        bool mark = data[i] == 0;

        if (!mark && !ends_line(t, data[i]) && i + 1 < end)
            continue;
        /* A last line without an end was there before canonical mode was switched on: it reads like one with
         * a mark. */
        p[(*n)++] = (struct tty_piece){.data = data + from,
                                       .len = i + !mark - from,
                                       .line = true,
                                       .eof = mark || !ends_line(t, data[i])};
        from = i + 1;
    }
}

int tty_input_split(const struct termios2 *t, const uint8_t *data, size_t len, size_t counted, bool readable,
                    struct tty_piece **pieces, size_t *n, struct err *err)
{
    size_t end = 0;

    if (len > TTY_INPUT_MAX)
        len = TTY_INPUT_MAX;
    *n = 0;
    *pieces = calloc(len + 2, sizeof(**pieces));
    if (!*pieces)
        return err_set(err, ENOMEM, "out of memory");
    if (tty_canonical(t) && readable) {
        end = lines_end(data, len, counted);
        split_lines(t, data, end, *pieces, n);
    }
    if (end < len)
        (*pieces)[(*n)++] = (struct tty_piece){.data = data + end, .len = len - end};
    return 0;
}

/* Bytes that occur nowhere and mean nothing, from the top: rare in text of any encoding. */
static int choose(const struct termios2 *t, const struct tty_piece *pieces, size_t n, uint8_t *out,
                  int wanted)
{
    bool used[256] = {[0] = true};

    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < pieces[i].len; k++)
            used[pieces[i].data[k]] = true;
    for (int c = 254; c > 0 && wanted > 0; c--)
        if (!used[c] && !ends_line(t, (uint8_t)c)) {
            *out++ = (uint8_t)c;
            wanted--;
        }
    return wanted == 0 ? 0 : -1;
}

static void type_piece(const struct termios2 *t, const struct tty_piece *p, uint8_t eof, uint8_t quote,
                       struct tty_refill *r)
{
    for (size_t i = 0; i < p->len; i++) {
        bool end = p->line && !p->eof && i + 1 == p->len;

        if (tty_canonical(t) && ends_line(t, p->data[i]) && !end)
            r->bytes[r->len++] = quote;
        r->bytes[r->len++] = p->data[i];
    }
    if (p->line && p->eof)
        r->bytes[r->len++] = eof;
}

/* A mode in which input is what was typed, so that it does not matter when it is processed. */
static bool untouched(const struct termios2 *t)
{
    return !(t->c_iflag & (ISTRIP | IUCLC | IGNCR | ICRNL | INLCR | IXON | INPCK | PARMRK)) &&
           !(t->c_lflag & (ICANON | ISIG | ECHO | ECHONL));
}

int tty_refill_make(const struct termios2 *t, const struct tty_piece *pieces, size_t n, struct tty_refill *r,
                    struct err *err)
{
    enum { EOF_CHAR, QUOTE, STOP, START, WANTED };
    uint8_t c[WANTED] = {0};
    size_t room = 1;

    *r = (struct tty_refill){.during = *t, .gate = !(t->c_lflag & EXTPROC) && !untouched(t)};
    for (size_t i = 0; i < n; i++)
        room += 2 * pieces[i].len + 1;
    if (r->gate && choose(t, pieces, n, c, WANTED) < 0)
        return err_set(err, EOPNOTSUPP, "the input that waits in the terminal uses every byte there is");
    r->bytes = malloc(room);
    if (!r->bytes)
        return err_set(err, ENOMEM, "out of memory");
    r->during.c_iflag = r->gate ? IXON : 0;
    r->during.c_oflag = 0;
    r->during.c_lflag = (t->c_lflag & (ICANON | EXTPROC)) | IEXTEN;
    memset(r->during.c_cc, 0, sizeof(r->during.c_cc));
    r->during.c_cc[VMIN] = 1;
    r->during.c_cc[VEOL] = t->c_cc[VEOL];
    r->during.c_cc[VEOL2] = t->c_lflag & IEXTEN ? t->c_cc[VEOL2] : 0;
    r->during.c_cc[VEOF] = c[EOF_CHAR];
    r->during.c_cc[VLNEXT] = c[QUOTE];
    r->during.c_cc[VSTOP] = r->stop = c[STOP];
    r->during.c_cc[VSTART] = r->start = c[START];
    for (size_t i = 0; i < n; i++)
        type_piece(t, &pieces[i], c[EOF_CHAR], c[QUOTE], r);
    return 0;
}
