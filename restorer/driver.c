/*
 * The driver: builds everything in one order, then becomes the tracer with every restored thread still stopped, so
 * that nothing runs unfollowed. Until then each skeleton hangs on the driver's end of its control socket (or
 * on PTRACE_O_EXITKILL): when the driver ends for whatever reason, so do they. All or nothing.
 */
#include "restorer/driver.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/rseq.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/log.h"
#include "base/util.h"
#include "image/image.pb-c.h"
#include "plugin/plugin.h"
#include "restorer/core.h"
#include "restorer/sysv.h"
#include "restorer/tty.h"

/* Run one step for every process that lives. */
static int each(struct restore *r, int (*step)(struct restore *, struct rproc *, struct err *), struct err *err)
{
    for (size_t i = 0; i < r->nprocs; i++)
        if (r->procs[i].alive && step(r, &r->procs[i], err) < 0)
            return -err->code;
    return 0;
}

/* Those that have an address space of their own. */
static int each_memory(struct restore *r, int (*step)(struct restore *, struct rproc *, struct err *), struct err *err)
{
    for (size_t i = 0; i < r->nprocs; i++)
        if (r->procs[i].alive && !r->procs[i].own_mm && step(r, &r->procs[i], err) < 0)
            return -err->code;
    return 0;
}

/* The area, with the stack that each thread uses to the end, goes with the process that has the memory: that one is last. */
static int finish_all(struct restore *r, struct err *err)
{
    for (int owners = 0; owners <= 1; owners++)
        for (size_t i = 0; i < r->nprocs; i++)
            if (r->procs[i].alive && (r->procs[i].own_mm == NULL) == owners && threads_finish(r, &r->procs[i], err) < 0)
                return -err->code;
    return 0;
}

/*
 * Skeletons are forks of this thread and inherit its rseq registration, whose memory they unmap; the kernel would
 * kill them for that. Nothing here needs it.
 */
static void drop_rseq(void)
{
#ifdef RSEQ_SIG
    if (__rseq_size)
        syscall(SYS_rseq, (char *)__builtin_thread_pointer() + __rseq_offset, 32, 1 /* unregister */, RSEQ_SIG);
#endif
}

static int make_skeletons(struct restore *r, struct err *err)
{
    drop_rseq();
    if (inj_area_local(r->area, r->slots, err) < 0 || tree_create(r, err) < 0 || cgroups_restore(r, err) < 0)
        return -err->code;
    log_trace("restart: processes are there");
    if (tree_groups(r, err) < 0 || tty_foreground(r, err) < 0)
        return -err->code;
    return tree_zombies(r, err) < 0 ? -err->code : continue_processes(r, err);
}

static int fill_skeletons(struct restore *r, struct err *err)
{
    if (rebuild_objects(r, err) < 0 || rebuild_fd_tables(r, err) < 0)
        return -err->code;
    log_trace("restart: descriptors");
    if (refill_objects(r, err) < 0 || each_memory(r, mm_copy_inherited, err) < 0 ||
        each_memory(r, mm_finish, err) < 0)
        return -err->code;
    log_trace("restart: memory");
    if (each(r, process_setup, err) < 0 || each(r, threads_create, err) < 0 || each(r, timers_create, err) < 0)
        return -err->code;
    log_trace("restart: threads");
    return 0;
}

int restore_all(struct restore *r, struct err *err)
{
    if (plan_pids_again(r, err) < 0 || namespaces_enter(r, err) < 0 || creds_init(r, err) < 0 ||
        sysv_make_all(r, err) < 0 || tty_make_all(r, err) < 0 ||
        make_skeletons(r, err) < 0 || fill_skeletons(r, err) < 0 || each(r, signals_restore, err) < 0 ||
        each(r, timers_restore, err) < 0 || arm_objects(r, err) < 0 || each(r, thread_host, err) < 0 ||
        last_objects(r, err) < 0 || stop_processes(r, err) < 0 || each(r, threads_seize, err) < 0 || finish_all(r, err) < 0)
        return -err->code;
    send_stops(r);
    log_trace("restart: registers");
    return 0;
}

void restore_abort(struct restore *r)
{
    for (size_t i = 0; i < r->nprocs; i++)
        if (r->procs[i].alive && r->procs[i].inj.pidfd >= 0)
            syscall(SYS_pidfd_send_signal, r->procs[i].inj.pidfd, SIGKILL, NULL, 0);
}

/* --- reports --------------------------------------------------------------------------------------------------- */

static int send_report(int sock, const struct report *rep, int fd)
{
    union {
        char buf[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } u = {0};
    struct iovec iov = {(void *)rep, sizeof(*rep)};
    struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1};

    if (fd >= 0) {
        mh.msg_control = u.buf;
        mh.msg_controllen = sizeof(u.buf);
        struct cmsghdr *c = CMSG_FIRSTHDR(&mh);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(c), &fd, sizeof(fd));
    }
    return sendmsg(sock, &mh, MSG_NOSIGNAL) == sizeof(*rep) ? 0 : -errno;
}

