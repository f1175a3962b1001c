/* What happens in each phase: see checkpoint.h, and DESIGN's "A checkpoint, step by step". */
#include "tracer/checkpoint.h"

#include <errno.h>

#include "base/log.h"
#include "base/util.h"
#include "tracer/collect.h"
#include "tracer/freeze.h"
#include "tracer/plugin.h"
#include "tracer/snapshot.h"
#include "tracer/sysv.h"

int checkpoint_freeze(struct checkpoint *k, struct follow *f, const struct ckpt_options *o, struct err *err)
{
    *k = (struct checkpoint){.running = true};
    k->c.options = *o;
    k->c.next_id = 1;
    k->c.objects_tail = &k->c.objects;
    k->c.ofds_tail = &k->c.ofds;
    k->c.arena = arena_new();
    if (!k->c.arena)
        return err_set(err, ENOMEM, "out of memory");
    k->frozen_at = monotonic_ns();
    if (freeze(&k->c, f, err) < 0)
        return -err->code;
    k->running = false;
    if (!k->c.nprocs)
        return err_set(err, ESRCH, "no process of the computation is left");
    return 0;
}

/* Run one step for every living process. */
static int each(struct checkpoint *k, int (*step)(struct ckpt *, struct proc *, struct err *), struct err *err)
{
    for (size_t i = 0; i < k->c.nprocs; i++)
        if (!k->c.procs[i]->zombie && step(&k->c, k->c.procs[i], err) < 0)
            return -err->code;
    return 0;
}

static int collect_memory(struct ckpt *c, struct proc *p, struct err *err)
{
    return p->shares_mm ? 0 : collect_pages(c, p, err);
}

int checkpoint_collect(struct checkpoint *k, struct err *err)
{
    if (plugins_before(&k->c, err) < 0 || each(k, prepare_threads, err) < 0)
        return -err->code;
    for (size_t i = 0; i < k->c.nprocs; i++)
        if (collect_process(&k->c, k->c.procs[i], err) < 0)
            return -err->code;
    if (refuse_namespaces(&k->c, err) < 0)
        return -err->code;
    log_trace("collect: processes");
    /* Threads first: ptrace cannot ask the one that runs the parasite. */
    if (collect_sharing(&k->c, err) < 0 || each(k, collect_threads, err) < 0 || each(k, enter_process, err) < 0)
        return -err->code;
    log_trace("collect: parasites are in");
    if (each(k, collect_mm, err) < 0 || each(k, collect_inside, err) < 0)
        return -err->code;
    log_trace("collect: threads and mappings");
    if (collect_fds(&k->c, err) < 0)
        return -err->code;
    log_trace("collect: descriptors");
    if (collect_sysv(&k->c, err) < 0)
        return -err->code;
    return each(k, collect_memory, err) < 0 ? -err->code : each(k, collect_inherited, err);
}

static int each_object(struct checkpoint *k, size_t op, struct err *err)
{
    typedef int (*object_op)(struct ckpt *, struct object *, struct err *);

    for (struct object *o = k->c.objects; o; o = o->next) {
        object_op f = *(const object_op *)((const char *)o->ops + op);
        if (f && f(&k->c, o, err) < 0)
            return -err->code;
    }
    return 0;
}

int checkpoint_match(struct checkpoint *k, struct err *err)
{
    return each_object(k, offsetof(struct kind_ops, match), err);
}

int checkpoint_peek_send(struct checkpoint *k, struct err *err)
{
    return each_object(k, offsetof(struct kind_ops, peek_send), err);
}

int checkpoint_peek_receive(struct checkpoint *k, struct err *err)
{
    return each_object(k, offsetof(struct kind_ops, peek_receive), err);
}

int checkpoint_write(struct checkpoint *k, const struct ckpt_identity *id, struct follow *f,
                     void (*progress)(void *, uint64_t), void *arg, struct err *err)
{
    k->c.generation = id->generation;
    if (begin_images(&k->c, id, &k->images, err) < 0)
        return -err->code;
    log_trace("write: records and objects");
    k->follow = f;
    if (f)
        snapshots_take(&k->c, f);
    return write_frozen(&k->c, progress, arg, err);
}

static void end_snapshots(struct checkpoint *k)
{
    if (k->follow && k->running)
        snapshots_end(&k->c, k->follow);
    k->follow = NULL;
}

int checkpoint_write_rest(struct checkpoint *k, void (*progress)(void *, uint64_t), void *arg, struct err *err)
{
    int r = write_rest(&k->c, k->images, progress, arg, err);

    log_trace("write: all");
    end_snapshots(k);
    return r;
}

void checkpoint_resume(struct checkpoint *k)
{
    struct err err;

    if (k->running)
        return;
    for (struct object *o = k->c.objects; o; o = o->next)
        if (o->ops->release)
            o->ops->release(&k->c, o);
    tcp_keep_end(&k->c);
    for (size_t i = 0; i < k->c.nprocs; i++)
        if (!k->c.procs[i]->zombie && leave_process(&k->c, k->c.procs[i], &err) < 0 && err.code != ESRCH)
            log_warn("%s", err.msg);
    plugins_after(&k->c);
    thaw(&k->c);
    k->running = true;
    k->thawed_at = monotonic_ns();
    log_trace("resumed");
}

void checkpoint_free(struct checkpoint *k)
{
    checkpoint_resume(k);
    end_snapshots(k);
    free_writers(&k->c);
    for (size_t i = 0; i < k->c.nprocs; i++)
        free_pages(k->c.procs[i]);
    free_images(k->images);
    free(k->c.procs);
    if (k->c.arena)
        arena_free(k->c.arena);
    *k = (struct checkpoint){.running = true};
}
