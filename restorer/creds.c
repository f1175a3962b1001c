/*
 * Credentials. The kernel keeps them per thread, and a thread can only be made with its id by one that may choose
 * ids; so each thread gives up what it must not have by itself, last. Only what differs from what it
 * inherited from the driver is set.
 */
#include <errno.h>
#include <linux/capability.h>
#include <linux/prctl.h>
#include <linux/securebits.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/log.h"
#include "base/util.h"
#include "restorer/core.h"

#define CAPS 41 /* cap_last_cap of the kernels that there are; unknown ones just fail */

struct caps {
    uint64_t inheritable, permitted, effective, bounding, ambient;
};

static void read_caps(struct caps *c)
{
    struct __user_cap_header_struct h = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct d[2] = {0};

    *c = (struct caps){0};
    if (syscall(SYS_capget, &h, d) == 0) {
        c->inheritable = d[0].inheritable | (uint64_t)d[1].inheritable << 32;
        c->permitted = d[0].permitted | (uint64_t)d[1].permitted << 32;
        c->effective = d[0].effective | (uint64_t)d[1].effective << 32;
    }
    for (unsigned long i = 0; i < CAPS; i++) {
        if (syscall(SYS_prctl, PR_CAPBSET_READ, i, 0, 0, 0) == 1)
            c->bounding |= 1ull << i;
        if (syscall(SYS_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, i, 0, 0) == 1)
            c->ambient |= 1ull << i;
    }
}

/* Asked once, in the user namespace of the restart: it takes two calls for each capability. */
int creds_init(struct restore *r, struct err *err)
{
    r->caps = restore_alloc(r, sizeof(*r->caps));
    if (!r->caps)
        return err_set(err, ENOMEM, "out of memory");
    read_caps(r->caps);
    return 0;
}

static void add_capset(struct inj_batch *b, uint64_t eff, uint64_t perm, uint64_t inh)
{
    struct __user_cap_header_struct h = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct d[2] = {
        {(uint32_t)eff, (uint32_t)perm, (uint32_t)inh},
        {(uint32_t)(eff >> 32), (uint32_t)(perm >> 32), (uint32_t)(inh >> 32)},
    };

    inj_call(b, BLOB_MUST, SYS_capset, inj_data(b, &h, sizeof(h)), inj_data(b, d, sizeof(d)));
}

static bool same_ids(const Process *m)
{
    uid_t u[3];
    gid_t g[3];

    getresuid(&u[0], &u[1], &u[2]);
    getresgid(&g[0], &g[1], &g[2]);
    for (int i = 0; i < 3; i++)
        if (m->uids[i] != u[i] || m->gids[i] != g[i])
            return false;
    return m->uids[3] == u[1] && m->gids[3] == g[1];
}

static bool same_groups(const Process *m)
{
    gid_t mine[1024];
    int n = getgroups(1024, mine);

    if (n < 0 || (size_t)n != m->n_groups)
        return false;
    for (int i = 0; i < n; i++)
        if (mine[i] != m->groups[i])
            return false;
    return true;
}

static void add_ids(const struct restore *r, const Process *m, struct inj_batch *b)
{
    if (!r->new_userns && !same_groups(m))
        inj_call(b, BLOB_MUST, SYS_setgroups, m->n_groups, inj_data(b, m->groups, m->n_groups * sizeof(gid_t)));
    if (same_ids(m))
        return;
    inj_call(b, BLOB_MUST, SYS_prctl, PR_SET_KEEPCAPS, 1);
    inj_call(b, BLOB_MUST, SYS_setresgid, m->gids[0], m->gids[1], m->gids[2]);
    inj_call(b, 0, SYS_setfsgid, m->gids[3]);
    inj_call(b, BLOB_MUST, SYS_setresuid, m->uids[0], m->uids[1], m->uids[2]);
    inj_call(b, 0, SYS_setfsuid, m->uids[3]);
    inj_call(b, 0, SYS_prctl, PR_SET_KEEPCAPS, 0);
}