void restore_note(const struct restore *r, const char *fmt, ...)
{
    struct report rep = {.op = REPORT_NOTE};
    va_list args;

    va_start(args, fmt);
    vsnprintf(rep.text, sizeof(rep.text), fmt, args);
    va_end(args);
    if (r->report >= 0)
        send_report(r->report, &rep, -1);
    else
        log_note("%s", rep.text); /* still in dmtcp_restart itself */
}

static void report_roots(const struct restore *r)
{
    struct report rep = {.op = REPORT_ROOT};

    for (size_t i = 0; i < r->nprocs; i++) {
        const struct rproc *p = &r->procs[i];
        if (!p->process->is_root || p->parent || !p->alive)
            continue;
        rep.own_group = p->process->pgid == p->pid;
        send_report(r->report, &rep, p->inj.pidfd);
    }
    rep.op = REPORT_END;
    send_report(r->report, &rep, -1);
}

static void __attribute__((noreturn)) give_up(struct restore *r, const struct err *err)
{
    struct report rep = {.op = REPORT_FAILED};

    restore_abort(r);
    snprintf(rep.text, sizeof(rep.text), "%s", err->msg);
    send_report(r->report, &rep, -1);
    _exit(1);
}

/* --- becoming the tracer ---------------------------------------------------------------------------------------- */

/* How a tree was treated, as the image says; NULL: it says nothing that makes sense. */
static Wire__TreeOptions *options_of(const struct restore *r, const Launched *m)
{
    Wire__TreeOptions *o = wire__tree_options__unpack(NULL, m->options.len, m->options.data);

    if (!o)
        return NULL;
    o->ckptdir = o->tmpdir = (char *)""; /* those of this dmtcp_restart, as the plugins are */
    o->plugin = r->options.plugin;
    o->n_plugin = r->options.n_plugin;
    return o;
}

/* A few bytes each, once in the life of this process: never freed. */
static uint32_t keep_of(const struct restore *r)
{
    uint32_t keep = 0;

    for (size_t i = 0; i < r->nprocs; i++)
        for (size_t k = 0; k < r->procs[i].process->n_launched; k++) {
            const Wire__TreeOptions *o = options_of(r, r->procs[i].process->launched[k]);
            if (o && o->keep)
                keep = o->keep; /* the last one counted */
        }
    return keep;
}

static int join(struct restore *r, const struct driver_config *config, struct err *err)
{
    Wire__Join j = WIRE__JOIN__INIT;
    Wire__TreeOptions all = WIRE__TREE_OPTIONS__INIT;
    Wire__Msg *joined = NULL;

    if (!config->coord)
        return 0;
    j.role = WIRE__JOIN__ROLE__RESTARTER;
    j.computation = r->procs[0].head->computation;
    j.generation = (uint32_t)r->procs[0].head->generation;
    j.manifest = (char *)(config->manifest ? config->manifest : "");
    j.options = &all;
    all.plugin = r->options.plugin;
    all.n_plugin = r->options.n_plugin;
    all.keep = keep_of(r);
    if (coord_join(config->coord, &j, &joined, err) < 0)
        return -err->code;
    coord_msg_free(joined);
    return 0;
}

static int add_tree(const struct restore *r, Wire__TracerConfig *c, pid_t root, Wire__TreeOptions *options, struct err *err)
{
    Wire__TracerConfig__Tree *t = malloc(sizeof(*t)), **more = realloc(c->tree, (c->n_tree + 1) * sizeof(*more));

    if (more)
        c->tree = more;
    if (!t || !more)
        return err_set(err, ENOMEM, "out of memory");
    wire__tracer_config__tree__init(t);
    t->root = root;
    t->options = options;
    c->tree[c->n_tree++] = t;
    if (c->n_tree > 1)
        return 0;
    t->pid = calloc(r->nprocs + 1, sizeof(*t->pid)); /* the first takes them all */
    if (!t->pid)
        return err_set(err, ENOMEM, "out of memory");
    for (size_t k = 0; k < r->nprocs; k++)
        t->pid[t->n_pid++] = r->procs[k].pid;
    return 0;
}

/* The trees of the image, those of which the root has ended too; every process is named once. */
static int list_trees(const struct restore *r, Wire__TracerConfig *c, struct err *err)
{
    for (size_t i = 0; i < r->nprocs; i++) {
        const Process *p = r->procs[i].process;
        for (size_t k = 0; k < p->n_launched; k++) {
            const struct rproc *root = restore_proc(r, p->launched[k]->root);
            if (add_tree(r, c, root && root->process->is_root ? root->pid : 0, options_of(r, p->launched[k]), err) < 0)
                return -err->code;
        }
    }
    return c->n_tree ? 0 : add_tree(r, c, r->procs[0].pid, NULL, err);
}

