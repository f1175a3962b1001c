/* What is in images, for programs: every record with every field, and where the pages are. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/util.h"
#include "image/inspect.h"

static json_t *record_json(const struct image_record *r, const ProtobufCMessage *m)
{
    return json_pack("{s:s, s:I, s:I, s:o}", "kind", kind_name(r->kind), "ordinal", (json_int_t)r->ordinal,
                     "bytes", (json_int_t)r->len, "message", m ? print_json(m) : json_null());
}

/* The page store, a line per space. */
static json_t *pages_json(const struct view *v)
{
    json_t *list = json_array();
    size_t n;
    const struct image_chunk *c = image_all_chunks(v->img, &n);

    for (size_t i = 0; list && i < n;) {
        uint64_t space = c[i].space, contents = 0, stored = 0;
        size_t first = i;

        for (; i < n && c[i].space == space; i++) {
            contents += c[i].len;
            stored += c[i].stored;
        }
        if (json_array_append_new(list, json_pack("{s:I, s:I, s:I, s:I}", "space", (json_int_t)space,
                                                  "chunks", (json_int_t)(i - first), "contents",
                                                  (json_int_t)contents, "stored", (json_int_t)stored)) < 0) {
            json_decref(list);
            list = NULL;
        }
    }
    return list;
}

static json_t *view_json(const struct view *v)
{
    json_t *records = json_array();
    char seal[20];

    for (size_t i = 0; records && i < v->n_records; i++) {
        if (json_array_append_new(records, record_json(&v->records[i], v->messages[i])) < 0) {
            json_decref(records);
            records = NULL;
        }
    }
    snprintf(seal, sizeof(seal), "%016" PRIx64, image_seal(v->img));
    return json_pack("{s:o, s:I, s:s, s:o, s:o}", "file", print_json_bytes(v->path, strlen(v->path)), "bytes",
                     (json_int_t)image_size(v->img), "seal", seal, "pages", pages_json(v), "records",
                     records);
}

int inspect_json(FILE *out, const struct set *s, struct err *err)
{
    json_t *images = json_array(), *root = NULL;
    bool ok = images != NULL;

    for (size_t i = 0; ok && i < s->n_views; i++)
        ok = json_array_append_new(images, view_json(s->views[i])) == 0;
    if (ok)
        root = json_pack("{s:O}", "images", images);
    ok = root && json_dumpf(root, out, JSON_INDENT(2)) == 0 && fputc('\n', out) != EOF;
    json_decref(root);
    json_decref(images);
    return ok ? 0 : err_set(err, EIO, "cannot make or write the JSON text");
}
