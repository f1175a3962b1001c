/*
 * Opening the images of a restart: what the command line names (images, a directory, a manifest) becomes the
 * processes, objects and descriptions of struct restore. Everything but the contents of the page chunks is
 * checked here, one image at a time; check.c then looks at all of them together.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/log.h"
#include "base/manifest.h"
#include "base/util.h"
#include "image/image.pb-c.h"
#include "restorer/core.h"

#define PROCS_MAX   100000u
#define THREADS_MAX 100000u

struct names {
    char **name;
    size_t n, cap;
};

static void names_free(struct names *l)
{
    for (size_t i = 0; i < l->n; i++)
        free(l->name[i]);
    free(l->name);
}

static int names_add(struct names *l, char *name, struct err *err)
{
    char **more = name ? grow(l->name, l->n, &l->cap, sizeof(*l->name)) : NULL;

    if (!more) {
        free(name);
        return err_set(err, ENOMEM, "out of memory");
    }
    l->name = more;
    l->name[l->n++] = name;
    return 0;
}

/* --- which files --- */

/* The images of this host in a manifest; one of several hosts is chosen by its name. */
static int add_manifest(const struct restore *r, struct names *l, const char *path, struct err *err)
{
    struct manifest *m;
    char here[HOST_NAME_MAX + 1] = "";
    int r2 = 0;

    if (manifest_read(path, &m, err) < 0)
        return -err->code;
    gethostname(here, sizeof(here) - 1);
    for (size_t i = 0; i < m->n_images && r2 == 0; i++) {
        const struct manifest_image *img = &m->image[i];
        const char *base = strrchr(img->path, '/');

        if (m->n_hosts > 1 && strcmp(m->host[img->host].hostname, here) != 0)
            continue;
        if (r->options.restartdir)
            r2 = names_add(l, format("%s/%s", r->options.restartdir, base ? base + 1 : img->path), err);
        else
            r2 = names_add(l, strdup(img->path), err);
    }
    manifest_free(m);
    if (r2 == 0 && l->n == 0)
        return err_set(err, ENOENT, "%s: it names no image of this host (%s)", path, here);
    return r2;
}

static int is_image_name(const struct dirent *d)
{
    const char *dot = strrchr(d->d_name, '.');

    return !strncmp(d->d_name, "ckpt_", 5) && dot && !strcmp(dot, ".dmtcp");
}

/* A directory: its newest manifest, or without one all images in it. */
static int add_directory(const struct restore *r, struct names *l, const char *dir, struct err *err)
{
    struct dirent **found;
    char *manifest;
    int n, r2 = 0;

    if (manifest_newest(dir, &manifest, err) == 0) {
        r2 = add_manifest(r, l, manifest, err);
        free(manifest);
        return r2;
    }
    if (err->code != ENOENT)
        return -err->code;
    n = scandir(dir, &found, is_image_name, alphasort);
    if (n < 0)
        return err_errno(err, "%s", dir);
    for (int i = 0; i < n; i++) {
        if (r2 == 0)
            r2 = names_add(l, format("%s/%s", dir, found[i]->d_name), err);
        free(found[i]);
    }
    free(found);
    if (r2 == 0 && n == 0)
        return err_set(err, ENOENT, "%s: there is no checkpoint in this directory", dir);
    return r2;
}

static int collect_names(const struct restore *r, struct names *l, char *const *names, size_t n, struct err *err)
{
    for (size_t i = 0; i < n; i++) {
        struct stat st;
        int r2;

        if (stat(names[i], &st) < 0)
            return err_errno(err, "%s", names[i]);
        if (S_ISDIR(st.st_mode))
            r2 = add_directory(r, l, names[i], err);
        else if (S_ISREG(st.st_mode) && manifest_is(names[i]) == 1)
            r2 = add_manifest(r, l, names[i], err);
        else
            r2 = names_add(l, strdup(names[i]), err);
        if (r2 < 0)
            return r2;
    }
    return 0;
}

/* --- one image --- */

