/*
 * The name service (who has the other end of this connection? where is it now?) and barriers. Both serve one
 * checkpoint or restart at a time and are cleared between.
 */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/util.h"
#include "coordinator/server.h"

#define NAMES_MAX      1000000
#define NAME_BYTES_MAX (1u << 20) /* of a key or a value */

static int copy_bytes(ProtobufCBinaryData *to, const ProtobufCBinaryData *from)
{
    to->data = malloc(from->len + 1);
    if (!to->data)
        return -ENOMEM;
    if (from->len)
        memcpy(to->data, from->data, from->len);
    to->len = from->len;
    return 0;
}

static int compare_bytes(const ProtobufCBinaryData *a, const ProtobufCBinaryData *b)
{
    size_t n = a->len < b->len ? a->len : b->len;
    int r = n ? memcmp(a->data, b->data, n) : 0;

    return r ? r : (a->len > b->len) - (a->len < b->len);
}

/* Where key is, or where it belongs: names are sorted. */
static size_t find(const struct server *s, const ProtobufCBinaryData *key, int *found)
{
    size_t low = 0, high = s->n_names;

    *found = 0;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int r = compare_bytes(&s->names[middle].key, key);
        if (r == 0) {
            *found = 1;
            return middle;
        }
        if (r < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static int publish(struct server *s, const ProtobufCBinaryData *key, const ProtobufCBinaryData *value)
{
    struct name *names, fresh = {0};
    int found;
    size_t at = find(s, key, &found);

    if (key->len > NAME_BYTES_MAX || value->len > NAME_BYTES_MAX || s->n_names >= NAMES_MAX)
        return -E2BIG;
    if (copy_bytes(&fresh.value, value) < 0)
        return -ENOMEM;
    if (found) {
        free(s->names[at].value.data);
        s->names[at].value = fresh.value;
        return 0;
    }
    names = grow(s->names, s->n_names, &s->cap_names, sizeof(*names));
    if (!names || copy_bytes(&fresh.key, key) < 0) {
        free(fresh.value.data);
        return -ENOMEM;
    }
    s->names = names;
    memmove(names + at + 1, names + at, (s->n_names - at) * sizeof(*names));
    names[at] = fresh;
    s->n_names++;
    return 0;
}

int on_publish(struct server *s, struct peer *p, Wire__Msg *msg)
{
    const struct ask ask = {p->id, msg->seq, 0};

    for (size_t i = 0; i < msg->publish->n_pair; i++) {
        int r = publish(s, &msg->publish->pair[i]->key, &msg->publish->pair[i]->value);
        if (r < 0) {
            answer_error(s, &ask, -r, "name service: %s", strerror(-r));
            return 0;
        }
    }
    answer_ok(s, &ask);
    return 0;
}

int on_query(struct server *s, struct peer *p, Wire__Msg *msg)
{
    const struct ask ask = {p->id, msg->seq, 0};
    size_t n = msg->query->n_key;
    _cleanup_free_ Wire__Values__Value *value = calloc(n + 1, sizeof(*value));
    _cleanup_free_ Wire__Values__Value **list = calloc(n + 1, sizeof(*list));
    Wire__Msg out = WIRE__MSG__INIT;
    Wire__Values values = WIRE__VALUES__INIT;

    if (!value || !list) {
        answer_error(s, &ask, ENOMEM, "out of memory");
        return 0;
    }
    for (size_t i = 0; i < n; i++) {
        int found;
        size_t at = find(s, &msg->query->key[i], &found);
        wire__values__value__init(&value[i]);
        value[i].found = found;
        if (found)
            value[i].value = s->names[at].value;
        list[i] = &value[i];
    }
    values.n_value = n;
    values.value = list;
    out.body_case = WIRE__MSG__BODY_VALUES;
    out.values = &values;
    answer(s, &ask, &out);
    return 0;
}

void names_clear(struct server *s)
{
    for (size_t i = 0; i < s->n_names; i++) {
        free(s->names[i].key.data);
        free(s->names[i].value.data);
    }
    s->n_names = 0;
}

static unsigned needed(const struct server *s, const struct barrier *b)
{
    if (b->count)
        return b->count;
    return s->restart_hosts > 0 ? (unsigned)s->restart_hosts : 1;
}

static void barrier_free(struct barrier *b)
{
    free(b->name);
    free(b->ask);
    free(b);
}

void barriers_check(struct server *s)
{
    for (struct barrier **link = &s->barriers; *link;) {
        struct barrier *b = *link;
        if (b->n_asks < needed(s, b)) {
            link = &b->next;
            continue;
        }
        *link = b->next;
        for (size_t i = 0; i < b->n_asks; i++)
            answer_ok(s, &b->ask[i]);
        barrier_free(b);
    }
}

void barriers_fail(struct server *s, const char *why)
{
    while (s->barriers) {
        struct barrier *b = s->barriers;
        s->barriers = b->next;
        for (size_t i = 0; i < b->n_asks; i++)
            answer_error(s, &b->ask[i], ECANCELED, "barrier %s: %s", b->name, why);
        barrier_free(b);
    }
}

static struct barrier *find_barrier(struct server *s, const char *name, unsigned count)
{
    struct barrier *b = s->barriers;

    while (b && strcmp(b->name, name) != 0)
        b = b->next;
    if (b)
        return b;
    b = calloc(1, sizeof(*b));
    if (!b || !(b->name = strdup(name))) {
        free(b);
        return NULL;
    }
    b->count = count;
    b->next = s->barriers;
    s->barriers = b;
    return b;
}

int on_barrier(struct server *s, struct peer *p, Wire__Msg *msg)
{
    const struct ask ask = {p->id, msg->seq, 0};
    struct barrier *b = find_barrier(s, msg->barrier->name, msg->barrier->count);
    struct ask *asks = b ? grow(b->ask, b->n_asks, &b->cap_asks, sizeof(*asks)) : NULL;

    if (!asks) {
        answer_error(s, &ask, ENOMEM, "out of memory");
        return 0;
    }
    b->ask = asks;
    for (size_t i = 0; i < b->n_asks; i++)
        if (asks[i].peer == p->id) {
            answer_error(s, &ask, EALREADY, "barrier %s: waiting there already", b->name);
            return 0;
        }
    asks[b->n_asks++] = ask;
    barriers_check(s);
    return 0;
}

/* Bytes as a JSON string: text as it is, everything else in hexadecimal. */
static json_t *bytes_json(const ProtobufCBinaryData *bytes)
{
    _cleanup_free_ char *hex = NULL;
    json_t *text = json_stringn((const char *)bytes->data, bytes->len); /* NULL unless UTF-8 */

    if (text)
        return text;
    hex = malloc(bytes->len * 2 + 5);
    if (!hex)
        return NULL;
    strcpy(hex, "hex:");
    for (size_t i = 0; i < bytes->len; i++)
        snprintf(hex + 4 + 2 * i, 3, "%02x", bytes->data[i]);
    return json_string(hex);
}

int names_dump(const struct server *s, struct err *err)
{
    _cleanup_free_ char *path =
        format("%s/dmtcp_kv_data_%s.json", s->config.options->ckptdir, s->computation);
    json_t *list = json_array();
    int r;

    for (size_t i = 0; i < s->n_names; i++)
        json_array_append_new(list, json_pack("{s:o,s:o}", "key", bytes_json(&s->names[i].key), "value",
                                              bytes_json(&s->names[i].value)));
    r = path ? json_dump_file(list, path, JSON_INDENT(2)) : -1;
    json_decref(list);
    return r < 0 ? err_set(err, EIO, "%s: cannot write", path ? path : "") : 0;
}
