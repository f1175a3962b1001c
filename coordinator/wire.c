/*
 * The codec of wire.h. Everything a peer sends goes through wire_next(), so this file is the whole attack
 * surface of somebody who does not have the key: before the handshake is over only two fixed little messages
 * are parsed, and no memory is taken on the word of a length.
 */
#include "coordinator/wire.h"

#include <errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#define MAGIC      0x31504344u /* "DCP1" */
#define NONCE_SIZE 32
#define LEN_SIZE   4
#define TAG_SIZE   crypto_aead_xchacha20poly1305_ietf_ABYTES
#define FRAME_MAX  (WIRE_MSG_MAX + TAG_SIZE)

enum state { STATE_HELLO, STATE_PROOF, STATE_OPEN, STATE_BROKEN };

struct buffer {
    unsigned char *data;
    size_t off, len, cap; /* the contents are at data + off, len bytes */
};

struct wire {
    enum wire_side side;
    enum state state;
    unsigned char secret[WIRE_KEY_SIZE];
    unsigned char client_nonce[NONCE_SIZE], server_nonce[NONCE_SIZE];
    unsigned char send_key[WIRE_KEY_SIZE], recv_key[WIRE_KEY_SIZE];
    uint64_t send_count, recv_count;
    struct buffer in, out;
    struct buffer held; /* frames in the clear that wait for the handshake's end */
};

static int buffer_room(struct buffer *b, size_t more)
{
    unsigned char *p;
    size_t cap = b->cap ? b->cap : 4096;

    if (b->off && (b->len == 0 || b->off + b->len + more > b->cap)) {
        memmove(b->data, b->data + b->off, b->len);
        b->off = 0;
    }
    if (b->len + more <= b->cap)
        return 0;
    while (cap < b->len + more)
        cap *= 2;
    p = realloc(b->data, cap);
    if (!p)
        return -ENOMEM;
    b->data = p;
    b->cap = cap;
    return 0;
}

static int buffer_add(struct buffer *b, const void *data, size_t len)
{
    if (len == 0)
        return 0;
    if (buffer_room(b, len) < 0)
        return -ENOMEM;
    memcpy(b->data + b->off + b->len, data, len);
    b->len += len;
    return 0;
}

static void buffer_drop(struct buffer *b, size_t n)
{
    b->off += n;
    b->len -= n;
    if (b->len == 0 && b->cap > (1u << 16)) { /* a rare large message need not keep its memory */
        free(b->data);
        memset(b, 0, sizeof(*b));
    }
}

static void put_le32(unsigned char *to, uint32_t v)
{
    for (int i = 0; i < 4; i++)
        to[i] = (unsigned char)(v >> (8 * i));
}

static uint32_t get_le32(const unsigned char *from)
{
    return (uint32_t)from[0] | (uint32_t)from[1] << 8 | (uint32_t)from[2] << 16 | (uint32_t)from[3] << 24;
}

/* Keyed hash of label and both nonces: the proofs and the keys differ by their label. */
static void derive(const struct wire *w, const char *label, unsigned char out[WIRE_KEY_SIZE])
{
    crypto_generichash_state state;

    crypto_generichash_init(&state, w->secret, sizeof(w->secret), WIRE_KEY_SIZE);
    crypto_generichash_update(&state, (const unsigned char *)label, strlen(label) + 1);
    crypto_generichash_update(&state, w->client_nonce, NONCE_SIZE);
    crypto_generichash_update(&state, w->server_nonce, NONCE_SIZE);
    crypto_generichash_final(&state, out, WIRE_KEY_SIZE);
}

static void proof(const struct wire *w, const char *label, unsigned char out[crypto_auth_BYTES])
{
    unsigned char key[WIRE_KEY_SIZE], nonces[2 * NONCE_SIZE];

    derive(w, label, key);
    memcpy(nonces, w->client_nonce, NONCE_SIZE);
    memcpy(nonces + NONCE_SIZE, w->server_nonce, NONCE_SIZE);
    crypto_auth(out, nonces, sizeof(nonces), key);
    sodium_memzero(key, sizeof(key));
}

