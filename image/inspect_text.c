/*
 * What is in images, for people: first all processes as a tree, then each image. What is asked for
 * most (threads with backtraces, memory map, descriptors) has a form of its own; all other records,
 * those of future kinds included, are printed field by field.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <time.h>

#include "base/util.h"
#include "image/inspect.h"
#include "image/thread.pb-c.h"

#define TREE_DEPTH_MAX 200

static void print_string(FILE *out, const char *s)
{
    print_text(out, s, strlen(s));
}

static void print_binary(FILE *out, const ProtobufCBinaryData *b)
{
    print_text(out, b->data, b->len);
}

static void print_time(FILE *out, uint64_t ns)
{
    time_t t = (time_t)(ns / 1000000000);
    char text[40];
    struct tm tm;

    if (!localtime_r(&t, &tm) || !strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S", &tm))
        snprintf(text, sizeof(text), "@%" PRIu64 " ns", ns);
    fputs(text, out);
}

/* ---- the tree ---- */

static const char *state_name(const Process *p)
{
    static const char *const names[] = {"", " (zombie)", " (stopped)", " (main thread has exited)"};

    return p && p->state < ARRAY_SIZE(names) ? names[p->state] : p ? " (unknown state)" : "";
}

static void print_node(FILE *out, const struct view *v, unsigned depth)
{
    char size[16];

    fprintf(out, "  %*s%u ", 2 * (int)depth, "", v->head->pid);
    print_string(out, v->head->program);
    fprintf(out, "%s, %s\n", state_name(v->process), print_size(size, image_size(v->img)));
}

/* Below v, in depth; done[] stops a hostile circle and tells who was shown. */
static void print_below(FILE *out, const struct set *s, size_t at, unsigned depth, bool *done)
{
    const struct view *v = s->views[at];

    done[at] = true;
    print_node(out, v, depth < TREE_DEPTH_MAX ? depth : TREE_DEPTH_MAX);
    for (size_t i = 0; i < s->n_views && depth < TREE_DEPTH_MAX; i++) {
        const Process *p = s->views[i]->process;

        if (!done[i] && p && (uint32_t)p->ppid == v->head->pid && set_same(s->views[i], v))
            print_below(out, s, i, depth + 1, done);
    }
}

static void print_place(FILE *out, const struct view *v)
{
    const ImageHead *h = v->head;

    fputs("computation ", out);
    print_string(out, h->computation);
    fprintf(out, ", checkpoint %" PRIu64 " of ", h->generation);
    print_time(out, h->time_ns);
    fputs(", host ", out);
    print_string(out, h->host_name);
    fputc('\n', out);
}

static void print_tree(FILE *out, const struct set *s)
{
    _cleanup_free_ bool *done = calloc(s->n_views ? s->n_views : 1, sizeof(*done));

    for (size_t i = 0; done && i < s->n_views; i++) {
        const struct view *v = s->views[i];
        bool has_parent = v->process && v->process->ppid && set_process(s, v, v->process->ppid);

        if (i == 0 || !set_same(s->views[i - 1], v))
            print_place(out, v);
        if (!has_parent && !done[i])
            print_below(out, s, i, 0, done);
        /* At the end of a host: whoever is left is in a circle of parents or below too many. */
        if (i + 1 == s->n_views || !set_same(s->views[i + 1], v))
            for (size_t j = 0; j <= i; j++)
                if (!done[j])
                    print_below(out, s, j, 0, done);
    }
}

/* ---- one image ---- */

static void print_head(FILE *out, const struct view *v)
{
    uint64_t contents = 0, stored = 0;
    char size[3][16];
    size_t n;
    const struct image_chunk *c = image_all_chunks(v->img, &n);

    for (size_t i = 0; i < n; i++) {
        contents += c[i].len;
        stored += c[i].stored;
    }
    fputc('\n', out);
    print_string(out, v->path);
    fprintf(out, ": process %u, ", v->head->pid);
    print_string(out, v->head->program);
    fprintf(out, "\n  %s: %zu records, %zu chunks with %s of pages stored in %s, seal %016" PRIx64 "\n",
            print_size(size[0], image_size(v->img)), v->n_records, n, print_size(size[1], contents),
            print_size(size[2], stored), image_seal(v->img));
}

