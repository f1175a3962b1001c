/*
 * See inspect_links.h. Connections are in the records by the ids of both ends; datagram sockets know addresses only, so
 * whom they send to is whoever has that address.
 */
#include "image/inspect_links.h"

#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/sockdiag.h"
#include "base/util.h"
#include "image/inet.pb-c.h"
#include "image/netlink.pb-c.h"
#include "image/outside.pb-c.h"
#include "image/socket.h"
#include "image/sysv.h"
#include "image/sysv.pb-c.h"
#include "image/unix.pb-c.h"

static struct link *add(struct links *l, enum link_how how, size_t from, size_t to)
{
    struct link *more = grow(l->l, l->n, &l->cap, sizeof(*more));

    if (!more)
        return NULL;
    l->l = more;
    l->l[l->n] = (struct link){.how = how, .from = from, .to = to};
    return &l->l[l->n++];
}

static void add_outside(struct links *l, size_t from, const char *text)
{
    struct link *k = add(l, LINK_OUTSIDE, from, from);

    if (k)
        snprintf(k->text, sizeof(k->text), "%s", text);
}

/* A connection is in both records: it is drawn from the one that comes first. */
static void add_peer(const struct set *s, struct links *l, size_t from, uint64_t id)
{
    const struct object *peer = set_object(s, s->objects[from].view, id);
    size_t to = peer ? (size_t)(peer - s->objects) : 0;

    if (!peer)
        add_outside(l, from, "an image that is not here");
    else if (reflect_uint(peer->message, "peer") != s->objects[from].id)
        add(l, LINK_SENDS, from, to);
    else if (from <= to)
        add(l, LINK_CONNECTED, from, to);
}

static void add_waiting(const struct set *s, struct links *l, uint64_t client, size_t listener)
{
    const struct object *o = client ? set_object(s, s->objects[listener].view, client) : NULL;

    if (o)
        add(l, LINK_WAITS, (size_t)(o - s->objects), listener);
}

/* ---- internet ---- */

static const Inet *inet_of(const struct object *o)
{
    return o->kind == KIND_INET && o->message ? (const Inet *)o->message : NULL;
}

/* The datagram socket of the same computation that gets what is sent to an address. */
static const struct object *receiver(const struct set *s, const struct object *from, const struct inet_end *to)
{
    const Inet *m = inet_of(from);

    for (int any = 0; any < 2; any++)
        for (size_t i = 0; i < s->n_objects; i++) {
            const Inet *k = inet_of(&s->objects[i]);
            struct inet_end e;
            if (!k || !k->socket || k->socket->type != m->socket->type || k->socket->protocol != m->socket->protocol ||
                !set_same(s->objects[i].view, from->view) || !inet_end_of(k->local.data, k->local.len, &e))
                continue;
            if (any ? e.port == to->port && inet_is_any(&e) : inet_same(&e, to))
                return &s->objects[i];
        }
    return NULL;
}

static void inet_links(const struct set *s, struct links *l, size_t i)
{
    const Inet *m = inet_of(&s->objects[i]);
    const struct object *o = NULL;
    struct inet_end to;
    char text[64];

    for (size_t k = 0; k < m->n_pending; k++)
        add_waiting(s, l, m->pending[k], i);
    if (m->peer) {
        add_peer(s, l, i, m->peer);
        return;
    }
    if (!m->socket || !inet_end_of(m->remote.data, m->remote.len, &to) || m->peer_state == PEER_WAITING)
        return;
    if (m->socket->type == SOCK_DGRAM && to.port)
        o = receiver(s, &s->objects[i], &to);
    if (o)
        add(l, LINK_SENDS, i, (size_t)(o - s->objects));
    else if (m->socket->type != SOCK_STREAM || m->peer_state == PEER_OUTSIDE || m->state == TCP_SYN_SENT)
        add_outside(l, i, inet_text(&to, text, sizeof(text)));
}

/* ---- others ---- */