/* An image says what will run, and as whom: it must not come from somebody else. */
static int check_owner(const struct restore *r, const struct rproc *p, struct err *err)
{
    struct stat st;

    if (r->options.no_strict_checking)
        return 0;
    if (fstat(image_fd(p->image), &st) < 0)
        return err_errno(err, "%s", p->path);
    if (st.st_uid != geteuid())
        return err_set(err, EPERM, "%s: it belongs to user %u, not to you (--no-strict-checking accepts that)",
                       p->path, st.st_uid);
    if (st.st_mode & S_IWOTH)
        return err_set(err, EPERM, "%s: everybody may write it (--no-strict-checking accepts that)", p->path);
    return 0;
}

static int unpack_one(struct rproc *p, uint32_t kind, void *to, struct err *err)
{
    const struct image_record *rec = image_find(p->image, kind, 0);
    void *msg;

    if (!rec)
        return 0;
    if (image_find(p->image, kind, 1))
        return err_set(err, EINVAL, "more than one record of kind %s", kind_name(kind));
    msg = image_unpack(p->image, rec, kind_message(kind), err);
    if (!msg)
        return -err->code;
    memcpy(to, &msg, sizeof(msg));
    return 0;
}

static int unpack_threads(struct rproc *p, struct err *err)
{
    size_t n = 0;

    while (image_find(p->image, KIND_THREAD, n))
        n++;
    if (n > THREADS_MAX)
        return err_set(err, EINVAL, "it has %zu threads", n);
    p->threads = calloc(n + 1, sizeof(*p->threads));
    if (!p->threads)
        return err_set(err, ENOMEM, "out of memory");
    for (; p->nthreads < n; p->nthreads++) {
        p->threads[p->nthreads] =
            image_unpack(p->image, image_find(p->image, KIND_THREAD, p->nthreads), &thread__descriptor, err);
        if (!p->threads[p->nthreads])
            return -err->code;
    }
    return 0;
}

static int unpack_ofd(struct restore *r, struct rproc *p, const struct image_record *rec, struct err *err)
{
    struct rofd *d = calloc(1, sizeof(*d));

    if (!d)
        return err_set(err, ENOMEM, "out of memory");
    d->fd = d->remote = -1;
    d->next = r->ofds;
    r->ofds = d;
    d->msg = image_unpack(p->image, rec, &ofd__descriptor, err);
    return d->msg ? 0 : -err->code;
}

/* Each object's message begins with its id (image/kinds.h). */
static int object_id(const ProtobufCMessage *msg, uint64_t *id, struct err *err)
{
    const ProtobufCFieldDescriptor *f = protobuf_c_message_descriptor_get_field_by_name(msg->descriptor, "id");

    if (!f || f->type != PROTOBUF_C_TYPE_UINT64 || f->label == PROTOBUF_C_LABEL_REPEATED)
        return err_set(err, EINVAL, "%s: a kind without an id", msg->descriptor->name);
    memcpy(id, (const uint8_t *)msg + f->offset, sizeof(*id));
    return 0;
}

static int unpack_object(struct restore *r, struct rproc *p, const struct image_record *rec, struct err *err)
{
    const struct rebuild_ops *const *ops = restorer_kinds;
    struct robject *o;

    while (*ops && (*ops)->kind != rec->kind)
        ops++;
    if (!*ops)
        return err_set(err, ENOTSUP, "it holds a record of kind %s (%u), which this version cannot rebuild",
                       kind_name(rec->kind), rec->kind);
    o = calloc(1, sizeof(*o));
    if (!o)
        return err_set(err, ENOMEM, "out of memory");
    *o = (struct robject){.ops = *ops, .home = p, .fd = -1, .next = r->objects};
    r->objects = o;
    r->n_objects++;
    o->msg = image_unpack(p->image, rec, (*ops)->descriptor, err);
    if (!o->msg)
        return -err->code;
    return object_id(o->msg, &o->id, err);
}