void creds_add(const struct restore *r, const struct rproc *p, struct inj_batch *b)
{
    const Process *m = p->process;
    const struct caps *mine = r->caps;
    uint64_t perm;

    for (unsigned long i = 0; i < CAPS; i++)
        if ((mine->bounding & ~m->cap_bounding) >> i & 1)
            inj_call(b, BLOB_MUST, SYS_prctl, PR_CAPBSET_DROP, i);
    add_ids(r, m, b);
    perm = m->cap_permitted & mine->permitted;
    if (m->securebits || m->keepcaps) {
        add_capset(b, mine->permitted, mine->permitted, m->cap_inheritable & mine->permitted);
        inj_call(b, BLOB_MUST, SYS_prctl, PR_SET_SECUREBITS, m->securebits);
    }
    if (perm != mine->permitted || (m->cap_effective & perm) != mine->effective || !same_ids(m) ||
        m->cap_inheritable != mine->inheritable)
        add_capset(b, m->cap_effective & perm, perm, m->cap_inheritable & (mine->permitted | mine->inheritable));
    if (m->cap_ambient != mine->ambient) {
        inj_call(b, 0, SYS_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL);
        for (unsigned long i = 0; i < CAPS; i++)
            if (m->cap_ambient >> i & 1)
                inj_call(b, 0, SYS_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, i);
    }
    if (m->no_new_privs)
        inj_call(b, BLOB_MUST, SYS_prctl, PR_SET_NO_NEW_PRIVS, 1);
}

/* --- may we? ------------------------------------------------------------------------------------- */

static bool has(const struct caps *c, unsigned cap)
{
    return c->effective >> cap & 1;
}

static int check_ids(const struct rproc *p, const struct caps *mine, struct err *err)
{
    const Process *m = p->process;

    if (same_ids(m) || (has(mine, CAP_SETUID) && has(mine, CAP_SETGID)))
        return 0;
    return err_set(err, EPERM, "%s: it ran as user %u and group %u, which only root can become", p->path, m->uids[1],
                   m->gids[1]);
}

static int check_groups(const struct rproc *p, const struct caps *mine, struct err *err)
{
    gid_t have[1024];
    int n = getgroups(1024, have);

    if (has(mine, CAP_SETGID))
        return 0;
    for (size_t i = 0; i < p->process->n_groups; i++) {
        gid_t want = p->process->groups[i];
        bool found = want == 65534 || want == getegid();
        for (int k = 0; k < n && !found; k++)
            found = have[k] == want;
        if (!found)
            return err_set(err, EPERM, "%s: it was a member of group %u, which you are not", p->path, want);
    }
    return 0;
}

static int check_limits(const struct rproc *p, const struct caps *mine, struct err *err)
{
    for (size_t i = 0; i < p->process->n_rlimits; i++) {
        const Rlimit *want = p->process->rlimits[i];
        struct rlimit have;

        if (has(mine, CAP_SYS_RESOURCE) || getrlimit((__rlimit_resource_t)want->resource, &have) < 0 ||
            want->max <= have.rlim_max)
            continue;
        return err_set(err, EPERM,
                       "%s: its limit number %u (ulimit -H) was %llu, here it is %llu, and raising it needs CAP_SYS_RESOURCE",
                       p->path, want->resource, (unsigned long long)want->max, (unsigned long long)have.rlim_max);
    }
    return 0;
}

int check_rights(const struct restore *r, struct err *err)
{
    struct caps mine;

    read_caps(&mine);
    for (size_t i = 0; i < r->nprocs; i++) {
        const struct rproc *p = &r->procs[i];
        uint64_t lack = p->process->cap_permitted & ~mine.bounding;

        if (p->process->state == 1)
            continue;
        if (check_ids(p, &mine, err) < 0 || check_groups(p, &mine, err) < 0 || check_limits(p, &mine, err) < 0)
            return -err->code;
        if (lack && has(&mine, CAP_SETUID))
            return err_set(err, EPERM, "%s: it had capability %u, which is not to be had here", p->path,
                           (unsigned)__builtin_ctzll(lack));
    }
    return 0;
}