static void print_thread(FILE *out, const Thread *t, const struct inspect_options *o)
{
    static const char *const apart[] = {"tid", "comm", "regs", "xstate", "backtrace", "affinity", NULL};
    size_t limit = o->limits.elements && t->n_backtrace > 2 * o->limits.elements ? 2 * o->limits.elements
                                                                                 : t->n_backtrace;

    fprintf(out, "  thread %d ", t->tid);
    print_binary(out, &t->comm);
    fputs(": ", out);
    print_fields(out, &t->base, apart, &o->limits);
    fputc('\n', out);
    for (size_t i = 0; i < limit; i++) {
        const Frame *f = t->backtrace[i];

        fprintf(out, "    #%-2zu 0x%" PRIx64 " ", i, f->ip);
        if (f->symbol.len)
            print_binary(out, &f->symbol);
        fprintf(out, f->symbol.len ? "+0x%" PRIx64 "\n" : "\n", f->offset);
    }
    if (limit < t->n_backtrace)
        fprintf(out, "    %zu more\n", t->n_backtrace - limit);
}

/* r, w or rw, and the flags that matter to who reads a list of open files. */
static void print_flags(FILE *out, uint32_t flags)
{
    static const struct {
        uint32_t bit;
        const char *name;
    } names[] = {{O_APPEND, "append"}, {O_NONBLOCK, "nonblock"}, {O_PATH, "path"},
                 {O_ASYNC, "async"},   {O_DIRECT, "direct"},     {O_DSYNC, "sync"}};
    uint32_t access = flags & O_ACCMODE;

    fputs(access == O_RDONLY ? "r" : access == O_WRONLY ? "w" : "rw", out);
    for (size_t i = 0; i < ARRAY_SIZE(names); i++)
        if (flags & names[i].bit)
            fprintf(out, ",%s", names[i].name);
}

static void print_fd(FILE *out, const struct set *s, const struct view *v, const Fd *fd,
                     const struct inspect_options *o)
{
    static const char *const apart[] = {"id", "kind", "object", "flags", NULL};
    const struct object *ofd = set_ofd(s, v, fd->ofd);

    fprintf(out, "    %u ", fd->fd);
    if (!ofd) {
        fprintf(out, "description %" PRIu64 " (its image is not here)\n", fd->ofd);
        return;
    }
    print_flags(out, (uint32_t)reflect_uint(ofd->message, "flags"));
    fputs(fd->cloexec ? ",cloexec " : " ", out);
    print_object(out, set_object(s, v, reflect_uint(ofd->message, "object")),
                 reflect_uint(ofd->message, "object"));
    fputc(' ', out);
    print_fields(out, ofd->message, apart, &o->limits);
    fputc('\n', out);
}

static void print_fds(FILE *out, const struct set *s, const struct view *v, const struct inspect_options *o)
{
    static const char *const apart[] = {"fds", NULL};

    if (!v->fdtable) {
        if (v->process && v->process->files_owner && v->process->files_owner != v->process->pid)
            fprintf(out, "  files: those of process %d\n", v->process->files_owner);
        return;
    }
    fprintf(out, "  files: %zu ", v->fdtable->n_fds);
    print_fields(out, &v->fdtable->base, apart, &o->limits);
    fputc('\n', out);
    for (size_t i = 0; i < v->fdtable->n_fds; i++)
        print_fd(out, s, v, v->fdtable->fds[i], o);
}

static void print_record(FILE *out, const struct image_record *r, const ProtobufCMessage *m,
                         const struct inspect_options *o)
{
    fprintf(out, "  %s", kind_name(r->kind));
    if (!m) {
        fprintf(out, " %u: %zu bytes\n", r->ordinal, r->len);
        return;
    }
    fputs(r->kind < KIND_OFD ? ": " : " ", out);
    print_fields(out, m, NULL, &o->limits);
    fputc('\n', out);
}

static void print_image(FILE *out, const struct set *s, const struct view *v, const struct inspect_options *o)
{
    print_head(out, v);
    for (size_t i = 0; i < v->n_records; i++) {
        const struct image_record *r = &v->records[i];

        if (r->kind == KIND_THREAD)
            print_thread(out, (const Thread *)v->messages[i], o);
        else if (r->kind == KIND_MM)
            inspect_memory(out, s, v);
        else if (r->kind == KIND_FDTABLE)
            print_fds(out, s, v, o);
        else
            print_record(out, r, v->messages[i], o);
    }
    if (!v->fdtable)
        print_fds(out, s, v, o);
}

void inspect_text(FILE *out, const struct set *s, const struct inspect_options *options)
{
    print_tree(out, s);
    for (size_t i = 0; i < s->n_views && !options->summary; i++)
        print_image(out, s, s->views[i], options);
}
