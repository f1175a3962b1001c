/*
 * Memory that lives as long as a checkpoint. Messages of protobuf-c are trees of many small pieces; they are
 * never freed one by one, so they come from blocks that are freed together.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tracer/ckpt.h"

#define BLOCK (64u << 10)

struct block {
    struct block *next;
    size_t size, used;
    char data[] __attribute__((aligned(16)));
};

struct arena {
    struct block *blocks; /* the first is the one that is filled */
};

struct arena *arena_new(void)
{
    return calloc(1, sizeof(struct arena));
}

void arena_free(struct arena *a)
{
    if (!a)
        return;
    while (a->blocks) {
        struct block *b = a->blocks;
        a->blocks = b->next;
        free(b);
    }
    free(a);
}

/* A block with room for n bytes. A large piece gets one of its own, behind the one that is being filled. */
static struct block *block_for(struct arena *a, size_t n)
{
    size_t size = n > BLOCK / 4 ? n : BLOCK;
    struct block *b = a->blocks;

    if (b && b->size - b->used >= n)
        return b;
    b = calloc(1, sizeof(*b) + size);
    if (!b)
        return NULL;
    b->size = size;
    if (size == BLOCK || !a->blocks) {
        b->next = a->blocks;
        a->blocks = b;
    } else {
        b->next = a->blocks->next;
        a->blocks->next = b;
    }
    return b;
}

void *arena_alloc(struct arena *a, size_t n)
{
    size_t want = (n + 15) & ~(size_t)15;
    struct block *b = want >= n ? block_for(a, want) : NULL;
    void *p;

    if (!b)
        return NULL;
    p = b->data + b->used;
    b->used += want;
    return p;
}

void *arena_dup(struct arena *a, const void *p, size_t n)
{
    void *copy = arena_alloc(a, n ? n : 1);

    if (copy && n)
        memcpy(copy, p, n);
    return copy;
}

char *arena_printf(struct arena *a, const char *fmt, ...)
{
    va_list ap;
    char *s = NULL;
    int n;

    va_start(ap, fmt);
    n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n >= 0)
        s = arena_alloc(a, (size_t)n + 1);
    if (!s)
        return NULL;
    va_start(ap, fmt);
    vsnprintf(s, (size_t)n + 1, fmt, ap);
    va_end(ap);
    return s;
}

/* The array has room for the next power of two above *n, so it moves whenever *n reaches one. */
void arena_push(struct arena *a, void ***array, size_t *n, void *item)
{
    if ((*n & (*n - 1)) == 0) {
        void **more = arena_alloc(a, (*n ? *n * 2 : 1) * sizeof(*more));
        if (!more)
            return;
        if (*n)
            memcpy(more, *array, *n * sizeof(*more));
        *array = more;
    }
    (*array)[(*n)++] = item;
}

ProtobufCBinaryData arena_bytes(struct arena *a, const void *p, size_t n)
{
    ProtobufCBinaryData b = {.data = arena_dup(a, p, n)};

    b.len = b.data ? n : 0;
    return b;
}

/* With the NUL behind it, which is not counted: so it can be printed. */
ProtobufCBinaryData arena_text(struct arena *a, const char *s)
{
    ProtobufCBinaryData b = arena_bytes(a, s, strlen(s) + 1);

    if (b.len)
        b.len--;
    return b;
}
