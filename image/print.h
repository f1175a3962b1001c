/*
 * Messages as text for people and as JSON for programs, whatever their type. What an image holds may come
 * from anybody, so nothing of it reaches a terminal or a JSON parser unescaped.
 */
#ifndef IMAGE_PRINT_H
#define IMAGE_PRINT_H

#include <stdbool.h>
#include <stdio.h>

#include <jansson.h>

#include "image/reflect.h"

/* Where to stop, so that a record stays readable; 0: nowhere. */
struct print_limits {
    size_t elements; /* of a repeated field */
    size_t bytes;    /* of a string or blob */
};

/* Characters that can't do anything to a terminal as they are, others as \xHH. */
void print_text(FILE *out, const void *bytes, size_t len);

/*
 * One line without its end: name=value for all fields that say something, but those called `skip` (NULL
 * or a list that ends with NULL). Lists in [], messages in {}.
 */
void print_fields(FILE *out, const ProtobufCMessage *m, const char *const *skip,
                  const struct print_limits *limits);

/* 1234 -> "1.2 KiB". Returns buf. */
const char *print_size(char buf[16], uint64_t bytes);

/*
 * An object with all fields. Bytes are a string when they are printable UTF-8, else {"hex": "…"}; numbers
 * that do not fit a signed 64-bit integer are strings. NULL when memory is out. The caller owns it.
 */
json_t *print_json(const ProtobufCMessage *m);
json_t *print_json_bytes(const void *bytes, size_t len); /* a single value, by the same rule */

#endif
