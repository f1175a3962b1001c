/* The steps that every object goes through, in the order of ids, so that one restart is like another. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "restorer/fd.h"
#include "restorer/lock.h"
#include "restorer/restore.h"

static int by_id(const void *a, const void *b)
{
    const struct robject *x = *(struct robject *const *)a, *y = *(struct robject *const *)b;

    return x->id < y->id ? -1 : x->id > y->id;
}

typedef int (*object_step)(struct restore *r, struct robject *o, struct err *err);

/* step: offset of the function in struct rebuild_ops. */
static int each(struct restore *r, size_t step, struct err *err)
{
    _cleanup_free_ struct robject **sorted = calloc(r->n_objects + 1, sizeof(struct robject *));
    size_t n = 0;

    if (!sorted)
        return err_set(err, ENOMEM, "out of memory");
    for (struct robject *o = r->objects; o && n < r->n_objects; o = o->next)
        sorted[n++] = o;
    qsort(sorted, n, sizeof(*sorted), by_id);
    for (size_t i = 0; i < n; i++) {
        object_step f;
        memcpy(&f, (const char *)sorted[i]->ops + step, sizeof(f));
        if (f && f(r, sorted[i], err) < 0)
            return err_wrap(err, "%s", kind_name(sorted[i]->ops->kind));
    }
    return 0;
}

int prepare_objects(struct restore *r, struct err *err)
{
    return each(r, offsetof(struct rebuild_ops, prepare), err);
}

int rebuild_objects(struct restore *r, struct err *err)
{
    return each(r, offsetof(struct rebuild_ops, rebuild), err);
}

/* Locks come when no descriptor is closed any more in any process: a close drops POSIX locks. */
int refill_objects(struct restore *r, struct err *err)
{
    if (each(r, offsetof(struct rebuild_ops, refill), err) < 0)
        return -err->code;
    return restore_locks(r, err);
}

int arm_kinds(struct restore *r, struct err *err)
{
    return each(r, offsetof(struct rebuild_ops, arm), err);
}

int go_objects(struct restore *r, struct err *err)
{
    return each(r, offsetof(struct rebuild_ops, go), err);
}

int last_objects(struct restore *r, struct err *err)
{
    return each(r, offsetof(struct rebuild_ops, last), err);
}