static int unpack_records(struct restore *r, struct rproc *p, struct err *err)
{
    size_t n;
    const struct image_record *rec = image_records(p->image, &n);

    for (size_t i = 0; i < n; i++) {
        int r2 = 0;

        if (rec[i].kind == KIND_OFD)
            r2 = unpack_ofd(r, p, &rec[i], err);
        else if (rec[i].kind > KIND_OFD)
            r2 = unpack_object(r, p, &rec[i], err);
        else if (!kind_known(rec[i].kind))
            r2 = err_set(err, ENOTSUP, "a record of unknown kind %u (a newer version's?)", rec[i].kind);
        if (r2 < 0)
            return r2;
    }
    return 0;
}

static int open_one(struct restore *r, struct rproc *p, const char *path, struct err *err)
{
    p->path = path;
    p->inj.pidfd = p->inj.ctl = -1;
    if (image_open(&p->image, path, err) < 0 || check_owner(r, p, err) < 0)
        return -err->code;
    if (unpack_one(p, KIND_HEAD, &p->head, err) < 0 || unpack_one(p, KIND_PROCESS, &p->process, err) < 0 ||
        unpack_one(p, KIND_MM, &p->mm, err) < 0 || unpack_one(p, KIND_SIGNAL, &p->signals, err) < 0 ||
        unpack_one(p, KIND_TIMER, &p->timers, err) < 0 || unpack_one(p, KIND_FDTABLE, &p->fdtable, err) < 0 ||
        unpack_threads(p, err) < 0)
        return err_wrap(err, "%s", path);
    if (!p->process || !p->head)
        return err_set(err, EINVAL, "%s: it does not say which process it is of", path);
    p->pid = p->process->pid;
    return check_process(r, p, err) < 0 ? err_wrap(err, "%s", path) : 0;
}

/* --- all of them --- */

struct index {
    struct robject **object;
    struct rofd **ofd;
    size_t n_objects, n_ofds;
    struct names names;
};

static int by_pid(const void *a, const void *b)
{
    const struct rproc *x = a, *y = b;

    return x->pid < y->pid ? -1 : x->pid > y->pid;
}

static int by_object_id(const void *a, const void *b)
{
    const struct robject *x = *(struct robject *const *)a, *y = *(struct robject *const *)b;

    return x->id < y->id ? -1 : x->id > y->id;
}

static int by_ofd_id(const void *a, const void *b)
{
    const struct rofd *x = *(struct rofd *const *)a, *y = *(struct rofd *const *)b;

    return x->msg->id < y->msg->id ? -1 : x->msg->id > y->msg->id;
}

static int make_index(struct restore *r, struct index *ix, struct err *err)
{
    size_t n = 0;

    for (struct rofd *d = r->ofds; d; d = d->next)
        n++;
    ix->object = calloc(r->n_objects + 1, sizeof(*ix->object));
    ix->ofd = calloc(n + 1, sizeof(*ix->ofd));
    if (!ix->object || !ix->ofd)
        return err_set(err, ENOMEM, "out of memory");
    for (struct robject *o = r->objects; o; o = o->next)
        ix->object[ix->n_objects++] = o;
    for (struct rofd *d = r->ofds; d; d = d->next)
        ix->ofd[ix->n_ofds++] = d;
    qsort(ix->object, ix->n_objects, sizeof(*ix->object), by_object_id);
    qsort(ix->ofd, ix->n_ofds, sizeof(*ix->ofd), by_ofd_id);
    for (size_t i = 1; i < ix->n_objects; i++)
        if (ix->object[i]->id == ix->object[i - 1]->id)
            return err_set(err, EINVAL, "%s: object %llu is there twice", ix->object[i]->home->path,
                           (unsigned long long)ix->object[i]->id);
    for (size_t i = 1; i < ix->n_ofds; i++)
        if (ix->ofd[i]->msg->id == ix->ofd[i - 1]->msg->id)
            return err_set(err, EINVAL, "open file description %llu is there twice",
                           (unsigned long long)ix->ofd[i]->msg->id);
    for (size_t i = 0; i < ix->n_ofds; i++) {
        ix->ofd[i]->object = restore_object(r, ix->ofd[i]->msg->object);
        if (!ix->ofd[i]->object)
            return err_set(err, EINVAL, "object %llu of an open file is in none of the images",
                           (unsigned long long)ix->ofd[i]->msg->object);
    }
    return 0;
}

