/* The trees that the tracer follows: taking them in, letting them go, ending and listing them. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>

#include "base/log.h"
#include "base/util.h"
#include "plugin/plugin.h"
#include "tracer/freeze.h"
#include "tracer/procfs.h"
#include "tracer/tracer.h"

/* A protobuf-c message has no copy function: packing and unpacking is one. */
static Wire__TreeOptions *copy_options(const Wire__TreeOptions *o)
{
    Wire__TreeOptions none = WIRE__TREE_OPTIONS__INIT;
    size_t n;

    o = o ? o : &none;
    n = wire__tree_options__get_packed_size(o);
    _cleanup_free_ uint8_t *buf = malloc(n + 1);
    if (!buf)
        return NULL;
    wire__tree_options__pack(o, buf);
    return wire__tree_options__unpack(NULL, n, buf);
}

static int load_plugins(const Wire__TreeOptions *o, struct err *err)
{
    for (size_t i = 0; o && i < o->n_plugin; i++)
        if (plugin_load(o->plugin[i], true, err) < 0)
            return -err->code;
    return 0;
}

/* Those of the restart, as open files: what they are called may be something else by now. */
static int take_over_plugins(const Wire__TracerConfig *config, struct err *err)
{
    for (size_t i = 0; i < config->n_plugin && i < config->n_plugin_fd; i++) {
        fcntl(config->plugin_fd[i], F_SETFD, FD_CLOEXEC);
        if (plugin_load_fd(config->plugin_fd[i], config->plugin[i], err) < 0)
            return -err->code;
    }
    return 0;
}

static int add_tree(struct tracer *t, pid_t root, const Wire__TreeOptions *o, struct err *err)
{
    struct tree *more = grow(t->trees, t->ntrees, &t->cap_trees, sizeof(*more));

    if (!more)
        return err_set(err, ENOMEM, "out of memory");
    t->trees = more;
    more[t->ntrees].root = root;
    more[t->ntrees].options = copy_options(o);
    if (!more[t->ntrees].options)
        return err_set(err, ENOMEM, "out of memory");
    t->ntrees++;
    return 0;
}

/* Freeze a running process, then its children, and so on, each followed once it stands still. */
static int attach_tree(struct ckpt *c, struct tracer *t, pid_t pid, bool root, struct err *err)
{
    _cleanup_free_ int *pids = NULL;
    size_t n;

    if (freeze_process(c, t->follow, pid, err) < 0 || follow_add(t->follow, pid, root, err) < 0 ||
        list_numbers("/proc", &pids, &n, err) < 0)
        return -err->code;
    for (size_t i = 0; i < n; i++) {
        struct proc_stat s;
        struct err ignored;
        if (read_stat(pids[i], &s, &ignored) < 0 || s.ppid != pid)
            continue;
        if (s.state == 'Z')
            follow_found(t->follow, pids[i], 0);
        else if (attach_tree(c, t, pids[i], false, err) < 0)
            return -err->code;
    }
    return 0;
}

static int attach(struct tracer *t, pid_t pid, struct err *err)
{
    struct checkpoint k = {.running = true};
    int r;

    k.c.arena = arena_new();
    if (!k.c.arena)
        return err_set(err, ENOMEM, "out of memory");
    r = attach_tree(&k.c, t, pid, true, err);
    thaw(&k.c);
    free(k.c.procs);
    arena_free(k.c.arena);
    if (r < 0)
        follow_remove(t->follow, pid);
    return r;
}

int trees_adopt(struct tracer *t, const Wire__Adopt *a, struct err *err)
{
    size_t n;
    const struct member *m = follow_members(t->follow, &n);
    int r;

    if (a->pid <= 0)
        return err_set(err, EINVAL, "process %d: not a process number", a->pid);
    for (size_t i = 0; i < n; i++)
        if (m[i].pid == a->pid && m[i].threads > 0 && a->attach)
            return err_set(err, EEXIST, "process %d is part of the computation already", a->pid);
    if (load_plugins(a->options, err) < 0)
        return -err->code;
    r = a->attach ? attach(t, a->pid, err) : follow_add(t->follow, a->pid, true, err);
    return r < 0 ? r : add_tree(t, a->pid, a->options, err);
}

/* Is pid the root, or below it? */
static bool below(pid_t pid, pid_t root)
{
    struct proc_stat s;
    struct err ignored;

    for (int depth = 0; pid > 1 && depth < 10000; depth++) {
        if (pid == root)
            return true;
        if (read_stat(pid, &s, &ignored) < 0)
            return false;
        pid = s.ppid;
    }
    return false;
}

static int refollow(struct tracer *t, struct ckpt *c, pid_t without, struct err *err)
{
    struct follow *f;
    size_t n;

    if (follow_new(&f, err) < 0)
        return -err->code;
    for (size_t i = 0; i < c->nprocs; i++) {
        struct proc *p = c->procs[i];
        if (below(p->pid, without))
            continue;
        if (p->zombie)
            follow_found(f, p->pid, 0);
        else if (follow_add(f, p->pid, p->is_root, err) < 0) {
            follow_free(f);
            return -err->code;
        }
    }
    const pid_t *hidden = follow_hidden(t->follow, &n);
    for (size_t i = 0; i < n; i++)
        if (follow_hide(f, hidden[i], err) < 0) {
            follow_free(f);
            return -err->code;
        }
    follow_free(t->follow);
    t->follow = f;
    return 0;
}

