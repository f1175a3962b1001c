/*
 * Fuzz target: bytes that arrive at a connection. The first byte chooses the end and the state it is in: a
 * stranger's bytes at the coordinator or at a client, what comes after an honest handshake, or frames that
 * are sealed with the right key but hold anything (a peer that has the key and is hostile or newer); or one
 * of the other messages that programs of ours hand to each other. The rest is cut into chunks by length
 * bytes, as a network would.
 */
#include <sodium.h>
#include <string.h>

#include "base/util.h"
#include "coordinator/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const unsigned char key[WIRE_KEY_SIZE] = "fuzzed";

static void drain(struct wire *w)
{
    const unsigned char *out;
    Wire__Msg *msg = NULL;
    struct err err;

    while (wire_next(w, &msg, &err) > 0) {
        struct err ignored;
        if (wire_put(w, msg, &ignored) < 0) /* what was parsed can be packed again */
            wire_sent(w, wire_output(w, &out));
        wire__msg__free_unpacked(msg, NULL);
    }
    wire_sent(w, wire_output(w, &out));
}

static void feed_chunks(struct wire *w, const uint8_t *data, size_t size)
{
    struct err err;

    while (size > 0) {
        size_t n = (size_t)data[0] + 1;
        data++;
        size--;
        n = n < size ? n : size;
        if (n && wire_feed(w, data, n, &err) < 0)
            break;
        drain(w);
        data += n;
        size -= n;
    }
}

static void stranger(enum wire_side side, const uint8_t *data, size_t size)
{
    struct wire *w = wire_new(side, key);

    if (w)
        feed_chunks(w, data, size);
    wire_free(w);
}

/* A connection whose keys are all zero. */
static struct wire *opened(void)
{
    static unsigned char zero[WIRE_KEY_SIZE];
    Wire__Connection c = WIRE__CONNECTION__INIT;
    struct err err;

    c.send_key = c.recv_key = (ProtobufCBinaryData){sizeof(zero), zero};
    return wire_import(&c, &err);
}

/* Each chunk as the contents of one frame that is sealed as it should be. */
static void sealed(const uint8_t *data, size_t size)
{
    static const unsigned char zero[WIRE_KEY_SIZE];
    unsigned char frame[4 + 65536 + crypto_aead_xchacha20poly1305_ietf_ABYTES];
    struct wire *w = opened();
    struct err err;

    for (uint64_t count = 0; w && size >= 2; count++) {
        unsigned char nonce[crypto_aead_xchacha20poly1305_ietf_NPUBBYTES] = {0};
        unsigned long long len = 0;
        size_t n = (size_t)data[0] | (size_t)data[1] << 8;
        data += 2;
        size -= 2;
        n = n < size ? n : size;
        memcpy(nonce, &count, sizeof(count));
        crypto_aead_xchacha20poly1305_ietf_encrypt(frame + 4, &len, data, n, NULL, 0, NULL, nonce, zero);
        for (int i = 0; i < 4; i++)
            frame[i] = (unsigned char)(len >> (8 * i));
        if (wire_feed(w, frame, 4 + (size_t)len, &err) < 0)
            break;
        drain(w);
        data += n;
        size -= n;
    }
    wire_free(w);
}

static void configuration(const uint8_t *data, size_t size)
{
    Wire__TracerConfig *config = wire__tracer_config__unpack(NULL, size, data);

    if (config)
        wire__tracer_config__free_unpacked(config, NULL);
}

static void connection(const uint8_t *data, size_t size)
{
    Wire__Connection *c = wire__connection__unpack(NULL, size, data);
    struct err err;

    if (!c)
        return;
    struct wire *w = wire_import(c, &err);
    if (w)
        drain(w);
    wire_free(w);
    wire__connection__free_unpacked(c, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct wire *w;

    if (size == 0 || sodium_init() < 0)
        return 0;
    switch (data[0] % 6) {
    case 0:
        stranger(WIRE_COORDINATOR, data + 1, size - 1);
        break;
    case 1:
        stranger(WIRE_CLIENT, data + 1, size - 1);
        break;
    case 2:
        w = opened();
        if (w)
            feed_chunks(w, data + 1, size - 1);
        wire_free(w);
        break;
    case 3:
        configuration(data + 1, size - 1);
        break;
    case 4:
        connection(data + 1, size - 1);
        break;
    default:
        sealed(data + 1, size - 1);
        break;
    }
    return 0;
}