/* The deadlines of interrupted calls, which the next checkpoint could not find out. */
static int list_deadlines(const struct restore *r, Wire__TracerConfig *c, struct err *err)
{
    size_t n = 0;

    for (size_t i = 0; i < r->nprocs; i++)
        n += r->procs[i].nthreads;
    c->deadline = calloc(n + 1, sizeof(*c->deadline));
    for (size_t i = 0; c->deadline && i < r->nprocs; i++) {
        const struct rproc *p = &r->procs[i];
        for (size_t k = 0; p->call_ends && k < p->nthreads; k++) {
            const struct user_regs_struct *u = (const void *)p->threads[k]->regs.data;
            Wire__TracerConfig__Deadline *d = p->call_ends[k] ? malloc(sizeof(*d)) : NULL;
            if (!d)
                continue;
            wire__tracer_config__deadline__init(d);
            d->tid = p->threads[k]->tid;
            d->nr = p->threads[k]->call_nr;
            d->at_ns = p->call_ends[k];
            d->n_where = 6;
            d->where = malloc(6 * sizeof(*d->where));
            if (!d->where)
                return err_set(err, ENOMEM, "out of memory");
            memcpy(d->where, (const uint64_t[6]){u->rip, u->rsp, u->rdi, u->rsi, u->rdx, u->r10}, 6 * sizeof(*d->where));
            c->deadline[c->n_deadline++] = d;
        }
    }
    return c->deadline ? 0 : err_set(err, ENOMEM, "out of memory");
}

/* Their files stay open over exec: the next program loads the same. */
static int list_plugins(Wire__TracerConfig *c, struct err *err)
{
    size_t n = plugin_count();

    c->plugin = calloc(n + 1, sizeof(*c->plugin));
    c->plugin_fd = calloc(n + 1, sizeof(*c->plugin_fd));
    if (!c->plugin || !c->plugin_fd)
        return err_set(err, ENOMEM, "out of memory");
    for (size_t i = 0; i < n; i++) {
        c->plugin[i] = (char *)plugin_path(i);
        c->plugin_fd[i] = plugin_fd(i);
        if (fcntl(plugin_fd(i), F_SETFD, 0) < 0)
            return err_errno(err, "plugin %s", plugin_path(i));
    }
    c->n_plugin = c->n_plugin_fd = n;
    return 0;
}

static int become_tracer(struct restore *r, const struct driver_config *config, struct err *err)
{
    Wire__TracerConfig c = WIRE__TRACER_CONFIG__INIT;
    const char *log = getenv("DMTCP_TRACER_LOG");
    _cleanup_free_ char *program = coord_find_program("dmtcp_tracer", "tracer", err);
    void *data;
    size_t len;
    char number[16];
    int fd;

    if (!program || list_trees(r, &c, err) < 0 || list_deadlines(r, &c, err) < 0 || coord_export(config->coord, &data, &len, err) < 0)
        return -err->code;
    c.connection.data = data;
    c.connection.len = len;
    if (list_plugins(&c, err) < 0)
        return -err->code;
    c.ckptdir = config->options->ckptdir;
    c.tmpdir = config->options->tmpdir;
    c.log_file = (char *)(log ? log : "");
    c.status_fd = -1;
    fd = coord_write_config(&c, err);
    if (fd < 0)
        return fd;
    snprintf(number, sizeof(number), "%d", fd);
    report_roots(r);
    setsid();
    if (chdir("/") < 0)
        return err_errno(err, "/");
    execl(program, "dmtcp_tracer", "--config-fd", number, (char *)NULL);
    return err_errno(err, "%s", program);
}

/* Without a coordinator nobody follows: let everyone go. */
static void __attribute__((noreturn)) just_let_go(struct restore *r)
{
    report_roots(r);
    for (size_t i = 0; i < r->nprocs; i++)
        for (size_t k = 0; r->procs[i].alive && k < r->procs[i].nthreads; k++)
            ptrace(PTRACE_DETACH, r->procs[i].threads[k]->tid, NULL, 0);
    _exit(0);
}

/* The streams of dmtcp_restart stay at hand under high numbers; ours lead nowhere. */
static int step_aside(struct restore *r, struct err *err)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);

    if (null < 0)
        return err_errno(err, "/dev/null");
    for (int i = 0; i < 3; i++) {
        r->options.stdio[i] = fcntl(i, F_DUPFD_CLOEXEC, 3);
        if (dup2(null, i) < 0)
            return err_errno(err, "dup2");
    }
    close(null);
    return 0;
}

void driver_run(struct restore *r, const struct driver_config *config)
{
    struct err err = {0};

    signal(SIGPIPE, SIG_IGN);
    signal(SIGCHLD, SIG_DFL); /* ignored, it would not tell of stops */
    signal(SIGINT, SIG_IGN); /* a key at the terminal is for dmtcp_restart */
    signal(SIGQUIT, SIG_IGN);
    signal(SIGTSTP, SIG_IGN);
    log_to_fd(-1);
    const char *trace = getenv("DMTCP_RESTART_LOG");
    if (trace)
        log_to_fd(open(trace, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
    if (step_aside(r, &err) < 0 || restore_all(r, &err) < 0 || join(r, config, &err) < 0 ||
        plugins_restart(r, &err) < 0 || go_objects(r, &err) < 0)
        give_up(r, &err);
    if (!config->coord)
        just_let_go(r);
    become_tracer(r, config, &err);
    give_up(r, &err);
}
