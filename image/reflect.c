/*
 * See reflect.h. protobuf-c describes a message by offsets into its structure; all arithmetic on them is
 * here.
 */
#include "image/reflect.h"

#include <string.h>

static const void *member(const ProtobufCMessage *m, unsigned offset)
{
    return (const char *)m + offset;
}

static const void *pointer(const ProtobufCMessage *m, const ProtobufCFieldDescriptor *f)
{
    return *(const void *const *)member(m, f->offset);
}

size_t reflect_count(const ProtobufCMessage *m, const ProtobufCFieldDescriptor *f)
{
    const void *quantifier = member(m, f->quantifier_offset);

    if (f->label == PROTOBUF_C_LABEL_REPEATED)
        return *(const size_t *)quantifier;
    if (f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF)
        if (*(const uint32_t *)quantifier != f->id)
            return 0;
    if (f->type == PROTOBUF_C_TYPE_MESSAGE || f->type == PROTOBUF_C_TYPE_STRING)
        return pointer(m, f) ? 1 : 0;
    if (f->label == PROTOBUF_C_LABEL_OPTIONAL && !(f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF))
        return *(const protobuf_c_boolean *)quantifier ? 1 : 0;
    return 1;
}

static struct reflect_value of_string(const char *s)
{
    return (struct reflect_value){
        .type = REFLECT_BYTES, .bytes = (const uint8_t *)s, .len = s ? strlen(s) : 0};
}

static struct reflect_value of_bytes(const ProtobufCBinaryData *b)
{
    return (struct reflect_value){.type = REFLECT_BYTES, .bytes = b->data, .len = b->len};
}

/* The ith element of an array, or the only value at p when i is 0. */
#define AT(type, p, i) (((const type *)(p))[i])

struct reflect_value reflect_get(const ProtobufCMessage *m, const ProtobufCFieldDescriptor *f, size_t i)
{
    const void *p = f->label == PROTOBUF_C_LABEL_REPEATED ? pointer(m, f) : member(m, f->offset);

    switch (f->type) {
    case PROTOBUF_C_TYPE_INT32:
    case PROTOBUF_C_TYPE_SINT32:
    case PROTOBUF_C_TYPE_SFIXED32:
    case PROTOBUF_C_TYPE_ENUM:
        return (struct reflect_value){.type = REFLECT_INT, .i = AT(int32_t, p, i)};
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_SFIXED64:
        return (struct reflect_value){.type = REFLECT_INT, .i = AT(int64_t, p, i)};
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_FIXED32:
        return (struct reflect_value){.type = REFLECT_UINT, .u = AT(uint32_t, p, i)};
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
        return (struct reflect_value){.type = REFLECT_UINT, .u = AT(uint64_t, p, i)};
    case PROTOBUF_C_TYPE_BOOL:
        return (struct reflect_value){.type = REFLECT_BOOL, .u = AT(protobuf_c_boolean, p, i) ? 1 : 0};
    case PROTOBUF_C_TYPE_FLOAT:
        return (struct reflect_value){.type = REFLECT_DOUBLE, .d = (double)AT(float, p, i)};
    case PROTOBUF_C_TYPE_DOUBLE:
        return (struct reflect_value){.type = REFLECT_DOUBLE, .d = AT(double, p, i)};
    case PROTOBUF_C_TYPE_STRING:
        return of_string(AT(char *, p, i));
    case PROTOBUF_C_TYPE_BYTES:
        return of_bytes(&AT(ProtobufCBinaryData, p, i));
    case PROTOBUF_C_TYPE_MESSAGE:
    default:
        return (struct reflect_value){.type = REFLECT_MESSAGE, .message = AT(ProtobufCMessage *, p, i)};
    }
}

bool reflect_is_default(const struct reflect_value *v)
{
    switch (v->type) {
    case REFLECT_INT:
        return !v->i;
    case REFLECT_UINT:
    case REFLECT_BOOL:
        return !v->u;
    case REFLECT_DOUBLE:
        return v->d == 0;
    case REFLECT_BYTES:
        return !v->len;
    case REFLECT_MESSAGE:
    default:
        return !v->message;
    }
}

bool reflect_find(const ProtobufCMessage *m, const char *name, struct reflect_value *v)
{
    const ProtobufCFieldDescriptor *f = protobuf_c_message_descriptor_get_field_by_name(m->descriptor, name);

    if (!f || f->label == PROTOBUF_C_LABEL_REPEATED || !reflect_count(m, f))
        return false;
    *v = reflect_get(m, f, 0);
    return true;
}

uint64_t reflect_uint(const ProtobufCMessage *m, const char *name)
{
    struct reflect_value v;

    if (!reflect_find(m, name, &v))
        return 0;
    return v.type == REFLECT_UINT || v.type == REFLECT_BOOL ? v.u
           : v.type == REFLECT_INT && v.i > 0               ? (uint64_t)v.i
                                                            : 0;
}