int images_open(struct restore *r, char *const *names, size_t n, struct err *err)
{
    struct index *ix = calloc(1, sizeof(*ix));

    if (!ix)
        return err_set(err, ENOMEM, "out of memory");
    r->index = ix;
    if (collect_names(r, &ix->names, names, n, err) < 0)
        return -err->code;
    if (ix->names.n == 0 || ix->names.n > PROCS_MAX)
        return err_set(err, EINVAL, "%zu images are given", ix->names.n);
    r->procs = calloc(ix->names.n, sizeof(*r->procs));
    if (!r->procs)
        return err_set(err, ENOMEM, "out of memory");
    for (; r->nprocs < ix->names.n; r->nprocs++)
        if (open_one(r, &r->procs[r->nprocs], ix->names.name[r->nprocs], err) < 0) {
            r->nprocs++;
            return -err->code;
        }
    /* Objects refer to their home by address, so the processes find their places first. */
    qsort(r->procs, r->nprocs, sizeof(*r->procs), by_pid);
    for (size_t i = 0; i < r->nprocs; i++)
        if (unpack_records(r, &r->procs[i], err) < 0)
            return err_wrap(err, "%s", r->procs[i].path);
    return make_index(r, ix, err);
}

int images_verify(struct restore *r, struct err *err)
{
    for (size_t i = 0; i < r->nprocs; i++)
        if (image_verify(r->procs[i].image, err) < 0)
            return err_wrap(err, "%s", r->procs[i].path);
    return 0;
}

static void free_msg(void *msg)
{
    if (msg)
        protobuf_c_message_free_unpacked(msg, NULL);
}

void images_close(struct restore *r)
{
    struct index *ix = r->index;

    for (size_t i = 0; i < r->nprocs; i++) {
        struct rproc *p = &r->procs[i];

        for (size_t t = 0; t < p->nthreads; t++)
            free_msg(p->threads[t]);
        free(p->threads);
        free_msg(p->head);
        free_msg(p->process);
        free_msg(p->own_mm ? p->own_mm : p->mm);
        free_msg(p->signals);
        free_msg(p->timers);
        free_msg(p->fdtable);
        image_free(p->image);
    }
    free(r->procs);
    for (struct robject *o = r->objects, *next; o; o = next) {
        next = o->next;
        free_msg(o->msg);
        free(o);
    }
    for (struct rofd *d = r->ofds, *next; d; d = next) {
        next = d->next;
        free_msg(d->msg);
        free(d);
    }
    if (ix) {
        names_free(&ix->names);
        free(ix->object);
        free(ix->ofd);
    }
    free(ix);
    restore_free_kept(r);
    r->index = NULL;
    r->procs = NULL;
    r->objects = NULL;
    r->ofds = NULL;
    r->nprocs = r->n_objects = 0;
}

struct robject *restore_object(const struct restore *r, uint64_t id)
{
    const struct index *ix = r->index;
    struct robject key = {.id = id}, *k = &key, **found;

    found = bsearch(&k, ix->object, ix->n_objects, sizeof(*ix->object), by_object_id);
    return found ? *found : NULL;
}

struct rofd *restore_ofd(const struct restore *r, uint64_t id)
{
    const struct index *ix = r->index;
    Ofd msg = {.id = id};
    struct rofd key = {.msg = &msg}, *k = &key, **found;

    found = bsearch(&k, ix->ofd, ix->n_ofds, sizeof(*ix->ofd), by_ofd_id);
    return found ? *found : NULL;
}

struct rproc *restore_proc(const struct restore *r, pid_t pid)
{
    struct rproc key = {.pid = pid};

    return bsearch(&key, r->procs, r->nprocs, sizeof(*r->procs), by_pid);
}
