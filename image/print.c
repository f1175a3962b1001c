/*
 * See print.h. Numbers: there is no telling an address from a count by type, so large unsigned numbers are
 * hexadecimal unless the field's name ends like that of a size or a time. File modes are octal.
 */
#include "image/print.h"

#include <inttypes.h>
#include <string.h>

#include "base/util.h"

/* Bytes of the printable character that begins at s, or 0: a control, or not UTF-8. */
static size_t printable(const uint8_t *s, size_t len)
{
    size_t n = *s < 0x80 ? 1 : *s < 0xc2 ? 0 : *s < 0xe0 ? 2 : *s < 0xf0 ? 3 : *s < 0xf5 ? 4 : 0;
    uint32_t c = n == 1 ? *s : *s & (0x7fu >> n);

    if (!n || n > len)
        return 0;
    for (size_t i = 1; i < n; i++) {
        if ((s[i] & 0xc0) != 0x80)
            return 0;
        c = c << 6 | (s[i] & 0x3f);
    }
    if (c < 0x20 || (c >= 0x7f && c < 0xa0) || (c >= 0xd800 && c < 0xe000) || c > 0x10ffff)
        return 0;
    if ((n == 3 && c < 0x800) || (n == 4 && c < 0x10000))
        return 0;
    /* Line and paragraph separators and what turns the direction of writing around. */
    if ((c >= 0x2028 && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069))
        return 0;
    return n;
}

void print_text(FILE *out, const void *bytes, size_t len)
{
    const uint8_t *s = bytes;

    while (len) {
        size_t n = printable(s, len);

        if (n && *s != '\\')
            fwrite(s, 1, n, out);
        else
            fprintf(out, "\\x%02x", *s);
        s += n ? n : 1;
        len -= n ? n : 1;
    }
}

const char *print_size(char buf[16], uint64_t bytes)
{
    static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double v = (double)bytes;
    size_t i = 0;

    for (; v >= 1000 && i + 1 < ARRAY_SIZE(units); i++)
        v /= 1024;
    snprintf(buf, 16, i ? "%.1f %s" : "%.0f %s", v, units[i]);
    return buf;
}

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);

    return n >= m && !strcmp(s + n - m, end);
}

static bool is_quantity(const char *name)
{
    static const char *const ends[] = {"_ns",   "time", "size",       "len", "bytes",
                                       "count", "ino",  "generation", "pos"};

    for (size_t i = 0; i < ARRAY_SIZE(ends); i++)
        if (ends_with(name, ends[i]))
            return true;
    return false;
}

static void print_bytes(FILE *out, const uint8_t *s, size_t len, size_t limit)
{
    size_t shown = limit && len > limit ? limit : len, text = 0;

    for (size_t i = 0; i < shown; i++)
        text += (s[i] >= 0x20 && s[i] < 0x7f) || s[i] == '\n';
    if (text * 4 >= shown * 3) {
        fputc('"', out);
        print_text(out, s, shown);
        fputc('"', out);
    } else {
        for (size_t i = 0; i < shown; i++)
            fprintf(out, "%02x", s[i]);
    }
    if (shown < len)
        fprintf(out, "…(%zu bytes)", len);
}

static void print_value(FILE *out, const char *name, const struct reflect_value *v,
                        const struct print_limits *limits)
{
    switch (v->type) {
    case REFLECT_INT:
        fprintf(out, "%" PRId64, v->i);
        return;
    case REFLECT_UINT:
        if (!strcmp(name, "mode") || !strcmp(name, "umask"))
            fprintf(out, "0%" PRIo64, v->u);
        else
            fprintf(out, v->u >= 0x100000 && !is_quantity(name) ? "0x%" PRIx64 : "%" PRIu64, v->u);
        return;
    case REFLECT_BOOL:
        fputs(v->u ? "yes" : "no", out);
        return;
    case REFLECT_DOUBLE:
        fprintf(out, "%g", v->d);
        return;
    case REFLECT_BYTES:
        print_bytes(out, v->bytes, v->len, limits->bytes);
        return;
    case REFLECT_MESSAGE:
    default:
        fputc('{', out);
        print_fields(out, v->message, NULL, limits);
        fputc('}', out);
        return;
    }
}

