/*
 * Memory of a restart: kinds take what they note of an object from here and never free it; it goes all at once.
 * So an error may leave from anywhere without taking anything apart.
 */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "restorer/core.h"

struct kept {
    struct kept *next;
    max_align_t data[];
};

void *restore_alloc(struct restore *r, size_t size)
{
    struct kept *k = calloc(1, sizeof(*k) + size);

    if (!k)
        return NULL;
    k->next = r->kept;
    r->kept = k;
    return k->data;
}

char *restore_text(struct restore *r, const ProtobufCBinaryData *bytes)
{
    char *text = restore_alloc(r, bytes->len + 1);

    if (text && bytes->len)
        memcpy(text, bytes->data, bytes->len);
    return text;
}

void restore_free_kept(struct restore *r)
{
    for (struct kept *k = r->kept, *next; k; k = next) {
        next = k->next;
        free(k);
    }
    r->kept = NULL;
}
