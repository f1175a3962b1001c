/* The protocol's framing: handshake, encryption, refusals, handing over. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "base/util.h"
#include "coordinator/wire.h"

static const unsigned char key[WIRE_KEY_SIZE] = "a secret of thirty-two bytes....";
static const unsigned char other_key[WIRE_KEY_SIZE] = "another one of thirty-two bytes.";

struct pair {
    struct wire *client, *coordinator;
};

static int setup(void **state)
{
    static struct pair pair;

    pair.client = wire_new(WIRE_CLIENT, key);
    pair.coordinator = wire_new(WIRE_COORDINATOR, key);
    *state = &pair;
    return pair.client && pair.coordinator ? 0 : -1;
}

static int teardown(void **state)
{
    struct pair *p = *state;

    wire_free(p->client);
    wire_free(p->coordinator);
    return 0;
}

/* Carry all output over, in pieces; the result of the receiver's first parse that gives something. */
static int carry(struct wire *from, struct wire *to, size_t piece, Wire__Msg **msg, struct err *err)
{
    const unsigned char *data;
    size_t len;
    int r = 0;

    while (r == 0 && (len = wire_output(from, &data)) > 0) {
        size_t n = len < piece ? len : piece;
        assert_int_equal(wire_feed(to, data, n, err), 0);
        wire_sent(from, n);
        r = wire_next(to, msg, err);
    }
    return r;
}

static void put_text(struct wire *w, uint32_t seq, size_t len, char fill)
{
    Wire__Msg m = WIRE__MSG__INIT;
    Wire__Text text = WIRE__TEXT__INIT;
    _cleanup_free_ uint8_t *bytes = malloc(len + 1);
    struct err err;

    memset(bytes, fill, len);
    text.text = (ProtobufCBinaryData){len, bytes};
    m.seq = seq;
    m.body_case = WIRE__MSG__BODY_TEXT;
    m.text = &text;
    assert_int_equal(wire_put(w, &m, &err), 0);
}

static void expect_text(Wire__Msg *m, uint32_t seq, size_t len, char fill)
{
    assert_int_equal(m->seq, seq);
    assert_int_equal(m->body_case, WIRE__MSG__BODY_TEXT);
    assert_int_equal(m->text->text.len, len);
    if (len)
        assert_int_equal(m->text->text.data[len - 1], fill);
    wire__msg__free_unpacked(m, NULL);
}

static void shake_hands(struct pair *p, size_t piece)
{
    struct err err = {0};
    Wire__Msg *m = NULL;

    assert_int_equal(carry(p->client, p->coordinator, piece, &m, &err), 0);
    assert_int_equal(carry(p->coordinator, p->client, piece, &m, &err), 0);
    assert_true(wire_is_open(p->client));
    assert_int_equal(carry(p->client, p->coordinator, piece, &m, &err), 0);
    assert_true(wire_is_open(p->coordinator));
}

static void test_both_ways(void **state)
{
    struct pair *p = *state;
    struct err err = {0};
    Wire__Msg *m = NULL;

    shake_hands(p, 1000);
    for (uint32_t i = 1; i < 50; i++) {
        put_text(p->client, i, i * 37, 'c');
        assert_int_equal(carry(p->client, p->coordinator, 7, &m, &err), 1);
        expect_text(m, i, i * 37, 'c');
        put_text(p->coordinator, i, i, 'k');
        assert_int_equal(carry(p->coordinator, p->client, 1, &m, &err), 1);
        expect_text(m, i, i, 'k');
    }
}

static void test_byte_by_byte(void **state)
{
    shake_hands(*state, 1);
}

static void test_early_message_waits(void **state)
{
    struct pair *p = *state;
    struct err err = {0};
    Wire__Msg *m = NULL;

    put_text(p->client, 5, 10, 'e'); /* before anything was said */
    assert_int_equal(carry(p->client, p->coordinator, 999, &m, &err), 0);
    assert_int_equal(carry(p->coordinator, p->client, 999, &m, &err), 0);
    assert_int_equal(carry(p->client, p->coordinator, 9999, &m, &err), 1);
    expect_text(m, 5, 10, 'e');
}

