/*
 * Writing images. One file per process; what processes share is in the image of the first that has it. The
 * contents of memory are written by several threads at once (memory.c), records before them by one.
 */
#include "tracer/write.h"

#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/util.h"
#include "image/file.h"
#include "image/image.pb-c.h"
#include "tracer/memory.h"
#include "tracer/pool.h"

struct set_item {
    struct image_file *file;
    char *path; /* final, absolute */
    uint64_t size;
    struct proc *proc;
    char *program;
    pid_t pid;
    bool foreground, published;
};

struct image_set {
    struct set_item *items;
    size_t n;
    int dirfd;
};

void free_images(struct image_set *set)
{
    if (!set)
        return;
    for (size_t i = 0; i < set->n; i++) {
        image_file_free(set->items[i].file);
        free(set->items[i].path);
        free(set->items[i].program);
    }
    free(set->items);
    if (set->dirfd >= 0)
        close(set->dirfd);
    free(set);
}

/* The program's name for file names: only what needs no thought in a shell. */
static char *program_name(const struct proc *p)
{
    const char *exe = p->process->exe.len ? (char *)p->process->exe.data : (char *)p->process->comm.data;
    const char *slash = strrchr(exe, '/');
    char *name = strdup(slash && slash[1] ? slash + 1 : exe);

    if (!name)
        return NULL;
    if (strlen(name) > 64)
        name[64] = '\0';
    for (char *s = name; *s; s++)
        if (!strchr("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._+-", *s))
            *s = '_';
    return name;
}

static void read_line(const char *path, char *buf, size_t size)
{
    _cleanup_free_ char *text = NULL;

    buf[0] = '\0';
    if (read_file(AT_FDCWD, path, &text, NULL) < 0)
        return;
    snprintf(buf, size, "%s", text);
    buf[strcspn(buf, "\n")] = '\0';
}

static uint64_t xcr0(void)
{
    uint32_t a, b, c, d;

    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & (1u << 27)))
        return 0;
    __asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
    return (uint64_t)d << 32 | a;
}