static int put_hello(struct wire *w, const unsigned char *nonce, const char *proof_label)
{
    unsigned char own_proof[crypto_auth_BYTES], frame[LEN_SIZE + WIRE_HELLO_MAX];
    Wire__Hello hello = WIRE__HELLO__INIT;
    size_t len;

    hello.magic = MAGIC;
    hello.version = WIRE_VERSION;
    if (nonce)
        hello.nonce = (ProtobufCBinaryData){NONCE_SIZE, (unsigned char *)nonce};
    if (proof_label) {
        proof(w, proof_label, own_proof);
        hello.proof = (ProtobufCBinaryData){sizeof(own_proof), own_proof};
    }
    len = wire__hello__pack(&hello, frame + LEN_SIZE);
    put_le32(frame, (uint32_t)len);
    return buffer_add(&w->out, frame, LEN_SIZE + len);
}

struct wire *wire_new(enum wire_side side, const unsigned char key[WIRE_KEY_SIZE])
{
    struct wire *w;

    if (sodium_init() < 0 || !(w = calloc(1, sizeof(*w))))
        return NULL;
    w->side = side;
    memcpy(w->secret, key, WIRE_KEY_SIZE);
    randombytes_buf(side == WIRE_CLIENT ? w->client_nonce : w->server_nonce, NONCE_SIZE);
    if (side == WIRE_CLIENT && put_hello(w, w->client_nonce, NULL) < 0) {
        wire_free(w);
        return NULL;
    }
    return w;
}

void wire_free(struct wire *w)
{
    if (!w)
        return;
    free(w->in.data);
    free(w->out.data);
    free(w->held.data);
    sodium_memzero(w, sizeof(*w));
    free(w);
}

int wire_is_open(const struct wire *w)
{
    return w->state == STATE_OPEN;
}

int wire_feed(struct wire *w, const void *data, size_t len, struct err *err)
{
    if (w->in.len > LEN_SIZE + FRAME_MAX)
        return err_set(err, EMSGSIZE, "more bytes than a message can have");
    if (buffer_add(&w->in, data, len) < 0)
        return err_set(err, ENOMEM, "out of memory");
    return 0;
}

static void frame_nonce(uint64_t count, unsigned char nonce[crypto_aead_xchacha20poly1305_ietf_NPUBBYTES])
{
    memset(nonce, 0, crypto_aead_xchacha20poly1305_ietf_NPUBBYTES);
    for (int i = 0; i < 8; i++)
        nonce[i] = (unsigned char)(count >> (8 * i));
}

static int put_sealed(struct wire *w, const unsigned char *plain, size_t len)
{
    unsigned char nonce[crypto_aead_xchacha20poly1305_ietf_NPUBBYTES], *to;

    if (buffer_room(&w->out, LEN_SIZE + len + TAG_SIZE) < 0)
        return -ENOMEM;
    to = w->out.data + w->out.off + w->out.len;
    put_le32(to, (uint32_t)(len + TAG_SIZE));
    frame_nonce(w->send_count++, nonce);
    crypto_aead_xchacha20poly1305_ietf_encrypt(to + LEN_SIZE, NULL, plain, len, NULL, 0, NULL, nonce,
                                               w->send_key);
    w->out.len += LEN_SIZE + len + TAG_SIZE;
    return 0;
}

/* Both ends are known to each other: the session's keys, and what waited for them. */
static int open_session(struct wire *w)
{
    int client = w->side == WIRE_CLIENT;

    derive(w, "dmtcp client to coordinator", client ? w->send_key : w->recv_key);
    derive(w, "dmtcp coordinator to client", client ? w->recv_key : w->send_key);
    sodium_memzero(w->secret, sizeof(w->secret));
    w->state = STATE_OPEN;
    while (w->held.len > 0) {
        const unsigned char *frame = w->held.data + w->held.off;
        uint32_t len = get_le32(frame);
        if (put_sealed(w, frame + LEN_SIZE, len) < 0)
            return -ENOMEM;
        buffer_drop(&w->held, LEN_SIZE + len);
    }
    return 0;
}