/* The root of a tree takes the tree with it; any other process only itself and what is below it. */
int trees_detach(struct tracer *t, pid_t pid, struct err *err)
{
    struct checkpoint k;
    struct ckpt_options o = {0};
    size_t which = t->ntrees;
    bool ours = false;
    int r;

    for (size_t i = 0; i < t->ntrees; i++) {
        ours |= below(pid, t->trees[i].root);
        if (t->trees[i].root == pid)
            which = i;
    }
    if (!ours)
        return err_set(err, ESRCH, "process %d is not part of the computation", pid);
    r = checkpoint_freeze(&k, t->follow, &o, err);
    if (r == 0)
        r = refollow(t, &k.c, pid, err);
    checkpoint_free(&k);
    if (r < 0)
        return r;
    if (which < t->ntrees) {
        wire__tree_options__free_unpacked(t->trees[which].options, NULL);
        t->trees[which] = t->trees[--t->ntrees];
    }
    if (t->watch >= 0)
        close(t->watch);
    t->watch = -1;
    return 0;
}

/* What the driver knows of calls that go on. */
static void take_deadlines(struct tracer *t, const Wire__TracerConfig *config)
{
    for (size_t i = 0; i < config->n_deadline; i++) {
        const Wire__TracerConfig__Deadline *m = config->deadline[i];
        struct deadline one = {.tid = m->tid, .nr = m->nr, .at_ns = m->at_ns};
        if (m->n_where != ARRAY_SIZE(one.where))
            continue;
        memcpy(one.where, m->where, sizeof(one.where));
        deadline_add(&t->deadlines, &one);
    }
}

static bool is_tree(const Wire__TracerConfig *config, pid_t pid)
{
    for (size_t i = 0; i < config->n_tree; i++)
        if (config->tree[i]->root == pid)
            return true;
    return false;
}

/*
 * All threads are named before the first runs: it may wait for another process, or kill it, and then there is nothing
 * left to be named.
 */
static int let_go(const Wire__TracerConfig *config, struct err *err)
{
    _cleanup_free_ pid_t *all = NULL;
    size_t n_all = 0, cap = 0;

    for (size_t i = 0; i < config->n_tree; i++) {
        for (size_t k = 0; k < config->tree[i]->n_pid; k++) {
            _cleanup_free_ int *tids = NULL;
            struct err gone;
            char dir[40];
            size_t n;
            snprintf(dir, sizeof(dir), "/proc/%d/task", config->tree[i]->pid[k]);
            if (list_numbers(dir, &tids, &n, &gone) < 0)
                continue; /* somebody has killed it */
            for (size_t m = 0; m < n; m++) {
                pid_t *more = grow(all, n_all, &cap, sizeof(*all));
                if (!more)
                    return err_set(err, ENOMEM, "out of memory");
                all = more;
                all[n_all++] = tids[m];
            }
        }
    }
    for (size_t i = 0; i < n_all; i++)
        ptrace(PTRACE_DETACH, all[i], NULL, 0);
    return 0;
}

/* After a restart: this process already holds every thread in a ptrace-stop. Follow, then let go, all at once. */
int trees_take_over(struct tracer *t, const Wire__TracerConfig *config, struct err *err)
{
    if (take_over_plugins(config, err) < 0)
        return -err->code;
    for (size_t i = 0; i < config->n_tree; i++) {
        const Wire__TracerConfig__Tree *tree = config->tree[i];
        if (add_tree(t, tree->root, tree->options, err) < 0)
            return -err->code;
        for (size_t k = 0; k < tree->n_pid; k++) {
            struct proc_stat s;
            struct err ignored;
            int r = follow_add(t->follow, tree->pid[k], is_tree(config, tree->pid[k]), err);
            if (r == -ENOENT)
                continue; /* somebody has killed it */
            if (r < 0)
                return r;
            /* A zombie has ended already: no record will say so. */
            if (read_stat(tree->pid[k], &s, &ignored) == 0 && s.state == 'Z')
                follow_correct(t->follow, tree->pid[k], 0);
        }
    }
    take_deadlines(t, config);
    return let_go(config, err);
}

/*
 * Kill all that live, by pidfd: a process that has no record of its end when its pidfd is open is the one that is meant,
 * not a later one with its pid. *one: a pidfd that ends when it has died, -1: nobody was left.
 */