static void test_nothing_is_readable(void **state)
{
    struct pair *p = *state;
    const unsigned char *data;
    size_t len;

    shake_hands(p, 1000);
    put_text(p->client, 1, 100, 'Q');
    len = wire_output(p->client, &data);
    assert_true(len > 100);
    assert_null(memmem(data, len, "QQQQ", 4));
}

static void test_large_messages(void **state)
{
    struct pair *p = *state;
    struct err err = {0};
    Wire__Msg *m = NULL, big = WIRE__MSG__INIT;
    Wire__Text text = WIRE__TEXT__INIT;
    size_t len = WIRE_MSG_MAX - 100;

    shake_hands(p, 1000);
    put_text(p->client, 1, len, 'l');
    assert_int_equal(carry(p->client, p->coordinator, 65536, &m, &err), 1);
    expect_text(m, 1, len, 'l');
    text.text.len = WIRE_MSG_MAX;
    text.text.data = calloc(1, WIRE_MSG_MAX);
    big.body_case = WIRE__MSG__BODY_TEXT;
    big.text = &text;
    assert_int_equal(wire_put(p->client, &big, &err), -EMSGSIZE);
    free(text.text.data);
    put_text(p->client, 2, 3, 's'); /* and it goes on */
    assert_int_equal(carry(p->client, p->coordinator, 65536, &m, &err), 1);
    expect_text(m, 2, 3, 's');
}

static void test_other_key(void **state)
{
    struct pair *p = *state;
    struct wire *stranger = wire_new(WIRE_COORDINATOR, other_key);
    struct err err = {0};
    Wire__Msg *m = NULL;

    assert_int_equal(carry(p->client, stranger, 1000, &m, &err), 0);
    assert_int_equal(carry(stranger, p->client, 1000, &m, &err), -EACCES);
    assert_non_null(strstr(err.msg, "another"));
    assert_false(wire_is_open(p->client));
    wire_free(stranger);
}

/* A client that does not check the coordinator's proof still can't give its own. */
static void test_forged_proof(void **state)
{
    struct pair *p = *state;
    struct err err = {0};
    Wire__Msg *m = NULL;
    const unsigned char *data;
    unsigned char frame[300];
    size_t len;

    assert_int_equal(carry(p->client, p->coordinator, 1000, &m, &err), 0);
    assert_int_equal(carry(p->coordinator, p->client, 1000, &m, &err), 0);
    len = wire_output(p->client, &data);
    assert_true(len < sizeof(frame));
    memcpy(frame, data, len);
    frame[len - 1] ^= 1;
    assert_int_equal(wire_feed(p->coordinator, frame, len, &err), 0);
    assert_int_equal(wire_next(p->coordinator, &m, &err), -EACCES);
    assert_int_equal(wire_next(p->coordinator, &m, &err), -EBADMSG); /* and stays closed */
}

/* Any changed bit of a sealed frame is noticed (or, in its length, waits for more or is too large). */
static void test_altered_frames(void **state)
{
    struct pair *p = *state;
    const unsigned char *data;
    unsigned char frame[300];
    struct err err = {0};
    size_t len;

    shake_hands(p, 1000);
    put_text(p->client, 1, 100, 'a');
    len = wire_output(p->client, &data);
    memcpy(frame, data, len);
    for (size_t bit = 0; bit < len * 8; bit++) {
        Wire__Connection c = WIRE__CONNECTION__INIT;
        struct wire *copy;
        Wire__Msg *m = NULL;
        int r;
        assert_int_equal(wire_export(p->coordinator, &c, &err), 0);
        copy = wire_import(&c, &err);
        frame[bit / 8] ^= (unsigned char)(1 << bit % 8);
        assert_int_equal(wire_feed(copy, frame, len, &err), 0);
        r = wire_next(copy, &m, &err);
        assert_true(r == -EBADMSG || (r == 0 && bit < 32));
        frame[bit / 8] ^= (unsigned char)(1 << bit % 8);
        wire_free(copy);
    }
}

