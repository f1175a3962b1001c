/*
 * The images that dmtcp_inspect was given. An object is recorded once, in whichever image came first,
 * so all images are unpacked before anything is shown, and ids are looked up across them.
 */
#include <errno.h>
#include <string.h>

#include "base/util.h"
#include "image/inspect.h"

static void view_free(struct view *v)
{
    for (size_t i = 0; v->messages && i < v->n_records; i++)
        if (v->messages[i])
            protobuf_c_message_free_unpacked(v->messages[i], NULL);
    image_free(v->img);
    free(v->messages);
    free(v->path);
    free(v);
}

static void remember(struct view *v, uint32_t kind, const ProtobufCMessage *m)
{
    if (kind == KIND_HEAD)
        v->head = (const ImageHead *)m;
    if (kind == KIND_PROCESS && !v->process)
        v->process = (const Process *)m;
    if (kind == KIND_MM && !v->mm)
        v->mm = (const Mm *)m;
    if (kind == KIND_FDTABLE && !v->fdtable)
        v->fdtable = (const FdTable *)m;
}

static int unpack_all(struct view *v, struct err *err)
{
    v->records = image_records(v->img, &v->n_records);
    v->messages = calloc(v->n_records, sizeof(*v->messages));
    if (!v->messages)
        return err_set(err, ENOMEM, "out of memory");
    for (size_t i = 0; i < v->n_records; i++) {
        const ProtobufCMessageDescriptor *d = kind_message(v->records[i].kind);

        if (d)
            v->messages[i] = image_unpack(v->img, &v->records[i], d, err);
        if (d && !v->messages[i])
            return -err->code;
        if (d)
            remember(v, v->records[i].kind, v->messages[i]);
    }
    return 0;
}

int set_open(struct image **img, const char *path, struct err *err)
{
    int fd;

    if (strcmp(path, "-"))
        return image_open(img, path, err);
    fd = dup(STDIN_FILENO);
    *img = NULL;
    if (fd < 0)
        return err_errno(err, "standard input");
    if (image_open_fd(img, fd, err) < 0) {
        close(fd);
        return err_wrap(err, "standard input");
    }
    return 0;
}

int set_add_image(struct set *s, const char *path, struct err *err)
{
    struct view **views = grow(s->views, s->n_views, &s->cap_views, sizeof(*views));
    struct view *v = views ? calloc(1, sizeof(*v)) : NULL;

    if (views)
        s->views = views;
    if (!v)
        return err_set(err, ENOMEM, "out of memory");
    v->path = strdup(path);
    if (!v->path)
        err_set(err, ENOMEM, "out of memory");
    else if (set_open(&v->img, path, err) == 0 && unpack_all(v, err) < 0)
        err_wrap(err, "%s", path);
    else if (v->head) {
        s->views[s->n_views++] = v;
        return 0;
    }
    view_free(v);
    return -err->code;
}

void set_free(struct set *s)
{
    for (size_t i = 0; i < s->n_views; i++)
        view_free(s->views[i]);
    free(s->views);
    free(s->objects);
}

/* ---- order ---- */

/* Ids are unique in a checkpoint of a host. */
static int compare_place(const struct view *a, const struct view *b)
{
    int c = strcmp(a->head->host_id, b->head->host_id);

    c = c ? c : strcmp(a->head->computation, b->head->computation);
    if (c || a->head->generation == b->head->generation)
        return c;
    return a->head->generation < b->head->generation ? -1 : 1;
}

bool set_same(const struct view *a, const struct view *b)
{
    return compare_place(a, b) == 0;
}

static int compare_views(const void *a, const void *b)
{
    const struct view *x = *(struct view *const *)a, *y = *(struct view *const *)b;
    int c = compare_place(x, y);

    if (c || x->head->pid == y->head->pid)
        return c ? c : strcmp(x->path, y->path);
    return x->head->pid < y->head->pid ? -1 : 1;
}

static int compare_objects(const void *a, const void *b)
{
    const struct object *x = a, *y = b;
    bool ofd_x = x->kind == KIND_OFD, ofd_y = y->kind == KIND_OFD;
    int c = compare_place(x->view, y->view);

    if (c || ofd_x != ofd_y)
        return c ? c : ofd_x - ofd_y;
    return x->id < y->id ? -1 : x->id > y->id;
}

int set_ready(struct set *s, struct err *err)
{
    for (size_t i = 0; i < s->n_views; i++) {
        const struct view *v = s->views[i];

        for (size_t j = 0; j < v->n_records; j++) {
            uint32_t kind = v->records[j].kind;
            struct object *more;

            if (kind < KIND_OFD || !v->messages[j])
                continue;
            more = grow(s->objects, s->n_objects, &s->cap_objects, sizeof(*more));
            if (!more)
                return err_set(err, ENOMEM, "out of memory");
            s->objects = more;
            s->objects[s->n_objects++] =
                (struct object){reflect_uint(v->messages[j], "id"), kind, v, v->messages[j]};
        }
    }
    if (s->n_views)
        qsort(s->views, s->n_views, sizeof(*s->views), compare_views);
    if (s->n_objects)
        qsort(s->objects, s->n_objects, sizeof(*s->objects), compare_objects);
    return 0;
}

/* ---- looking up ---- */

static const struct object *lookup(const struct set *s, const struct view *v, uint64_t id, uint32_t kind)
{
    struct object key = {.id = id, .kind = kind, .view = v};

    return s->n_objects ? bsearch(&key, s->objects, s->n_objects, sizeof(key), compare_objects) : NULL;
}

const struct object *set_ofd(const struct set *s, const struct view *v, uint64_t id)
{
    return lookup(s, v, id, KIND_OFD);
}

const struct object *set_object(const struct set *s, const struct view *v, uint64_t id)
{
    return lookup(s, v, id, KIND_FILE);
}

const struct view *set_process(const struct set *s, const struct view *v, int pid)
{
    size_t lo = 0, hi = s->n_views;

    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        int c = compare_place(s->views[mid], v);

        c = c ? c : s->views[mid]->head->pid < (uint32_t)pid ? -1 : s->views[mid]->head->pid > (uint32_t)pid;
        if (c == 0)
            return s->views[mid];
        if (c < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return NULL;
}

const FdTable *set_fdtable(const struct set *s, const struct view *v)
{
    const struct view *owner = v;

    if (!v->fdtable && v->process && v->process->files_owner)
        owner = set_process(s, v, v->process->files_owner);
    return owner ? owner->fdtable : NULL;
}

void print_object(FILE *out, const struct object *o, uint64_t id)
{
    static const char *const names[] = {"path", "fifo_path", "name"};
    struct reflect_value v;

    if (!o) {
        fprintf(out, "object %llu", (unsigned long long)id);
        return;
    }
    fprintf(out, "%s %llu", kind_name(o->kind), (unsigned long long)id);
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        if (!reflect_find(o->message, names[i], &v) || v.type != REFLECT_BYTES || !v.len)
            continue;
        fputc(' ', out);
        print_text(out, v.bytes, v.len < 200 ? v.len : 200);
        break;
    }
    if (reflect_find(o->message, "deleted", &v) && v.type == REFLECT_BOOL && v.u)
        fputs(" (deleted)", out);
}
