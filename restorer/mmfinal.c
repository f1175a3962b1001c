/*
 * Address spaces, second part, when all processes are forked and filled: what was writable only to be filled
 * loses that again, then advice, names, locks and seals.
 */
#include <errno.h>
#include <linux/prctl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "base/util.h"
#include "image/vma.h"
#include "restorer/core.h"

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif
#ifndef SYS_mseal
#define SYS_mseal 462
#endif
#ifndef PR_SET_VMA
#define PR_SET_VMA           0x53564d41
#define PR_SET_VMA_ANON_NAME 0
#endif
#ifndef MLOCK_ONFAULT
#define MLOCK_ONFAULT 1
#endif

/* What the kernel puts there, now or (rings) when all threads are there. */
static bool is_kernels(const Vma *v)
{
    return v->kind == VMA_VDSO || v->kind == VMA_VVAR || v->kind == VMA_VSYSCALL || v->kind == VMA_IOURING ||
           v->kind == VMA_AIO;
}

/* Each pkey in use, in ascending order as pkey_alloc(2) gives them; unused ones between are freed again. */
static void add_pkeys(const Mm *mm, struct inj_batch *b)
{
    uint32_t used = 0, top = 0;

    for (size_t i = 0; i < mm->n_vmas; i++) {
        used |= 1u << mm->vmas[i]->pkey;
        if (mm->vmas[i]->pkey > top)
            top = mm->vmas[i]->pkey;
    }
    for (uint32_t k = 1; k <= top; k++)
        inj_call(b, BLOB_MUST, SYS_pkey_alloc, 0, 0);
    for (uint32_t k = 1; k <= top; k++)
        if (!(used >> k & 1))
            inj_call(b, 0, SYS_pkey_free, k);
}

static void add_protection(const Vma *v, struct inj_batch *b)
{
    if (v->pkey)
        inj_call(b, BLOB_MUST, SYS_pkey_mprotect, v->start, v->end - v->start, v->prot, v->pkey);
    else if ((v->flags & MAP_PRIVATE) || v->kind == VMA_SYSV)
        inj_call(b, BLOB_MUST, SYS_mprotect, v->start, v->end - v->start, v->prot);
}

static void add_advice(const Vma *v, struct inj_batch *b)
{
    static const struct {
        uint64_t bit;
        int advice;
        uint32_t must;
    } all[] = {
        {VMA_ADV_DONTFORK, MADV_DONTFORK, BLOB_MUST},     {VMA_ADV_WIPEONFORK, MADV_WIPEONFORK, BLOB_MUST},
        {VMA_ADV_DONTDUMP, MADV_DONTDUMP, 0},     {VMA_ADV_MERGEABLE, MADV_MERGEABLE, 0},
        {VMA_ADV_HUGEPAGE, MADV_HUGEPAGE, 0},     {VMA_ADV_NOHUGEPAGE, MADV_NOHUGEPAGE, 0},
        {VMA_ADV_SEQUENTIAL, MADV_SEQUENTIAL, 0}, {VMA_ADV_RANDOM, MADV_RANDOM, 0},
    };
    uint64_t advice = v->advice & VMA_ADV_DROPPABLE ? v->advice & ~(uint64_t)(VMA_ADV_WIPEONFORK | VMA_ADV_DONTDUMP)
                                                    : v->advice;

    for (size_t i = 0; i < ARRAY_SIZE(all); i++)
        if (advice & all[i].bit)
            inj_call(b, all[i].must, SYS_madvise, v->start, v->end - v->start, all[i].advice);
}

static void add_name(const Vma *v, struct inj_batch *b)
{
    char name[256] = "";

    if (!v->name.len)
        return;
    memcpy(name, v->name.data, v->name.len);
    inj_call(b, 0, SYS_prctl, PR_SET_VMA, PR_SET_VMA_ANON_NAME, v->start, v->end - v->start, inj_str(b, name));
}

static int set_vmas(struct rproc *p, struct inj_batch *b, struct err *err)
{
    const Mm *mm = p->mm;

    add_pkeys(mm, b);
    for (size_t i = 0; i < mm->n_vmas; i++) {
        const Vma *v = mm->vmas[i];
        if (is_kernels(v))
            continue;
        add_advice(v, b);
        add_name(v, b);
        add_protection(v, b);
        if (run_full_batch(b, "mappings", err) < 0)
            return -err->code;
    }
    for (size_t i = 0; i < mm->n_guards; i++) {
        inj_call(b, BLOB_MUST, SYS_madvise, mm->guards[i]->start, mm->guards[i]->end - mm->guards[i]->start,
                 MADV_GUARD_INSTALL);
        if (run_full_batch(b, "guard pages", err) < 0)
            return -err->code;
    }
    return 0;
}

/* Locks may fault pages in, and sealed mappings cannot be changed any more: last. */
static int lock_and_seal(struct rproc *p, struct inj_batch *b, struct err *err)
{
    const Mm *mm = p->mm;

    for (size_t i = 0; i < mm->n_vmas; i++) {
        const Vma *v = mm->vmas[i];
        if (!is_kernels(v) && (v->advice & (VMA_ADV_LOCKED | VMA_ADV_LOCKONFAULT)))
            inj_call(b, v->prot ? BLOB_MUST : 0, SYS_mlock2, v->start, v->end - v->start,
                     v->advice & VMA_ADV_LOCKONFAULT ? MLOCK_ONFAULT : 0);
        if (run_full_batch(b, "locking memory", err) < 0)
            return -err->code;
    }
    if (mm->mlock_future)
        inj_call(b, BLOB_MUST, SYS_mlockall, mm->mlock_future & ~(uint32_t)MCL_CURRENT);
    if (run_batch(b, "locking memory", err) < 0)
        return -err->code;
    for (size_t i = 0; i < mm->n_vmas; i++) {
        const Vma *v = mm->vmas[i];
        if (!is_kernels(v) && (v->advice & VMA_ADV_SEALED))
            inj_call(b, BLOB_MUST, SYS_mseal, v->start, v->end - v->start, 0);
        if (run_full_batch(b, "sealing memory", err) < 0)
            return -err->code;
    }
    return run_batch(b, "sealing memory", err);
}

int mm_finish(struct restore *r, struct rproc *p, struct err *err)
{
    _cleanup_batch_ struct inj_batch b = {0};

    if (inj_begin(&b, &p->inj, err) < 0)
        return -err->code;
    if (set_vmas(p, &b, err) < 0 || vdso_place(r, p, &b, err) < 0 || run_batch(&b, "mappings", err) < 0 ||
        lock_and_seal(p, &b, err) < 0)
        return err_wrap(err, "process %d: memory", p->pid);
    return 0;
}
