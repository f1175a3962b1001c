/*
 * The table of unix sockets, as sock_diag(7) gives it.
 */
#include "tracer/sockdiag.h"

#include <errno.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <string.h>
#include <sys/socket.h>

#include "base/sockdiag.h"
#include "base/util.h"
#include "tracer/socket.h"

#define BUCKETS 4096u

struct unix_table {
    struct arena *arena;
    struct unix_diag *by_ino[BUCKETS];
    struct waiting *waiting[BUCKETS]; /* by the client's inode */
};

/* A client whose connection is not accepted yet: the kernel does not list the other end. */
struct waiting {
    uint32_t client, listener;
    struct waiting *next;
};

static void attribute(struct unix_table *t, struct unix_diag *d, const struct nlattr *a)
{
    const void *v = (const char *)a + NLA_HDRLEN;
    uint32_t n = a->nla_len - NLA_HDRLEN;

    switch (a->nla_type & NLA_TYPE_MASK) {
    case UNIX_DIAG_NAME:
        d->name = arena_dup(t->arena, v, n);
        d->name_len = d->name ? n : 0;
        break;
    case UNIX_DIAG_VFS:
        if (n >= sizeof(struct unix_diag_vfs)) {
            const struct unix_diag_vfs *f = v;
            d->has_file = true;
            d->file_ino = f->udiag_vfs_ino;
            d->file_dev = f->udiag_vfs_dev;
        }
        break;
    case UNIX_DIAG_PEER:
        d->has_peer = n >= 4;
        if (n >= 4)
            memcpy(&d->peer, v, 4);
        break;
    case UNIX_DIAG_ICONS:
        d->pending = arena_dup(t->arena, v, n);
        d->npending = d->pending ? n / 4 : 0;
        break;
    case UNIX_DIAG_RQLEN:
        if (n >= sizeof(struct unix_diag_rqlen)) {
            const struct unix_diag_rqlen *q = v;
            d->rqueue = q->udiag_rqueue;
            d->wqueue = q->udiag_wqueue;
        }
        break;
    case UNIX_DIAG_SHUTDOWN:
        if (n >= 1)
            d->shutdown = *(const uint8_t *)v;
        break;
    default:
        break;
    }
}

static int unix_answer(void *arg, const void *payload, size_t n, struct err *err)
{
    struct unix_table *t = arg;
    const struct unix_diag_msg *m = payload;
    struct unix_diag *d, **bucket;
    size_t at = NLMSG_ALIGN(sizeof(*m));

    if (n < sizeof(*m) || m->udiag_family != AF_UNIX)
        return 0;
    d = arena_alloc(t->arena, sizeof(*d));
    if (!d)
        return err_set(err, ENOMEM, "out of memory");
    d->ino = m->udiag_ino;
    d->type = m->udiag_type;
    d->state = m->udiag_state;
    while (at + NLA_HDRLEN <= n) {
        const struct nlattr *a = (const void *)((const char *)payload + at);
        if (a->nla_len < NLA_HDRLEN || at + a->nla_len > n)
            break;
        attribute(t, d, a);
        at += NLA_ALIGN(a->nla_len);
    }
    bucket = &t->by_ino[d->ino % BUCKETS];
    d->next = *bucket;
    *bucket = d;
    return 0;
}

static int note_waiting(struct unix_table *t, const struct unix_diag *listener, struct err *err)
{
    for (uint32_t i = 0; i < listener->npending; i++) {
        struct waiting *w = arena_alloc(t->arena, sizeof(*w));
        if (!w)
            return err_set(err, ENOMEM, "out of memory");
        w->client = listener->pending[i];
        w->listener = listener->ino;
        w->next = t->waiting[w->client % BUCKETS];
        t->waiting[w->client % BUCKETS] = w;
    }
    return 0;
}

static int unix_table_make(struct ckpt *c, struct unix_table *t, struct err *err)
{
    struct {
        struct nlmsghdr h;
        struct unix_diag_req r;
    } q = {
        .h = {.nlmsg_len = sizeof(q), .nlmsg_type = SOCK_DIAG_BY_FAMILY, .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP},
        .r = {.sdiag_family = AF_UNIX,
              .udiag_states = ~0u,
              .udiag_show = UDIAG_SHOW_NAME | UDIAG_SHOW_VFS | UDIAG_SHOW_PEER | UDIAG_SHOW_ICONS | UDIAG_SHOW_RQLEN},
    };

    t->arena = c->arena;
    if (diag_dump(&q, sizeof(q), unix_answer, t, err) < 0)
        return -err->code;
    for (size_t b = 0; b < BUCKETS; b++)
        for (const struct unix_diag *d = t->by_ino[b]; d; d = d->next)
            if (d->npending && note_waiting(t, d, err) < 0)
                return -err->code;
    return 0;
}

int unix_table_get(struct ckpt *c, struct unix_table **out, struct err *err)
{
    struct sockets *s = sockets_of(c, err);

    if (!s)
        return -err->code;
    if (!s->unixes) {
        struct unix_table *t = arena_alloc(c->arena, sizeof(*t));
        if (!t)
            return err_set(err, ENOMEM, "out of memory");
        if (unix_table_make(c, t, err) < 0)
            return err_wrap(err, "unix sockets");
        s->unixes = t;
    }
    *out = s->unixes;
    return 0;
}

const struct unix_diag *unix_table_find(const struct unix_table *t, uint64_t ino)
{
    const struct unix_diag *d = t->by_ino[ino % BUCKETS];

    while (d && d->ino != ino)
        d = d->next;
    return d;
}

uint32_t unix_table_listener(const struct unix_table *t, uint64_t client)
{
    for (const struct waiting *w = t->waiting[client % BUCKETS]; w; w = w->next)
        if (w->client == client && client)
            return w->listener;
    return 0;
}