static int check_proof(const struct wire *w, const Wire__Hello *hello, const char *label)
{
    unsigned char want[crypto_auth_BYTES];

    proof(w, label, want);
    return hello->proof.len == sizeof(want) && sodium_memcmp(hello->proof.data, want, sizeof(want)) == 0;
}

static int client_got_hello(struct wire *w, const Wire__Hello *hello, struct err *err)
{
    if (hello->nonce.len != NONCE_SIZE)
        return err_set(err, EPROTO, "not a dmtcp coordinator");
    memcpy(w->server_nonce, hello->nonce.data, NONCE_SIZE);
    if (!check_proof(w, hello, "dmtcp coordinator's proof"))
        return err_set(err, EACCES, "it has another key: another user's coordinator");
    if (put_hello(w, NULL, "dmtcp client's proof") < 0 || open_session(w) < 0)
        return err_set(err, ENOMEM, "out of memory");
    return 0;
}

static int coordinator_got_hello(struct wire *w, const Wire__Hello *hello, struct err *err)
{
    if (w->state == STATE_HELLO) {
        if (hello->nonce.len != NONCE_SIZE)
            return err_set(err, EPROTO, "not a dmtcp client");
        memcpy(w->client_nonce, hello->nonce.data, NONCE_SIZE);
        w->state = STATE_PROOF;
        if (put_hello(w, w->server_nonce, "dmtcp coordinator's proof") < 0)
            return err_set(err, ENOMEM, "out of memory");
        return 0;
    }
    if (!check_proof(w, hello, "dmtcp client's proof"))
        return err_set(err, EACCES, "it has another key: another user's program");
    if (open_session(w) < 0)
        return err_set(err, ENOMEM, "out of memory");
    return 0;
}

static int got_hello(struct wire *w, const unsigned char *frame, size_t len, struct err *err)
{
    Wire__Hello *hello = wire__hello__unpack(NULL, len, frame);
    int r;

    if (!hello || hello->magic != MAGIC)
        r = err_set(err, EPROTO, "not a dmtcp %s", w->side == WIRE_CLIENT ? "coordinator" : "client");
    else if (hello->version != WIRE_VERSION)
        r = err_set(err, EPROTONOSUPPORT, "it speaks version %u of the protocol, this program version %d",
                    hello->version, WIRE_VERSION);
    else if (w->side == WIRE_CLIENT)
        r = client_got_hello(w, hello, err);
    else
        r = coordinator_got_hello(w, hello, err);
    if (hello)
        wire__hello__free_unpacked(hello, NULL);
    return r;
}

static int got_sealed(struct wire *w, unsigned char *frame, size_t len, Wire__Msg **msg, struct err *err)
{
    unsigned char nonce[crypto_aead_xchacha20poly1305_ietf_NPUBBYTES];
    unsigned long long plain_len = 0;

    frame_nonce(w->recv_count, nonce);
    if (len < TAG_SIZE || crypto_aead_xchacha20poly1305_ietf_decrypt(frame, &plain_len, NULL, frame, len,
                                                                     NULL, 0, nonce, w->recv_key) != 0)
        return err_set(err, EBADMSG, "a message was altered on its way");
    w->recv_count++;
    *msg = wire__msg__unpack(NULL, (size_t)plain_len, frame);
    if (!*msg)
        return err_set(err, EBADMSG, "a malformed message of %llu bytes", plain_len);
    return 1;
}

