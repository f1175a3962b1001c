/*
 * The reader of BTF (Documentation/bpf/btf.rst in the kernel): a list of types, each of a head of three words
 * and what its kind adds, which refer to each other by their numbers, beginning with 1.
 */
#include "tracer/btf.h"

#include <errno.h>
#include <linux/btf.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"

#define DEPTH_MAX 8

struct btf {
    char *text;
    const char *strings;
    size_t n_strings;
    const struct btf_type **types; /* [0] is void */
    uint32_t n_types;
};

void btf_free(struct btf *b)
{
    if (!b)
        return;
    free(b->text);
    free(b->types);
    free(b);
}

/* Bytes that follow the head of a type. */
static size_t extra(const struct btf_type *t)
{
    size_t n = BTF_INFO_VLEN(t->info);

    switch (BTF_INFO_KIND(t->info)) {
    case BTF_KIND_INT:
    case BTF_KIND_VAR:
    case BTF_KIND_DECL_TAG:
        return sizeof(uint32_t);
    case BTF_KIND_ARRAY:
        return sizeof(struct btf_array);
    case BTF_KIND_STRUCT:
    case BTF_KIND_UNION:
        return n * sizeof(struct btf_member);
    case BTF_KIND_ENUM:
        return n * sizeof(struct btf_enum);
    case BTF_KIND_FUNC_PROTO:
        return n * sizeof(struct btf_param);
    case BTF_KIND_DATASEC:
        return n * sizeof(struct btf_var_secinfo);
    case BTF_KIND_ENUM64:
        return n * sizeof(struct btf_enum64);
    default:
        return 0;
    }
}

static int index_types(struct btf *b, const char *at, size_t n, struct err *err)
{
    size_t cap = 0;

    do {
        const struct btf_type **more = grow(b->types, b->n_types, &cap, sizeof(*more));
        if (!more)
            return err_set(err, ENOMEM, "out of memory");
        b->types = more;
        b->types[b->n_types++] = NULL;
        if (b->n_types > 1) {
            const struct btf_type *t = (const void *)at;
            size_t size = sizeof(*t);
            if (n < size || n < (size += extra(t)))
                return err_set(err, EINVAL, "the kernel's description of its types is cut off");
            b->types[b->n_types - 1] = t;
            at += size;
            n -= size;
        }
    } while (n);
    return 0;
}

int btf_parse(char *text, size_t n, struct btf **out, struct err *err)
{
    struct btf *b = calloc(1, sizeof(*b));
    const struct btf_header *h = (const void *)text;

    if (!b) {
        free(text);
        return err_set(err, ENOMEM, "out of memory");
    }
    b->text = text;
    if (n < sizeof(*h) || h->magic != BTF_MAGIC || h->hdr_len > n || (h->hdr_len + h->type_off) % 4 ||
        h->type_off > n - h->hdr_len || h->type_len > n - h->hdr_len - h->type_off ||
        h->str_off > n - h->hdr_len || h->str_len > n - h->hdr_len - h->str_off || !h->str_len ||
        text[h->hdr_len + h->str_off + h->str_len - 1]) {
        btf_free(b);
        return err_set(err, EINVAL, "the kernel's description of its types makes no sense");
    }
    b->strings = text + h->hdr_len + h->str_off;
    b->n_strings = h->str_len;
    if (index_types(b, text + h->hdr_len + h->type_off, h->type_len, err) < 0) {
        btf_free(b);
        return -err->code;
    }
    *out = b;
    return 0;
}

int btf_open(struct btf **b, struct err *err)
{
    char *text;
    size_t n;
    int r = read_file(-1, "/sys/kernel/btf/vmlinux", &text, &n);

    if (r < 0)
        return err_set(err, -r, "/sys/kernel/btf/vmlinux: %s", strerror(-r));
    return btf_parse(text, n, b, err);
}

static const char *name_at(const struct btf *b, uint32_t offset)
{
    return offset < b->n_strings ? b->strings + offset : "";
}

static bool has_members(const struct btf_type *t)
{
    return t && (BTF_INFO_KIND(t->info) == BTF_KIND_STRUCT || BTF_INFO_KIND(t->info) == BTF_KIND_UNION);
}

/* In bits. */
static bool find(const struct btf *b, const struct btf_type *t, const char *member, int depth, uint32_t *bits)
{
    const struct btf_member *m = (const void *)(t + 1);

    for (uint32_t i = 0; depth < DEPTH_MAX && i < BTF_INFO_VLEN(t->info); i++) {
        uint32_t at = BTF_INFO_KFLAG(t->info) ? BTF_MEMBER_BIT_OFFSET(m[i].offset) : m[i].offset;
        const struct btf_type *inner = m[i].type < b->n_types ? b->types[m[i].type] : NULL;
        if (!strcmp(name_at(b, m[i].name_off), member)) {
            *bits = at;
            return true;
        }
        if (!*name_at(b, m[i].name_off) && has_members(inner) && find(b, inner, member, depth + 1, bits)) {
            *bits += at;
            return true;
        }
    }
    return false;
}

int btf_offset(const struct btf *b, const char *structure, const char *member, uint32_t *offset,
               struct err *err)
{
    uint32_t bits;

    for (uint32_t i = 1; i < b->n_types; i++) {
        const struct btf_type *t = b->types[i];
        if (BTF_INFO_KIND(t->info) != BTF_KIND_STRUCT || strcmp(name_at(b, t->name_off), structure) != 0 ||
            !find(b, t, member, 0, &bits) || bits % 8)
            continue;
        *offset = bits / 8;
        return 0;
    }
    return err_set(err, ENOENT, "this kernel has no %s.%s", structure, member);
}