static void test_replay(void **state)
{
    struct pair *p = *state;
    const unsigned char *data;
    unsigned char frame[300];
    struct err err = {0};
    Wire__Msg *m = NULL;
    size_t len;

    shake_hands(p, 1000);
    put_text(p->client, 1, 10, 'r');
    len = wire_output(p->client, &data);
    memcpy(frame, data, len);
    assert_int_equal(carry(p->client, p->coordinator, 1000, &m, &err), 1);
    expect_text(m, 1, 10, 'r');
    assert_int_equal(wire_feed(p->coordinator, frame, len, &err), 0);
    assert_int_equal(wire_next(p->coordinator, &m, &err), -EBADMSG);
}

static void test_no_memory_on_a_length(void **state)
{
    static const unsigned char bytes[] = {0xff, 0xff, 0xff, 0x7f, 1, 2, 3};
    struct pair *p = *state;
    struct err err = {0};
    Wire__Msg *m = NULL;

    assert_int_equal(wire_feed(p->coordinator, bytes, sizeof(bytes), &err), 0);
    assert_int_equal(wire_next(p->coordinator, &m, &err), -EPROTO);
}

static void test_another_version(void **state)
{
    struct pair *p = *state;
    Wire__Hello hello = WIRE__HELLO__INIT;
    unsigned char nonce[32] = {0}, frame[300];
    struct err err = {0};
    Wire__Msg *m = NULL;
    size_t len;

    hello.magic = 0x31504344;
    hello.version = WIRE_VERSION + 1;
    hello.nonce = (ProtobufCBinaryData){sizeof(nonce), nonce};
    len = wire__hello__pack(&hello, frame + 4);
    memcpy(frame, (unsigned char[]){(unsigned char)len, 0, 0, 0}, 4);
    assert_int_equal(wire_feed(p->coordinator, frame, len + 4, &err), 0);
    assert_int_equal(wire_next(p->coordinator, &m, &err), -EPROTONOSUPPORT);
    assert_non_null(strstr(err.msg, "version 2"));
}

static void test_handing_over(void **state)
{
    struct pair *p = *state;
    Wire__Connection c = WIRE__CONNECTION__INIT;
    struct err err = {0};
    struct wire *heir;
    Wire__Msg *m = NULL;
    const unsigned char *data;
    size_t len;

    assert_int_equal(wire_export(p->client, &c, &err), -EAGAIN); /* not open yet */
    shake_hands(p, 1000);
    put_text(p->client, 1, 10, 'x');
    assert_int_equal(carry(p->client, p->coordinator, 1000, &m, &err), 1);
    expect_text(m, 1, 10, 'x');
    put_text(p->coordinator, 9, 20, 'y'); /* half of it has come */
    len = wire_output(p->coordinator, &data);
    assert_int_equal(wire_feed(p->client, data, len / 2, &err), 0);
    wire_sent(p->coordinator, len / 2);
    assert_int_equal(wire_export(p->client, &c, &err), 0);
    heir = wire_import(&c, &err);
    assert_non_null(heir);
    assert_int_equal(carry(p->coordinator, heir, 1000, &m, &err), 1);
    expect_text(m, 9, 20, 'y');
    put_text(heir, 2, 10, 'z');
    assert_int_equal(carry(heir, p->coordinator, 1000, &m, &err), 1);
    expect_text(m, 2, 10, 'z');
    wire_free(heir);
    c.send_key.len = 31;
    assert_null(wire_import(&c, &err));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_both_ways, setup, teardown),
        cmocka_unit_test_setup_teardown(test_byte_by_byte, setup, teardown),
        cmocka_unit_test_setup_teardown(test_early_message_waits, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nothing_is_readable, setup, teardown),
        cmocka_unit_test_setup_teardown(test_large_messages, setup, teardown),
        cmocka_unit_test_setup_teardown(test_other_key, setup, teardown),
        cmocka_unit_test_setup_teardown(test_forged_proof, setup, teardown),
        cmocka_unit_test_setup_teardown(test_altered_frames, setup, teardown),
        cmocka_unit_test_setup_teardown(test_replay, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_memory_on_a_length, setup, teardown),
        cmocka_unit_test_setup_teardown(test_another_version, setup, teardown),
        cmocka_unit_test_setup_teardown(test_handing_over, setup, teardown),
    };

    return cmocka_run_group_tests_name("coordinator_wire", tests, NULL, NULL);
}