static void fill_head(struct ckpt *c, struct proc *p, const struct ckpt_identity *id,
                      const struct set_item *it, ImageHead *h, MachineInfo *m)
{
    struct utsname un;
    struct timespec ts;
    char boot[64], host[256] = "";

    image_head__init(h);
    machine_info__init(m);
    uname(&un);
    read_line("/proc/sys/kernel/random/boot_id", boot, sizeof(boot));
    gethostname(host, sizeof(host) - 1);
    clock_gettime(CLOCK_REALTIME, &ts);
    h->computation = arena_printf(c->arena, "%s", id->computation);
    h->generation = id->generation;
    h->time_ns = (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
    h->writer = arena_printf(c->arena, "dmtcp %s", DMTCP_VERSION);
    h->pid = (uint32_t)p->pid;
    h->program = it->program;
    h->host_id = arena_printf(c->arena, "%s", id->host_id);
    h->host_name = arena_printf(c->arena, "%s", host);
    h->machine = m;
    if (p->timers) {
        h->monotonic_ns = (uint64_t)p->timers->monotonic_ns;
        h->boottime_ns = (uint64_t)p->timers->boottime_ns;
    }
    m->release = arena_printf(c->arena, "%s", un.release);
    m->boot_id = arena_printf(c->arena, "%s", boot);
    m->cpu_model = arena_printf(c->arena, "%s", "");
    m->xcr0 = xcr0();
    m->xstate_size = p->nthreads && p->threads[0].msg ? (uint32_t)p->threads[0].msg->xstate.len : 0;
}

/* A leader that has ended while others go on is rebuilt to end again: any state of the right form will do. */
static int put_dead_leader(struct proc *p, struct err *err)
{
    Thread t = THREAD__INIT;

    t.tid = p->pid;
    t.exited = 1;
    t.comm = p->process->comm;
    t.regs = p->threads[0].msg->regs;
    t.xstate = p->threads[0].msg->xstate;
    t.call_remaining_ns = -1;
    return image_put_msg(p->writer, KIND_THREAD, &t.base, err);
}

static int put_process(struct ckpt *c, struct proc *p, const struct ckpt_identity *id,
                       const struct set_item *it, struct err *err)
{
    ImageHead h;
    MachineInfo m;
    struct image_writer *w = p->writer;

    fill_head(c, p, id, it, &h, &m);
    if (image_put_msg(w, KIND_HEAD, &h.base, err) < 0 ||
        image_put_msg(w, KIND_PROCESS, &p->process->base, err) < 0)
        return -err->code;
    if (p->zombie)
        return 0;
    if (p->leader_dead && put_dead_leader(p, err) < 0)
        return -err->code;
    for (size_t i = 0; i < p->nthreads; i++)
        if (image_put_msg(w, KIND_THREAD, &p->threads[i].msg->base, err) < 0)
            return -err->code;
    if (image_put_msg(w, KIND_SIGNAL, &p->signals->base, err) < 0 ||
        image_put_msg(w, KIND_TIMER, &p->timers->base, err) < 0 ||
        image_put_msg(w, KIND_MM, &p->mm->base, err) < 0)
        return -err->code;
    return p->fdtable ? image_put_msg(w, KIND_FDTABLE, &p->fdtable->base, err) : 0;
}

/* What nobody has open goes where the socket is in whose queue it waits. */
static struct image_writer *writer_of(const struct proc *p)
{
    return p->stands_for ? p->stands_for->writer : p->writer;
}

static int put_objects(struct ckpt *c, struct err *err)
{
    for (struct object *o = c->objects; o; o = o->next) {
        if (!o->msg)
            continue;
        if (image_put_msg(writer_of(o->proc), o->ops->kind, o->msg, err) < 0)
            return -err->code;
        if (o->ops->write && o->ops->write(c, o, writer_of(o->proc), err) < 0)
            return -err->code;
    }
    for (struct ofd *d = c->ofds; d; d = d->next)
        if (image_put_msg(writer_of(d->proc), KIND_OFD, &d->msg->base, err) < 0)
            return -err->code;
    return 0;
}

static int begin_image(struct ckpt *c, struct proc *p, const struct ckpt_identity *id, struct image_set *set,
                       struct err *err)
{
    struct image_options o = {
        .compress = c->options.compress, .level = c->options.level, .early = sync_wanted()};
    struct set_item *it = &set->items[set->n++];

    it->proc = p;
    it->pid = p->pid;
    it->foreground = p->is_root;
    it->program = program_name(p);
    if (!it->program)
        return err_set(err, ENOMEM, "out of memory");
    _cleanup_free_ char *name = format("ckpt_%s_%s-%d-%lld_%05u.dmtcp", it->program, id->host_id, p->pid,
                                       (long long)id->time, id->generation);
    it->path = format("%s/%s", c->options.ckptdir, name ? name : "");
    if (!it->path || !name)
        return err_set(err, ENOMEM, "out of memory");
    if (image_file_create(&it->file, set->dirfd, name, err) < 0)
        return err_wrap(err, "%s", c->options.ckptdir);
    if (image_create(&p->writer, image_file_fd(it->file), &o, err) < 0 || put_process(c, p, id, it, err) < 0)
        return err_wrap(err, "%s", it->path);
    return 0;
}

void free_writers(struct ckpt *c)
{
    for (size_t i = 0; i < c->nprocs; i++) {
        image_writer_free(c->procs[i]->writer);
        c->procs[i]->writer = NULL;
    }
}

static int finish_images(struct image_set *set, struct err *err)
{
    for (size_t i = 0; i < set->n; i++) {
        struct proc *p = set->items[i].proc;
        if (image_finish(p->writer, err) < 0)
            return err_wrap(err, "%s", set->items[i].path);
        set->items[i].size = image_bytes(p->writer);
    }
    return 0;
}

static int begin_all(struct ckpt *c, const struct ckpt_identity *id, struct image_set *set, struct err *err)
{
    for (size_t i = 0; i < c->nprocs; i++)
        if (begin_image(c, c->procs[i], id, set, err) < 0)
            return -err->code;
    return put_objects(c, err) < 0 ? err_wrap(err, "%s", c->options.ckptdir) : 0;
}

int begin_images(struct ckpt *c, const struct ckpt_identity *id, struct image_set **out, struct err *err)
{
    struct image_set *set = calloc(1, sizeof(*set));
    int r;

    if (set)
        set->items = calloc(c->nprocs + 1, sizeof(*set->items));
    if (!set || !set->items) {
        free(set);
        return err_set(err, ENOMEM, "out of memory");
    }
    set->dirfd = open(c->options.ckptdir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    r = set->dirfd < 0 ? err_errno(err, "checkpoint directory %s", c->options.ckptdir)
                       : begin_all(c, id, set, err);
    if (r == 0) {
        *out = set;
        return 0;
    }
    free_writers(c);
    free_images(set);
    return r;
}

int write_frozen(struct ckpt *c, void (*progress)(void *, uint64_t), void *arg, struct err *err)
{
    return store_pages(c, false, progress, arg, err) < 0 ? err_wrap(err, "%s", c->options.ckptdir) : 0;
}

int write_rest(struct ckpt *c, struct image_set *set, void (*progress)(void *, uint64_t), void *arg,
               struct err *err)
{
    int r = store_pages(c, true, progress, arg, err) < 0 ? err_wrap(err, "%s", c->options.ckptdir) : 0;

    if (r == 0)
        r = finish_images(set, err);
    free_writers(c);
    return r;
}

void describe_images(struct ckpt *c, const struct image_set *set, Wire__PhaseDone *out)
{
    out->processes = (uint32_t)set->n;
    out->n_image = 0;
    out->image = NULL;
    for (size_t i = 0; i < set->n; i++) {
        Wire__Image *m = arena_alloc(c->arena, sizeof(*m));
        wire__image__init(m);
        m->path = arena_printf(c->arena, "%s", set->items[i].path);
        m->size = set->items[i].size;
        m->program = arena_printf(c->arena, "%s", set->items[i].program);
        m->pid = set->items[i].pid;
        m->foreground = set->items[i].foreground;
        arena_push(c->arena, (void ***)&out->image, &out->n_image, m);
    }
}

static int sync_one(void *arg, unsigned worker, size_t i, struct err *err)
{
    struct image_set *set = arg;

    (void)worker;
    if (image_file_sync(set->items[i].file, err) < 0)
        return err_wrap(err, "%s", set->items[i].path);
    return 0;
}

int sync_images(struct image_set *set, struct err *err)
{
    return pool_run(sync_one, set, set->n, err);
}

int publish_images(struct image_set *set, struct err *err)
{
    for (size_t i = 0; i < set->n; i++) {
        if (image_file_publish(set->items[i].file, 1, err) < 0)
            return err_wrap(err, "%s", set->items[i].path);
        set->items[i].published = true;
    }
    return image_dir_sync(set->dirfd, err);
}

void withdraw_images(struct image_set *set)
{
    for (size_t i = 0; set && i < set->n; i++)
        if (set->items[i].published && unlink(set->items[i].path) < 0)
            log_warn("%s: cannot be removed: %s", set->items[i].path, strerror(errno));
}