static void print_field(FILE *out, const ProtobufCMessage *m, const ProtobufCFieldDescriptor *f, size_t n,
                        const struct print_limits *limits)
{
    bool list = f->label == PROTOBUF_C_LABEL_REPEATED;
    size_t shown = limits->elements && n > limits->elements ? limits->elements : n;

    fprintf(out, "%s=%s", f->name, list ? "[" : "");
    for (size_t i = 0; i < shown; i++) {
        struct reflect_value v = reflect_get(m, f, i);

        fputs(i ? " " : "", out);
        print_value(out, f->name, &v, limits);
    }
    if (shown < n)
        fprintf(out, " …%zu more", n - shown);
    fputs(list ? "]" : "", out);
}

static bool skipped(const char *name, const char *const *skip)
{
    for (; skip && *skip; skip++)
        if (!strcmp(name, *skip))
            return true;
    return false;
}

void print_fields(FILE *out, const ProtobufCMessage *m, const char *const *skip,
                  const struct print_limits *limits)
{
    const char *space = "";

    for (unsigned i = 0; i < m->descriptor->n_fields; i++) {
        const ProtobufCFieldDescriptor *f = &m->descriptor->fields[i];
        size_t n = reflect_count(m, f);
        struct reflect_value v;

        if (!n || skipped(f->name, skip))
            continue;
        v = reflect_get(m, f, 0);
        if (f->label != PROTOBUF_C_LABEL_REPEATED && reflect_is_default(&v))
            continue;
        fputs(space, out);
        space = " ";
        print_field(out, m, f, n, limits);
    }
}

/* ---- JSON ---- */

json_t *print_json_bytes(const void *bytes, size_t len)
{
    const uint8_t *s = bytes;
    static const char digits[] = "0123456789abcdef";
    _cleanup_free_ char *hex = NULL;
    size_t i = 0, n = 1;

    while (i < len && (n = s[i] == '\n' || s[i] == '\t' ? 1 : printable(s + i, len - i)))
        i += n;
    if (i >= len)
        return json_stringn_nocheck(len ? (const char *)s : "", len);
    hex = malloc(len * 2 + 1);
    if (!hex)
        return NULL;
    for (i = 0; i < len; i++) {
        hex[2 * i] = digits[s[i] >> 4];
        hex[2 * i + 1] = digits[s[i] & 15];
    }
    return json_pack("{s:s#}", "hex", hex, (int)(2 * len));
}

static json_t *json_unsigned(uint64_t u)
{
    char text[24];

    if (u <= INT64_MAX)
        return json_integer((json_int_t)u);
    snprintf(text, sizeof(text), "%" PRIu64, u);
    return json_string(text);
}

static json_t *json_value(const struct reflect_value *v)
{
    switch (v->type) {
    case REFLECT_INT:
        return json_integer(v->i);
    case REFLECT_UINT:
        return json_unsigned(v->u);
    case REFLECT_BOOL:
        return json_boolean(v->u);
    case REFLECT_DOUBLE:
        return json_real(v->d); /* NULL for what JSON can't say: infinity */
    case REFLECT_BYTES:
        return print_json_bytes(v->bytes, v->len);
    case REFLECT_MESSAGE:
    default:
        return print_json(v->message);
    }
}

static json_t *json_list(const ProtobufCMessage *m, const ProtobufCFieldDescriptor *f, size_t n)
{
    json_t *list = json_array();

    for (size_t i = 0; list && i < n; i++) {
        struct reflect_value v = reflect_get(m, f, i);

        if (json_array_append_new(list, json_value(&v)) < 0) {
            json_decref(list);
            list = NULL;
        }
    }
    return list;
}

json_t *print_json(const ProtobufCMessage *m)
{
    json_t *object = json_object(), *value;

    for (unsigned i = 0; object && i < m->descriptor->n_fields; i++) {
        const ProtobufCFieldDescriptor *f = &m->descriptor->fields[i];
        size_t n = reflect_count(m, f);

        if (f->label == PROTOBUF_C_LABEL_REPEATED) {
            value = json_list(m, f, n);
        } else if (n) {
            struct reflect_value v = reflect_get(m, f, 0);
            value = json_value(&v);
        } else {
            value = json_null();
        }
        if (json_object_set_new_nocheck(object, f->name, value) < 0) {
            json_decref(object);
            object = NULL;
        }
    }
    return object;
}
