/*
 * Who is related to whom, as a graph for dot(1): processes by parentage, and the objects through which they
 * can talk, which are those that more than one process holds and one can write to, sockets
 * with what they are connected to, inside and outside, and System V objects, of which nothing says who uses them. All
 * else says nothing about who talks to whom and is left out.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/util.h"
#include "image/inspect.h"
#include "image/inspect_links.h"
#include "image/sysv.pb-c.h"
#include "image/vma.h"

/* A process holds an object: by descriptors or by a shared mapping. */
struct hold {
    const struct object *object;
    const struct view *view;
    int fd; /* the first one; -1: a mapping */
    bool in, out;
};

struct graph {
    struct hold *holds;
    size_t n, cap;
    bool *shown; /* by number of the object */
    struct links links;
};

static void add_hold(struct graph *g, const struct hold *h)
{
    struct hold *more = grow(g->holds, g->n, &g->cap, sizeof(*more));

    if (!more)
        return; /* a picture with an edge less; there is nobody to tell */
    g->holds = more;
    g->holds[g->n++] = *h;
}

static void add_fds(struct graph *g, const struct set *s, const struct view *v)
{
    const FdTable *t = set_fdtable(s, v);

    for (size_t i = 0; t && i < t->n_fds; i++) {
        const struct object *ofd = set_ofd(s, v, t->fds[i]->ofd);
        struct hold h = {.view = v, .fd = (int)t->fds[i]->fd};
        uint64_t access;

        if (!ofd)
            continue;
        access = reflect_uint(ofd->message, "flags") & O_ACCMODE;
        h.object = set_object(s, v, reflect_uint(ofd->message, "object"));
        h.in = access != O_WRONLY;
        h.out = access != O_RDONLY;
        if (h.object)
            add_hold(g, &h);
    }
}

static void add_mappings(struct graph *g, const struct set *s, const struct view *v)
{
    for (size_t i = 0; v->mm && i < v->mm->n_vmas; i++) {
        const Vma *m = v->mm->vmas[i];
        struct hold h = {.view = v, .fd = -1, .in = true, .out = m->prot & PROT_WRITE};

        if (!m->object || (m->flags & MAP_TYPE) == MAP_PRIVATE)
            continue;
        h.object = set_object(s, v, m->object);
        if (h.object)
            add_hold(g, &h);
    }
}

static int compare_holds(const void *a, const void *b)
{
    const struct hold *x = a, *y = b;

    if (x->object != y->object)
        return x->object < y->object ? -1 : 1;
    if (x->view != y->view)
        return x->view->head->pid != y->view->head->pid ? (x->view->head->pid < y->view->head->pid ? -1 : 1)
                                                        : (x->view < y->view ? -1 : 1);
    return x->fd < y->fd ? -1 : x->fd > y->fd;
}

/* Escapes for a string in dot's double quotes: what print_text() leaves is safe but for " itself. */
static void print_label(FILE *out, const struct object *o)
{
    char *text = NULL;
    size_t len = 0;
    FILE *mem = open_memstream(&text, &len);

    if (!mem)
        return;
    links_label(mem, o);
    fclose(mem);
    for (size_t i = 0; i < len; i++) {
        if (text[i] == '"' || text[i] == '\\')
            fputc('\\', out);
        fputc(text[i], out);
    }
    free(text);
}

static void print_processes(FILE *out, const struct set *s)
{
    for (size_t i = 0; i < s->n_views; i++) {
        const struct view *v = s->views[i], *parent;

        fprintf(out, "  p%zu [shape=box, label=\"%u ", i, v->head->pid);
        for (const char *c = v->head->program; *c; c++)
            if (*c >= 0x20 && *c < 0x7f && *c != '"' && *c != '\\')
                fputc(*c, out);
        fputs("\"];\n", out);
        parent = v->process && v->process->ppid ? set_process(s, v, v->process->ppid) : NULL;
        for (size_t j = 0; parent && j < s->n_views; j++)
            if (s->views[j] == parent)
                fprintf(out, "  p%zu -> p%zu [style=bold, arrowhead=none];\n", j, i);
    }
}

static size_t number_of(const struct set *s, const struct view *v)
{
    size_t i = 0;

    while (i + 1 < s->n_views && s->views[i] != v)
        i++;
    return i;
}

/* Held by several processes, and one of them can write to it. */
static bool is_channel(const struct hold *h, size_t n)
{
    bool several = false, out = false;

    for (size_t i = 0; i < n; i++) {
        several |= h[i].view != h[0].view;
        out |= h[i].out;
    }
    return several && out;
}