static int kill_members(struct follow *f, int *one, struct err *err)
{
    size_t n, n_fds = 0;
    const struct member *m = follow_members(f, &n);
    _cleanup_free_ struct member *then = malloc((n + 1) * sizeof(*then));
    _cleanup_free_ int *fds = malloc((n + 1) * sizeof(*fds));

    *one = -1;
    if (!then || !fds)
        return err_set(err, ENOMEM, "out of memory");
    for (size_t i = 0; i < n; i++) {
        int fd = m[i].threads > 0 ? (int)syscall(SYS_pidfd_open, m[i].pid, 0) : -1;
        if (fd >= 0) {
            then[n_fds] = m[i];
            fds[n_fds++] = fd;
        }
    }
    int r = follow_update(f, err);
    m = follow_members(f, &n);
    for (size_t k = 0; k < n_fds; k++) {
        for (size_t i = 0; r == 0 && i < n; i++)
            if (m[i].pid == then[k].pid && m[i].threads > 0)
                syscall(SYS_pidfd_send_signal, fds[k], SIGKILL, NULL, 0);
        if (*one < 0)
            *one = fds[k];
        else
            close(fds[k]);
    }
    return r;
}

/* Threads that are held in a ptrace-stop have to be waited for here before their process counts as ended. */
static void wait_end(int pidfd)
{
    for (int n = 0; n < 1000; n++) {
        if (poll(&(struct pollfd){.fd = pidfd, .events = POLLIN}, 1, 5) != 0)
            return;
        thaw_late();
    }
}

int trees_kill(struct tracer *t, struct err *err)
{
    while (follow_alive(t->follow)) {
        int one, r = kill_members(t->follow, &one, err);
        if (one >= 0 && r == 0)
            wait_end(one);
        if (one >= 0)
            close(one);
        if (r < 0 || follow_update(t->follow, err) < 0)
            return -err->code;
    }
    t->checkpoint.c.killed = true;
    checkpoint_free(&t->checkpoint);
    return 0;
}

static pid_t root_of(const struct tracer *t, pid_t pid)
{
    for (size_t i = 0; i < t->ntrees; i++)
        if (below(pid, t->trees[i].root))
            return t->trees[i].root;
    return 0;
}

int trees_list(struct tracer *t, struct arena *a, Wire__Processes *out, struct err *err)
{
    size_t n;
    const struct member *m;

    if (follow_update(t->follow, err) < 0)
        return -err->code;
    m = follow_members(t->follow, &n);
    for (size_t i = 0; i < n; i++) {
        struct proc_stat s;
        struct err ignored;
        if (m[i].threads <= 0 || read_stat(m[i].pid, &s, &ignored) < 0)
            continue;
        Wire__Process *p = arena_alloc(a, sizeof(*p));
        wire__process__init(p);
        p->pid = s.pid;
        p->ppid = s.ppid;
        p->program = arena_printf(a, "%s", s.comm);
        p->threads = (uint32_t)m[i].threads;
        p->state = arena_printf(a, "%c", s.state);
        p->root = root_of(t, s.pid);
        arena_push(a, (void ***)&out->process, &out->n_process, p);
    }
    return 0;
}

/* The options of the first tree that is still there count for what is one per checkpoint. */
void trees_options(const struct tracer *t, struct ckpt_options *o)
{
    const Wire__TreeOptions *w = t->ntrees ? t->trees[0].options : NULL;
    const char *compress = w && w->compress ? w->compress : "";

    *o = (struct ckpt_options){.compress = 1, .level = 1, .ckptdir = t->ckptdir};
    if (!strcmp(compress, "none"))
        o->compress = 0;
    else if (!strncmp(compress, "lz4:", 4))
        o->level = atoi(compress + 4);
    if (w && w->ckptdir && w->ckptdir[0])
        o->ckptdir = w->ckptdir;
    for (size_t i = 0; i < t->ntrees; i++) {
        o->save_open_files |= t->trees[i].options->ckpt_open_files;
        o->allow_file_overwrite |= t->trees[i].options->allow_file_overwrite;
        for (size_t k = 0; k < t->trees[i].options->n_extra; k++) {
            const char *e = t->trees[i].options->extra[k];
            struct err ignored; /* the command has looked at it */
            if (!strncmp(e, "ext-tcp=", 8))
                options_ext_tcp(e + 8, &o->ext_tcp, &ignored);
        }
    }
}

/* How the trees are treated goes into the image, so that a restart goes on in the same way; but for what it is told itself. */
int trees_record(const struct tracer *t, struct ckpt *c, struct err *err)
{
    for (size_t i = 0; i < t->ntrees; i++) {
        Wire__TreeOptions o = *t->trees[i].options;
        Launched *m = arena_alloc(c->arena, sizeof(*m));
        const struct proc *root = ckpt_find_proc(c, t->trees[i].root);

        o.ckptdir = o.tmpdir = (char *)"";
        o.n_plugin = 0;
        size_t n = wire__tree_options__get_packed_size(&o);
        uint8_t *packed = arena_alloc(c->arena, n + 1);
        if (!m || !packed)
            return err_set(err, ENOMEM, "out of memory");
        launched__init(m);
        m->root = root && root->is_root ? root->pid : 0;
        m->options = (ProtobufCBinaryData){wire__tree_options__pack(&o, packed), packed};
        arena_push(c->arena, (void ***)&c->launched, &c->n_launched, m);
    }
    return 0;
}