static void name_text(char *text, size_t size, const ProtobufCBinaryData *name)
{
    size_t n = name->len < size - 2 ? name->len : size - 2;
    size_t at = 0;

    if (n && !name->data[0])
        text[at++] = '@';
    for (size_t i = at; i < n && name->data[i]; i++)
        text[at++] = name->data[i] >= 0x20 && name->data[i] < 0x7f ? (char)name->data[i] : '?';
    text[at] = '\0';
}

static void unix_links(const struct set *s, struct links *l, size_t i)
{
    const Unix *m = (const Unix *)s->objects[i].message;
    char text[120];

    for (size_t k = 0; k < m->n_pending; k++)
        add_waiting(s, l, m->pending[k]->client, i);
    if (m->peer_state == PEER_OUTSIDE) {
        name_text(text, sizeof(text), &m->peer_name);
        add_outside(l, i, text[0] ? text : "outside");
    } else if (m->peer && m->peer_state != PEER_WAITING) {
        add_peer(s, l, i, m->peer);
    }
}

static void netlink_links(const struct set *s, struct links *l, size_t i)
{
    const Netlink *m = (const Netlink *)s->objects[i].message;

    for (size_t k = 0; m->peer_port && m->socket && k < s->n_objects; k++) {
        const Netlink *n = s->objects[k].kind == KIND_NETLINK ? (const Netlink *)s->objects[k].message : NULL;
        if (n && n->socket && n->port == m->peer_port && n->socket->protocol == m->socket->protocol) {
            add(l, LINK_SENDS, i, k);
            return;
        }
    }
    if (!m->peer_port)
        add_outside(l, i, "the kernel");
}

void links_find(const struct set *s, struct links *l)
{
    char text[64];

    for (size_t i = 0; i < s->n_objects; i++) {
        const struct object *o = &s->objects[i];
        if (!o->message)
            continue;
        if (o->kind == KIND_INET) {
            inet_links(s, l, i);
        } else if (o->kind == KIND_UNIX) {
            unix_links(s, l, i);
        } else if (o->kind == KIND_NETLINK) {
            netlink_links(s, l, i);
        } else if (o->kind == KIND_OUTSIDE) {
            snprintf(text, sizeof(text), "standard stream %" PRIu64, reflect_uint(o->message, "stream"));
            add_outside(l, i, text);
        }
    }
}

/* ---- labels ---- */

static const char *inet_word(const Socket *k)
{
    if (!k)
        return "inet";
    if (k->type == SOCK_STREAM)
        return "tcp";
    if (k->type == SOCK_RAW)
        return "raw";
    return k->protocol == IPPROTO_UDPLITE ? "udplite" : k->protocol == IPPROTO_UDP ? "udp" : "icmp";
}

static void sysv_label(FILE *out, const Sysv *m)
{
    static const char *const words[] = {[SYSV_SHM] = "shared memory", [SYSV_SEM] = "semaphores", [SYSV_MSG] = "message queue"};

    fprintf(out, "%s %d", m->type < ARRAY_SIZE(words) && words[m->type] ? words[m->type] : "sysv", m->ipc_id);
    if (m->key)
        fprintf(out, " key %#x", (unsigned)m->key);
}

void links_label(FILE *out, const struct object *o)
{
    struct inet_end e;
    char text[64];

    if (o->kind == KIND_SYSV && o->message) {
        sysv_label(out, (const Sysv *)o->message);
    } else if (inet_of(o)) {
        fprintf(out, "%s %" PRIu64, inet_word(inet_of(o)->socket), o->id);
        if (inet_end_of(inet_of(o)->local.data, inet_of(o)->local.len, &e) && e.port)
            fprintf(out, " %s", inet_text(&e, text, sizeof(text)));
        if (inet_of(o)->state == TCP_LISTEN)
            fputs(" listening", out);
    } else if (o->kind == KIND_UNIX && o->message) {
        char name[120];
        name_text(name, sizeof(name), &((const Unix *)o->message)->name);
        fprintf(out, "unix %" PRIu64 "%s%s", o->id, name[0] ? " " : "", name);
    } else {
        print_object(out, o, o->id);
    }
}
