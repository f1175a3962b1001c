/* Membership by inherited perf events: see follow.h. */
#include "tracer/follow.h"

#include <dirent.h>
#include <errno.h>
#include <linux/perf_event.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/log.h"
#include "base/util.h"
#include "tracer/procfs.h"

#define RING_PAGES 32 /* data pages of one CPU's ring: a power of two, within perf_event_mlock_kb */

struct ring {
    int fd; /* the event that owns the ring: kept when its task is gone */
    struct perf_event_mmap_page *meta;
};

struct follow {
    struct member *members;
    size_t n, cap;
    struct ring *rings; /* one for each CPU */
    int *poll_fds;
    int ncpus;
    int *events; /* further events, whose output goes to the rings */
    size_t nevents, cap_events;
    pid_t *hidden;
    size_t nhidden, cap_hidden;
    bool perf;
    bool lost;
};

int follow_new(struct follow **out, struct err *err)
{
    struct follow *f = calloc(1, sizeof(*f));

    if (!f)
        return err_set(err, ENOMEM, "out of memory");
    f->ncpus = (int)sysconf(_SC_NPROCESSORS_CONF);
    f->rings = calloc((size_t)f->ncpus, sizeof(*f->rings));
    f->poll_fds = calloc((size_t)f->ncpus, sizeof(*f->poll_fds));
    if (!f->rings || !f->poll_fds) {
        follow_free(f);
        return err_set(err, ENOMEM, "out of memory");
    }
    for (int i = 0; i < f->ncpus; i++)
        f->rings[i].fd = f->poll_fds[i] = -1;
    f->perf = true;
    *out = f;
    return 0;
}

static void close_rings(struct follow *f)
{
    for (int i = 0; f->rings && i < f->ncpus; i++) {
        if (f->rings[i].meta)
            munmap(f->rings[i].meta, (RING_PAGES + 1) * 4096);
        if (f->rings[i].fd >= 0)
            close(f->rings[i].fd);
        f->rings[i] = (struct ring){.fd = -1};
        f->poll_fds[i] = -1;
    }
    for (size_t i = 0; i < f->nevents; i++)
        close(f->events[i]);
    f->nevents = 0;
}

void follow_free(struct follow *f)
{
    if (!f)
        return;
    if (f->rings && f->poll_fds)
        close_rings(f);
    free(f->rings);
    free(f->poll_fds);
    free(f->events);
    free(f->hidden);
    free(f->members);
    free(f);
}

bool follow_exact(const struct follow *f)
{
    return f->perf && !f->lost;
}

static struct member *find(struct follow *f, pid_t pid)
{
    for (size_t i = 0; i < f->n; i++)
        if (f->members[i].pid == pid)
            return &f->members[i];
    return NULL;
}

static struct member *add(struct follow *f, pid_t pid)
{
    struct member *m = find(f, pid);

    if (m)
        return m;
    m = grow(f->members, f->n, &f->cap, sizeof(*m));
    if (!m)
        return NULL;
    f->members = m;
    m[f->n] = (struct member){.pid = pid};
    return &m[f->n++];
}

static int open_event(pid_t tid, int cpu)
{
    struct perf_event_attr a = {
        .size = sizeof(a), .type = PERF_TYPE_SOFTWARE, .config = PERF_COUNT_SW_DUMMY,
        .inherit = 1, .task = 1, .exclude_kernel = 1, .exclude_hv = 1,
        .watermark = 1, .wakeup_watermark = RING_PAGES * 4096 / 2,
    };

    return (int)syscall(SYS_perf_event_open, &a, tid, cpu, -1, PERF_FLAG_FD_CLOEXEC);
}

static int event_on_cpu(struct follow *f, pid_t tid, int cpu)
{
    struct ring *r = &f->rings[cpu];
    int fd = open_event(tid, cpu);

    if (fd < 0)
        return errno == ENODEV ? 0 : -errno; /* a CPU that is not online */
    if (r->fd >= 0) {
        int *more = grow(f->events, f->nevents, &f->cap_events, sizeof(int));
        if (more)
            f->events = more;
        if (!more || ioctl(fd, PERF_EVENT_IOC_SET_OUTPUT, r->fd) < 0) {
            close(fd);
            return more ? -errno : -ENOMEM;
        }
        f->events[f->nevents++] = fd;
        return 0;
    }
    void *p = mmap(NULL, (RING_PAGES + 1) * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED) {
        int e = errno;
        close(fd);
        return -e;
    }
    r->fd = f->poll_fds[cpu] = fd;
    r->meta = p;
    return 0;
}

static int event_on_thread(struct follow *f, pid_t tid)
{
    for (int cpu = 0; cpu < f->ncpus; cpu++) {
        int r = event_on_cpu(f, tid, cpu);
        if (r < 0)
            return r;
    }
    return 0;
}

int follow_add(struct follow *f, pid_t pid, bool is_root, struct err *err)
{
    _cleanup_free_ int *tids = NULL;
    char dir[40];
    size_t n;
    struct member *m;

    snprintf(dir, sizeof(dir), "/proc/%d/task", pid);
    if (list_numbers(dir, &tids, &n, err) < 0)
        return err_wrap(err, "process %d", pid);
    m = add(f, pid);
    if (!m)
        return err_set(err, ENOMEM, "out of memory");
    m->threads = (int)n;
    m->is_root = m->is_root || is_root;
    for (size_t i = 0; f->perf && i < n; i++) {
        int r = event_on_thread(f, tids[i]);
        if (r < 0 && r != -ESRCH) {
            log_note("perf events cannot be used (%s): descendants are found by walking /proc", strerror(-r));
            f->perf = false;
            close_rings(f);
        }
    }
    return 0;
}