int wire_next(struct wire *w, Wire__Msg **msg, struct err *err)
{
    int r = 0;

    while (r == 0 && w->state != STATE_BROKEN) {
        size_t max = w->state == STATE_OPEN ? FRAME_MAX : WIRE_HELLO_MAX;
        unsigned char *frame;
        uint32_t len;
        if (w->in.len < LEN_SIZE)
            return 0;
        frame = w->in.data + w->in.off;
        len = get_le32(frame);
        if (len > max)
            r = w->state == STATE_OPEN ? err_set(err, EBADMSG, "a message of %u bytes is too large", len)
                                       : err_set(err, EPROTO, "not a dmtcp %s",
                                                 w->side == WIRE_CLIENT ? "coordinator" : "client");
        else if (w->in.len - LEN_SIZE < len)
            return 0;
        else if (w->state == STATE_OPEN)
            r = got_sealed(w, frame + LEN_SIZE, len, msg, err);
        else
            r = got_hello(w, frame + LEN_SIZE, len, err);
        if (r >= 0)
            buffer_drop(&w->in, LEN_SIZE + len);
    }
    if (r > 0)
        return r;
    if (r == 0) /* was broken before */
        return err_set(err, EBADMSG, "the connection is out of step");
    w->state = STATE_BROKEN;
    return r;
}

int wire_put(struct wire *w, const Wire__Msg *msg, struct err *err)
{
    size_t len = wire__msg__get_packed_size(msg);
    unsigned char *plain;
    int r;

    if (w->state == STATE_BROKEN)
        return err_set(err, EBADMSG, "the connection is out of step");
    if (len > WIRE_MSG_MAX)
        return err_set(err, EMSGSIZE, "a message of %zu bytes is too large", len);
    plain = malloc(LEN_SIZE + len);
    if (!plain)
        return err_set(err, ENOMEM, "out of memory");
    put_le32(plain, (uint32_t)len);
    wire__msg__pack(msg, plain + LEN_SIZE);
    if (w->state == STATE_OPEN)
        r = put_sealed(w, plain + LEN_SIZE, len);
    else
        r = buffer_add(&w->held, plain, LEN_SIZE + len);
    free(plain);
    return r < 0 ? err_set(err, ENOMEM, "out of memory") : 0;
}

size_t wire_output(const struct wire *w, const unsigned char **data)
{
    *data = w->out.len ? w->out.data + w->out.off : NULL;
    return w->out.len;
}

void wire_sent(struct wire *w, size_t n)
{
    buffer_drop(&w->out, n);
}

int wire_export(const struct wire *w, Wire__Connection *to, struct err *err)
{
    if (w->state != STATE_OPEN || w->out.len > 0)
        return err_set(err, EAGAIN, "the connection is not at rest");
    to->send_key = (ProtobufCBinaryData){WIRE_KEY_SIZE, (unsigned char *)w->send_key};
    to->recv_key = (ProtobufCBinaryData){WIRE_KEY_SIZE, (unsigned char *)w->recv_key};
    to->send_count = w->send_count;
    to->recv_count = w->recv_count;
    to->input = (ProtobufCBinaryData){w->in.len, w->in.len ? w->in.data + w->in.off : NULL};
    return 0;
}

struct wire *wire_import(const Wire__Connection *from, struct err *err)
{
    struct wire *w;

    if (from->send_key.len != WIRE_KEY_SIZE || from->recv_key.len != WIRE_KEY_SIZE ||
        from->input.len > LEN_SIZE + FRAME_MAX) {
        err_set(err, EINVAL, "not an exported connection");
        return NULL;
    }
    w = sodium_init() < 0 ? NULL : calloc(1, sizeof(*w));
    if (!w || buffer_add(&w->in, from->input.data, from->input.len) < 0) {
        err_set(err, ENOMEM, "out of memory");
        wire_free(w);
        return NULL;
    }
    w->side = WIRE_CLIENT;
    w->state = STATE_OPEN;
    memcpy(w->send_key, from->send_key.data, WIRE_KEY_SIZE);
    memcpy(w->recv_key, from->recv_key.data, WIRE_KEY_SIZE);
    w->send_count = from->send_count;
    w->recv_count = from->recv_count;
    return w;
}
