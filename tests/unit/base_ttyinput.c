/*
 * Terminal input: how a raw read is taken apart into lines, and how it is typed again. The second part is
 * asked of a real pseudo-terminal: what is typed into it must read as the pieces say.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/ttyinput.h"

#ifndef TIOCGPTPEER
#define TIOCGPTPEER _IO('T', 0x41)
#endif

struct pty {
    int master, slave;
    struct termios2 t;
};

static int setup(void **state)
{
    struct pty *p = calloc(1, sizeof(*p));
    int unlocked = 0;

    assert_non_null(p);
    p->master = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
    assert_true(p->master >= 0);
    assert_int_equal(ioctl(p->master, TIOCSPTLCK, &unlocked), 0);
    p->slave = ioctl(p->master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
    assert_true(p->slave >= 0);
    assert_int_equal(ioctl(p->slave, TCGETS2, &p->t), 0);
    *state = p;
    return 0;
}

static int teardown(void **state)
{
    struct pty *p = *state;

    close(p->slave);
    close(p->master);
    free(p);
    return 0;
}

static void split(const struct termios2 *t, const char *bytes, size_t len, size_t counted, bool readable,
                  struct tty_piece **pieces, size_t *n)
{
    struct err err;

    assert_int_equal(tty_input_split(t, (const uint8_t *)bytes, len, counted, readable, pieces, n, &err), 0);
}

static void expect_piece(const struct tty_piece *p, const char *text, bool line, bool eof)
{
    assert_int_equal(p->len, strlen(text));
    assert_memory_equal(p->data, text, p->len);
    assert_int_equal(p->line, line);
    assert_int_equal(p->eof, eof);
}

static void lines(void **state)
{
    const struct pty *t = *state;
    struct tty_piece *p;
    size_t n;

    split(&t->t, "one\ntwo\npart", 12, 8, true, &p, &n);
    assert_int_equal(n, 3);
    expect_piece(&p[0], "one\n", true, false);
    expect_piece(&p[1], "two\n", true, false);
    expect_piece(&p[2], "part", false, false);
    free(p);
    split(&t->t, "part", 4, 0, false, &p, &n);
    assert_int_equal(n, 1);
    expect_piece(&p[0], "part", false, false);
    free(p);
    split(&t->t, "", 0, 0, false, &p, &n);
    assert_int_equal(n, 0);
    free(p);
}

static void ends_of_file(void **state)
{
    const struct pty *t = *state;
    struct tty_piece *p;
    size_t n;

    split(&t->t, "abc\0def\n\0\0par", 13, 7, true, &p, &n);
    assert_int_equal(n, 5);
    expect_piece(&p[0], "abc", true, true);
    expect_piece(&p[1], "def\n", true, false);
    expect_piece(&p[2], "", true, true);
    expect_piece(&p[3], "", true, true);
    expect_piece(&p[4], "par", false, false);
    free(p);
    split(&t->t, "pushed", 6, 6, true, &p, &n); /* typed before the mode was canonical */
    assert_int_equal(n, 1);
    expect_piece(&p[0], "pushed", true, true);
    free(p);
}

static void raw(void **state)
{
    struct termios2 t = ((struct pty *)*state)->t;
    struct tty_piece *p;
    size_t n;

    t.c_lflag &= ~(tcflag_t)ICANON;
    split(&t, "a\nb\0c", 5, 5, true, &p, &n);
    assert_int_equal(n, 1);
    assert_int_equal(p[0].len, 5);
    assert_false(p[0].line);
    free(p);
    t.c_lflag |= ICANON | EXTPROC;
    split(&t, "a\nb", 3, 2, true, &p, &n);
    assert_int_equal(n, 1);
    free(p);
}

static void too_much(void **state)
{
    const struct pty *t = *state;
    char bytes[6000];
    struct tty_piece *p;
    size_t n, total = 0;

    memset(bytes, 'x', sizeof(bytes));
    bytes[99] = '\n';
    split(&t->t, bytes, sizeof(bytes), 100, true, &p, &n);
    for (size_t i = 0; i < n; i++)
        total += p[i].len;
    assert_int_equal(total, TTY_INPUT_MAX);
    free(p);
}

static void write_byte(const struct pty *p, uint8_t c)
{
    assert_int_equal(write(p->master, &c, 1), 1);
}

/* As the restorer does. */
static void type(const struct pty *p, const struct tty_refill *r)
{
    struct pollfd in = {.fd = p->slave, .events = POLLIN}, out = {.fd = p->slave, .events = POLLOUT};

    assert_int_equal(ioctl(p->slave, TCSETS2, &r->during), 0);
    write_byte(p, r->stop);
    poll(&in, 1, 0);
    assert_int_equal(write(p->master, r->bytes, r->len), (ssize_t)r->len);
    write_byte(p, r->start);
    assert_int_equal(poll(&out, 1, 5000), 1);
    assert_int_equal(ioctl(p->slave, TCSETS2, &p->t), 0);
}

static void typed_again(void **state)
{
    static const uint8_t odd[] = {0, 1, 3, 4, 17, 19, 22, 26, 127, 253, 254, 255, '\n', 'z'};
    const struct pty *p = *state;
    const struct tty_piece pieces[] = {
        {(const uint8_t *)"line\n", 5, true, false}, {(const uint8_t *)"ended", 5, true, true},
        {(const uint8_t *)"", 0, true, true},        {odd, sizeof(odd), true, true},
        {(const uint8_t *)"part", 4, false, false},
    };
    struct tty_refill r;
    struct err err;
    char buf[100];

    assert_int_equal(tty_refill_make(&p->t, pieces, 5, &r, &err), 0);
    type(p, &r);
    free(r.bytes);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(read(p->slave, buf, sizeof(buf)), (ssize_t)pieces[i].len);
        assert_memory_equal(buf, pieces[i].data, pieces[i].len);
    }
    assert_int_equal(read(p->slave, buf, sizeof(buf)), -1);
    assert_int_equal(read(p->master, buf, sizeof(buf)), -1); /* no echo */
    assert_int_equal(write(p->master, "ly\n", 3), 3);
    assert_int_equal(poll(&(struct pollfd){.fd = p->slave, .events = POLLIN}, 1, 5000), 1);
    assert_int_equal(read(p->slave, buf, sizeof(buf)), 7);
    assert_memory_equal(buf, "partly\n", 7);
}

static void every_byte(void **state)
{
    const struct pty *p = *state;
    uint8_t all[256];
    struct tty_piece piece = {all, 256, true, true};
    struct tty_refill r;
    struct err err;

    for (int i = 0; i < 256; i++)
        all[i] = (uint8_t)i;
    assert_int_equal(tty_refill_make(&p->t, &piece, 1, &r, &err), -EOPNOTSUPP);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(lines, setup, teardown),
        cmocka_unit_test_setup_teardown(ends_of_file, setup, teardown),
        cmocka_unit_test_setup_teardown(raw, setup, teardown),
        cmocka_unit_test_setup_teardown(too_much, setup, teardown),
        cmocka_unit_test_setup_teardown(typed_again, setup, teardown),
        cmocka_unit_test_setup_teardown(every_byte, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