void follow_remove(struct follow *f, pid_t pid)
{
    struct member *m = find(f, pid);

    if (m)
        *m = f->members[--f->n];
}

void follow_correct(struct follow *f, pid_t pid, int threads)
{
    struct member *m = find(f, pid);

    if (m)
        m->threads = threads;
}

void follow_found(struct follow *f, pid_t pid, int threads)
{
    struct member *m = find(f, pid);

    if (!m && (m = add(f, pid)))
        m->threads = threads;
}

static bool is_hidden(const struct follow *f, pid_t pid)
{
    for (size_t i = 0; i < f->nhidden; i++)
        if (f->hidden[i] == pid)
            return true;
    return false;
}

int follow_hide(struct follow *f, pid_t pid, struct err *err)
{
    pid_t *more = grow(f->hidden, f->nhidden, &f->cap_hidden, sizeof(*more));

    if (!more)
        return err_set(err, ENOMEM, "out of memory");
    f->hidden = more;
    more[f->nhidden++] = pid;
    follow_remove(f, pid);
    return 0;
}

void follow_show(struct follow *f, pid_t pid)
{
    for (size_t i = f->nhidden; i-- > 0;)
        if (f->hidden[i] == pid)
            f->hidden[i] = f->hidden[--f->nhidden];
}

const pid_t *follow_hidden(const struct follow *f, size_t *n)
{
    *n = f->nhidden;
    return f->hidden;
}

/* perf_event.h: PERF_RECORD_FORK and _EXIT have { pid, ppid, tid, ptid, time }. */
static void take_record(struct follow *f, const struct perf_event_header *h, const uint32_t *q)
{
    struct member *m;

    if (h->type == PERF_RECORD_LOST) {
        f->lost = true;
    } else if (f->nhidden && is_hidden(f, (pid_t)q[0])) {
        return;
    } else if (h->type == PERF_RECORD_FORK && (m = add(f, (pid_t)q[0]))) {
        m->threads++;
    } else if (h->type == PERF_RECORD_EXIT && (m = add(f, (pid_t)q[0]))) {
        m->threads--;
    }
}

static void read_ring(struct follow *f, struct ring *r)
{
    const uint64_t size = RING_PAGES * 4096;
    char *data = (char *)r->meta + 4096;
    uint64_t head = __atomic_load_n(&r->meta->data_head, __ATOMIC_ACQUIRE), tail = r->meta->data_tail;

    while (tail < head) {
        struct perf_event_header h;
        uint32_t body[8] = {0};
        char *raw = (char *)&h;

        for (size_t i = 0; i < sizeof(h); i++)
            raw[i] = data[(tail + i) % size];
        if (h.size < sizeof(h))
            break;
        for (size_t i = 0; i < sizeof(body) && i + sizeof(h) < h.size; i++)
            ((char *)body)[i] = data[(tail + sizeof(h) + i) % size];
        take_record(f, &h, body);
        tail += h.size;
    }
    __atomic_store_n(&r->meta->data_tail, head, __ATOMIC_RELEASE);
}

static bool in_proc(pid_t pid)
{
    char path[32];

    snprintf(path, sizeof(path), "/proc/%d", pid);
    return access(path, F_OK) == 0;
}

/* Everyone in /proc whose parent is a member, until nothing new is found. */
static int walk(struct follow *f, struct err *err)
{
    bool found = true;

    while (found) {
        _cleanup_free_ int *pids = NULL;
        size_t n;

        found = false;
        if (list_numbers("/proc", &pids, &n, err) < 0)
            return -err->code;
        for (size_t i = 0; i < n; i++) {
            struct proc_stat s;
            struct err ignored;
            if (find(f, pids[i]) || is_hidden(f, pids[i]) || read_stat(pids[i], &s, &ignored) < 0 || s.state == 'Z' || !find(f, s.ppid))
                continue;
            struct member *m = add(f, pids[i]);
            if (!m)
                return err_set(err, ENOMEM, "out of memory");
            m->threads = 1;
            found = true;
        }
    }
    return 0;
}

int follow_update(struct follow *f, struct err *err)
{
    for (int i = 0; i < f->ncpus; i++)
        if (f->rings[i].meta)
            read_ring(f, &f->rings[i]);
    if (!f->perf || f->lost) {
        for (size_t i = 0; i < f->n; i++)
            f->members[i].threads = in_proc(f->members[i].pid);
        if (walk(f, err) < 0)
            return -err->code;
    }
    for (size_t i = 0; i < f->n;) {
        if (f->members[i].threads <= 0 && !in_proc(f->members[i].pid))
            f->members[i] = f->members[--f->n];
        else
            i++;
    }
    return 0;
}

const struct member *follow_members(const struct follow *f, size_t *n)
{
    *n = f->n;
    return f->members;
}

bool follow_alive(struct follow *f)
{
    for (size_t i = 0; i < f->n; i++)
        if (f->members[i].threads > 0)
            return true;
    return false;
}

size_t follow_poll_fds(const struct follow *f, const int **fds)
{
    *fds = f->poll_fds;
    return (size_t)f->ncpus;
}