/* Those that have a link, and those of which nobody can be seen to hold them. */
static void mark_shown(struct graph *g, const struct set *s)
{
    for (size_t i = 0; i < g->links.n; i++)
        g->shown[g->links.l[i].from] = g->shown[g->links.l[i].to] = true;
    for (size_t i = 0; i < s->n_objects; i++)
        g->shown[i] |= s->objects[i].kind == KIND_SYSV;
}

static void print_objects(FILE *out, const struct graph *g, const struct set *s)
{
    for (size_t i = 0; i < s->n_objects; i++) {
        if (!g->shown[i])
            continue;
        fprintf(out, "  o%zu [shape=ellipse, label=\"", i);
        print_label(out, &s->objects[i]);
        fputs("\"];\n", out);
    }
}

static void print_escaped(FILE *out, const char *text)
{
    for (const char *c = text; *c; c++)
        if (*c >= 0x20 && *c < 0x7f && *c != '"' && *c != '\\')
            fputc(*c, out);
}

static void print_links(FILE *out, const struct graph *g)
{
    for (size_t i = 0; i < g->links.n; i++) {
        const struct link *l = &g->links.l[i];
        if (l->how == LINK_OUTSIDE) {
            fprintf(out, "  x%zu [shape=plaintext, label=\"", i);
            print_escaped(out, l->text);
            fprintf(out, "\"];\n  o%zu -> x%zu [dir=both, style=dashed];\n", l->from, i);
        } else {
            fprintf(out, "  o%zu -> o%zu [%s];\n", l->from, l->to,
                    l->how == LINK_CONNECTED ? "dir=both, style=dashed"
                    : l->how == LINK_SENDS   ? "style=dashed"
                                             : "style=dotted, label=\"waits\"");
        }
    }
}

/* Who has an adjustment pending was there (SEM_UNDO). */
static void print_undo(FILE *out, const struct set *s)
{
    for (size_t i = 0; i < s->n_objects; i++) {
        const struct object *o = &s->objects[i];
        const Sysv *m = o->kind == KIND_SYSV && o->message ? (const Sysv *)o->message : NULL;
        for (size_t k = 0; m && k < m->n_undo; k++) {
            const struct view *v = set_process(s, o->view, m->undo[k]->pid);
            if (v)
                fprintf(out, "  p%zu -> o%zu [dir=both, label=\"undo\"];\n", number_of(s, v), i);
        }
    }
}

/* All holds of one object; those of one process become one edge. */
static void print_holds(FILE *out, const struct graph *g, const struct set *s, const struct hold *h, size_t n)
{
    size_t id = (size_t)(h[0].object - s->objects);

    if (!g->shown[id])
        return;
    for (size_t i = 0; i < n;) {
        const struct view *v = h[i].view;
        bool in = false, out_ = false;
        int fd = h[i].fd;

        for (; i < n && h[i].view == v; i++) {
            in |= h[i].in;
            out_ |= h[i].out;
            fd = fd < 0 ? h[i].fd : fd;
        }
        fprintf(out, "  p%zu -> o%zu [dir=%s", number_of(s, v), id,
                in && out_ ? "both"
                : in       ? "back"
                           : "forward");
        fprintf(out, fd >= 0 ? ", label=\"%d\"];\n" : ", label=\"memory\"];\n", fd);
    }
}

/* Find those that several hold, or print who holds them. */
static void each_object(FILE *out, struct graph *g, const struct set *s, bool print)
{
    for (size_t i = 0, n; i < g->n; i += n) {
        for (n = 1; i + n < g->n && g->holds[i + n].object == g->holds[i].object;)
            n++;
        if (print)
            print_holds(out, g, s, g->holds + i, n);
        else if (is_channel(g->holds + i, n))
            g->shown[g->holds[i].object - s->objects] = true;
    }
}

void inspect_dot(FILE *out, const struct set *s)
{
    struct graph g = {0};

    for (size_t i = 0; i < s->n_views; i++) {
        add_fds(&g, s, s->views[i]);
        add_mappings(&g, s, s->views[i]);
    }
    if (g.n)
        qsort(g.holds, g.n, sizeof(*g.holds), compare_holds);
    g.shown = calloc(s->n_objects + 1, sizeof(*g.shown));
    fputs("digraph checkpoint {\n", out);
    print_processes(out, s);
    if (g.shown) {
        links_find(s, &g.links);
        mark_shown(&g, s);
        each_object(out, &g, s, false);
        print_objects(out, &g, s);
        each_object(out, &g, s, true);
        print_links(out, &g);
        print_undo(out, s);
    }
    fputs("}\n", out);
    free(g.holds);
    free(g.shown);
    free(g.links.l);
}
