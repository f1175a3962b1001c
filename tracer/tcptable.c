/*
 * All TCP sockets by their addresses: those of the checkpoint, to find the other end of a connection, and those of
 * the host, because the other end can be one that no fd leads to.
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/util.h"
#include "tracer/inet.h"

#define BUCKETS 4096u

struct entry {
    struct inet_entry e;
    struct entry *next, *next_ino;
};

struct tcp_table {
    struct arena *arena;
    struct object *objects[BUCKETS];
    struct entry *entries[BUCKETS], *by_ino[BUCKETS];
    struct object **listeners;
    size_t n_listeners, n_ownerless;
};

static uint32_t bucket(const struct inet_end *a, const struct inet_end *b)
{
    uint64_t h = (uint64_t)a->port << 16 | b->port;

    for (int i = 0; i < 16; i++)
        h = (h ^ a->addr[i] ^ (uint64_t)b->addr[i] << 8) * 0x9e3779b97f4a7c15ull;
    return (uint32_t)(h >> 40) % BUCKETS;
}

static int add_entry(void *arg, const struct inet_entry *found, struct err *err)
{
    struct tcp_table *t = arg;
    struct entry *e = arena_dup(t->arena, &(struct entry){.e = *found}, sizeof(*e));
    struct entry **b, **i;

    if (!e)
        return err_set(err, ENOMEM, "out of memory");
    b = &t->entries[bucket(&found->local, &found->remote)];
    i = &t->by_ino[found->ino % BUCKETS];
    e->next = *b;
    *b = e;
    e->next_ino = *i;
    *i = e;
    t->n_ownerless += found->ino == 0;
    return 0;
}

static void add_object(struct tcp_table *t, struct object *o)
{
    struct inet_sock *k = o->priv;
    const Inet *m = inet_of(o);
    struct object **b = &t->objects[bucket(&k->local, &k->remote)];

    if (m->state == TCP_LISTEN) {
        arena_push(t->arena, (void ***)&t->listeners, &t->n_listeners, o);
    } else if (m->remote.len) {
        k->next = *b;
        *b = o;
    }
}

int tcp_table_get(struct ckpt *c, struct tcp_table **out, struct err *err)
{
    struct sockets *s = sockets_of(c, err);
    struct tcp_table *t;

    if (!s)
        return -err->code;
    if (s->tcp) {
        *out = s->tcp;
        return 0;
    }
    t = arena_alloc(c->arena, sizeof(*t));
    if (!t)
        return err_set(err, ENOMEM, "out of memory");
    t->arena = c->arena;
    if (inet_dump(IPPROTO_TCP, ~0u, add_entry, t, err) < 0)
        return err_wrap(err, "TCP sockets");
    for (struct object *o = c->objects; o; o = o->next)
        if (inet_is_tcp(o))
            add_object(t, o);
    *out = s->tcp = t;
    return 0;
}

struct object *tcp_table_object(const struct tcp_table *t, const struct inet_end *local, const struct inet_end *remote)
{
    struct object *o = t->objects[bucket(local, remote)];

    for (; o; o = ((struct inet_sock *)o->priv)->next) {
        const struct inet_sock *k = o->priv;
        if (inet_same(&k->local, local) && inet_same(&k->remote, remote))
            return o;
    }
    return NULL;
}

const struct inet_entry *tcp_table_entry(const struct tcp_table *t, const struct inet_end *local,
                                         const struct inet_end *remote)
{
    for (const struct entry *e = t->entries[bucket(local, remote)]; e; e = e->next)
        if (inet_same(&e->e.local, local) && inet_same(&e->e.remote, remote))
            return &e->e;
    return NULL;
}

const struct inet_entry *tcp_table_inode(const struct tcp_table *t, uint64_t ino)
{
    for (const struct entry *e = t->by_ino[ino % BUCKETS]; e; e = e->next_ino)
        if (e->e.ino == ino)
            return &e->e;
    return NULL;
}

/* A listener on the very address comes before one on the wildcard. */
struct object *tcp_table_listener(const struct tcp_table *t, const struct inet_end *local, bool room)
{
    for (int any = 0; any < 2; any++)
        for (size_t i = 0; i < t->n_listeners; i++) {
            const struct inet_sock *k = t->listeners[i]->priv;
            if (k->local.port != local->port || (room && k->waiting >= k->tcp.waiting))
                continue;
            if (any ? inet_is_any(&k->local) : inet_same(&k->local, local))
                return t->listeners[i];
        }
    return NULL;
}

/*
 * What waits to be accepted has not been closed by its own side. (TCP_SYN_RECV: the queue was full when the
 * client had done its part; for him the connection stands.)
 */
static bool may_wait(const struct inet_entry *e)
{
    return e->ino == 0 && (e->state == TCP_ESTABLISHED || e->state == TCP_CLOSE_WAIT || e->state == TCP_SYN_RECV);
}

struct waiting {
    const struct inet_entry *e;
    int64_t born;    /* ms of CLOCK_MONOTONIC, to a tick of the kernel's clock */
    uint32_t client; /* inode: sockets that were made later mostly have higher ones */
};

/* The table of the host can take a while to read: each one's age is asked for by itself. */
static int64_t born(const struct inet_entry *e)
{
    struct inet_entry now = *e;
    struct err err;

    if (inet_again(&now, &err) < 0)
        now = *e;
    return monotonic_ms() - now.age_ms;
}

/* Of the same age: as the clients were made. */
static int older_first(const void *x, const void *y)
{
    const struct waiting *a = x, *b = y;

    if ((a->e->state == TCP_SYN_RECV) != (b->e->state == TCP_SYN_RECV))
        return a->e->state == TCP_SYN_RECV ? 1 : -1;
    if (a->born != b->born)
        return a->born < b->born ? -1 : 1;
    return a->client < b->client ? -1 : a->client > b->client;
}

int tcp_table_waiting(const struct tcp_table *t, int (*f)(void *, const struct inet_entry *, struct err *), void *arg,
                      struct err *err)
{
    _cleanup_free_ struct waiting *list = calloc(t->n_ownerless + 1, sizeof(*list));
    size_t n = 0;

    if (!list)
        return err_set(err, ENOMEM, "out of memory");
    for (const struct entry *e = t->by_ino[0]; e; e = e->next_ino)
        if (may_wait(&e->e) && tcp_table_listener(t, &e->e.local, false)) {
            const struct inet_entry *client = tcp_table_entry(t, &e->e.remote, &e->e.local);
            list[n++] = (struct waiting){&e->e, born(&e->e), client ? client->ino : 0};
        }
    qsort(list, n, sizeof(*list), older_first);
    for (size_t i = 0; i < n; i++)
        if (f(arg, list[i].e, err) < 0)
            return -err->code;
    return 0;
}
