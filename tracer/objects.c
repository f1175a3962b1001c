/*
 * The objects of a checkpoint: each kernel object is recorded once, however many processes have it. They are
 * found again by kind and identity in a hash table, and kept in the order of discovery, which is the order of
 * their ids.
 */
#include <string.h>

#include "tracer/ckpt.h"

struct entry {
    struct object *object;
    uint64_t hash;
};

struct index {
    struct entry *slots; /* open addressing; a power of two of them, at most half used */
    size_t n, used;
};

static uint64_t mix(uint64_t h, uint64_t v)
{
    h = (h ^ v) * 0x9e3779b97f4a7c15ull;
    return h ^ h >> 29;
}

static uint64_t identity_hash(const struct kind_ops *ops, uint64_t dev, uint64_t ino, const void *key,
                              size_t key_len)
{
    uint64_t h = mix(mix(ops->kind, dev), ino);

    for (size_t i = 0; i < key_len; i++)
        h = mix(h, ((const uint8_t *)key)[i]);
    return h;
}

static bool is_object(const struct object *o, const struct kind_ops *ops, uint64_t dev, uint64_t ino,
                      const void *key, size_t key_len)
{
    return o->ops == ops && o->dev == dev && o->ino == ino && o->key_len == key_len &&
           (!key_len || !memcmp(o->key, key, key_len));
}

struct object *ckpt_find_object(struct ckpt *c, const struct kind_ops *ops, uint64_t dev, uint64_t ino,
                                const void *key, size_t key_len)
{
    struct index *x = c->index;
    uint64_t h = identity_hash(ops, dev, ino, key, key_len);

    if (!x)
        return NULL;
    for (size_t i = h & (x->n - 1); x->slots[i].object; i = (i + 1) & (x->n - 1))
        if (x->slots[i].hash == h && is_object(x->slots[i].object, ops, dev, ino, key, key_len))
            return x->slots[i].object;
    return NULL;
}

static void put(struct index *x, struct entry e)
{
    size_t i = e.hash & (x->n - 1);

    while (x->slots[i].object)
        i = (i + 1) & (x->n - 1);
    x->slots[i] = e;
    x->used++;
}

static struct index *room(struct ckpt *c)
{
    struct index *x = c->index, *more;

    if (x && x->used * 2 < x->n)
        return x;
    more = arena_alloc(c->arena, sizeof(*more));
    if (!more)
        return NULL;
    more->n = x ? x->n * 2 : 256;
    more->slots = arena_alloc(c->arena, more->n * sizeof(*more->slots));
    if (!more->slots)
        return NULL;
    for (size_t i = 0; x && i < x->n; i++)
        if (x->slots[i].object)
            put(more, x->slots[i]);
    c->index = more;
    return more;
}

struct object *ckpt_add_object(struct ckpt *c, const struct kind_ops *ops, uint64_t dev, uint64_t ino,
                               const void *key, size_t key_len)
{
    struct index *x = room(c);
    struct object *o = arena_alloc(c->arena, sizeof(*o));

    if (!x || !o)
        return NULL;
    *o =
        (struct object){.id = ++c->next_id, .ops = ops, .dev = dev, .ino = ino, .fd = -1, .key_len = key_len};
    o->key = key_len ? arena_dup(c->arena, key, key_len) : NULL;
    if (key_len && !o->key)
        return NULL;
    put(x, (struct entry){o, identity_hash(ops, dev, ino, key, key_len)});
    if (!c->objects_tail)
        c->objects_tail = &c->objects;
    *c->objects_tail = o;
    c->objects_tail = &o->next;
    return o;
}

struct proc *ckpt_find_proc(const struct ckpt *c, pid_t pid)
{
    size_t low = 0, high = c->nprocs;

    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (c->procs[mid]->pid == pid)
            return c->procs[mid];
        if (c->procs[mid]->pid < pid)
            low = mid + 1;
        else
            high = mid;
    }
    return NULL;
}
