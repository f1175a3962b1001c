/*
 * Framing of the protocol in wire.proto, without any input or output of its own: bytes go in,
 * messages come out, and the other way round. The coordinator drives it from its poll loop, client.c with
 * blocking calls, the tests and the fuzzer with arrays.
 *
 * A frame is a 32-bit little-endian length and that many bytes. The first frames are
 * the handshake (client Hello, coordinator Hello, client Hello: at most WIRE_HELLO_MAX bytes each); it proves
 * to both ends that the other one has the same 32-byte key. After it each frame is one Msg, encrypted with
 * XChaCha20-Poly1305 under a key for this connection and direction; the nonce counts frames, so a frame that
 * is changed, left out or repeated on the way is refused. Anything else than a well-formed frame is an error,
 * after which the connection can only be closed.
 */
#ifndef COORDINATOR_WIRE_H
#define COORDINATOR_WIRE_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "coordinator/wire.pb-c.h"

#define WIRE_VERSION   1
#define WIRE_KEY_SIZE  32
#define WIRE_HELLO_MAX 256         /* bytes in a handshake frame */
#define WIRE_MSG_MAX   (16u << 20) /* bytes in a message */

enum wire_side { WIRE_CLIENT, WIRE_COORDINATOR };

struct wire;

/* A new connection's codec. The client's has its Hello in the output at once. NULL: out of memory. */
struct wire *wire_new(enum wire_side side, const unsigned char key[WIRE_KEY_SIZE]);
void wire_free(struct wire *w);

/* The handshake is over (and the other end has the key). */
int wire_is_open(const struct wire *w);

/*
 * Hand in received bytes; they are copied. 0, or -EMSGSIZE when more is buffered
 * than the largest frame can have (the caller parses before it feeds on), -ENOMEM.
 */
int wire_feed(struct wire *w, const void *data, size_t len, struct err *err);

/*
 * Parse on: 1 and a message in *msg (the caller frees it with wire__msg__free_unpacked(msg, NULL)),
 * 0 when more bytes are needed, or a negative errno. -EPROTO: not our protocol; -EPROTONOSUPPORT: another
 * version of it; -EACCES: the other end has another key; -EBADMSG: a malformed or altered message.
 */
int wire_next(struct wire *w, Wire__Msg **msg, struct err *err);

/* Append a message to the output. May be called before the handshake ends: it is kept back until then. */
int wire_put(struct wire *w, const Wire__Msg *msg, struct err *err);

/* The output that waits to be sent, and "n bytes of it were". */
size_t wire_output(const struct wire *w, const unsigned char **data);
void wire_sent(struct wire *w, size_t n);

/* The state of an open connection, to go on with in another program; output must have been sent. */
int wire_export(const struct wire *w, Wire__Connection *to, struct err *err); /* points into w */
struct wire *wire_import(const Wire__Connection *from, struct err *err);

#endif
