/*
 * Messages without knowing their type: the fields of any protobuf message as plain values, so that what
 * prints, searches or checks records works for kinds that do not exist yet.
 */
#ifndef IMAGE_REFLECT_H
#define IMAGE_REFLECT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <protobuf-c/protobuf-c.h>

enum reflect_type { REFLECT_INT, REFLECT_UINT, REFLECT_BOOL, REFLECT_DOUBLE, REFLECT_BYTES, REFLECT_MESSAGE };

/* A value that lives as long as its message. */
struct reflect_value {
    enum reflect_type type;
    int64_t i;
    uint64_t u; /* also REFLECT_BOOL */
    double d;
    const uint8_t *bytes; /* strings too; not terminated */
    size_t len;
    const ProtobufCMessage *message;
};

/* How many values a field has: any number when repeated, else 0 (absent) or 1. */
size_t reflect_count(const ProtobufCMessage *m, const ProtobufCFieldDescriptor *f);

/* The ith of them. */
struct reflect_value reflect_get(const ProtobufCMessage *m, const ProtobufCFieldDescriptor *f, size_t i);

/* Whether a value is what an absent one counts as: 0, false, no bytes. */
bool reflect_is_default(const struct reflect_value *v);

/* The one value of a field by name; false when there is no such field or it is absent or repeated. */
bool reflect_find(const ProtobufCMessage *m, const char *name, struct reflect_value *v);

/* The same for an unsigned number; 0 when it is not there. */
uint64_t reflect_uint(const ProtobufCMessage *m, const char *name);

#endif
