/*
 * See rings.h. There are two ways. With CAP_PERFMON one event for each CPU tells of all forks and exits of the machine,
 * and those of ours are picked out by whose child they are: that costs a program nothing. Without it each thread of
 * the program has an event for each CPU, which all that it forks inherits; making and ending those is a
 * quarter and more of what a short thread costs.
 */
#include "tracer/rings.h"

#include <errno.h>
#include <linux/perf_event.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/util.h"

#define ADD_UP     16384u /* changes: see add_up() */
#define RECORD_MAX 64u    /* bytes of one record, at most */
#define RING_PAGES 32     /* data pages of one CPU's ring: a power of two, within perf_event_mlock_kb */
#define ALL_PAGES  128    /* the same for all of the machine */
#define PID_LIMIT  (1u << 22) /* the kernel's PID_MAX_LIMIT */

struct ring {
    int fd; /* the event that owns the ring: kept when its task is gone */
    struct perf_event_mmap_page *meta;
};

/* A further event, whose output goes to the ring of its CPU. */
struct event {
    int fd, cpu;
};

struct changes {
    struct change *item;
    size_t n, cap;
};

/* PERF_RECORD_FORK or _EXIT */
struct record {
    uint64_t time;
    size_t order; /* in which they were read: one ring's are in theirs */
    pid_t pid, ppid, tid;
    bool fork;
};

struct records {
    struct record *item;
    size_t n, cap;
};

struct rings {
    int ncpus;
    size_t pages;         /* data pages of each ring */
    int wake;             /* eventfd: the drainer looks anew at what there is */
    pthread_t drainer;
    bool drained;         /* it runs */
    pthread_mutex_t lock; /* all below */
    struct ring *rings;   /* one for each CPU */
    struct event *events;
    size_t nevents, cap_events;
    int32_t *threads;     /* by pid, of ours; NULL: the events are inherited, and all that is told is of ours */
    struct records waiting;
    struct changes changes;
    size_t enough;        /* so many changes are to be added up */
    bool begun;           /* the way is chosen */
    bool overrun;         /* the kernel or we had no room for a record */
    bool ending;
};

static void add_change(struct rings *s, pid_t pid, int delta)
{
    struct changes *c = &s->changes;
    struct change *more = grow(c->item, c->n, &c->cap, sizeof(*more));

    if (!more) {
        s->overrun = true;
        return;
    }
    c->item = more;
    more[c->n++] = (struct change){pid, delta};
}

static void add_waiting(struct rings *s, const struct record *r)
{
    struct records *w = &s->waiting;
    struct record *more = grow(w->item, w->n, &w->cap, sizeof(*more));

    if (!more) {
        s->overrun = true;
        return;
    }
    w->item = more;
    more[w->n] = *r;
    more[w->n].order = w->n;
    w->n++;
}

/* perf_event.h: PERF_RECORD_FORK and _EXIT have { pid, ppid, tid, ptid, time }. */
static void take_record(struct rings *s, const struct perf_event_header *h, const uint32_t *q)
{
    struct record r = {.pid = (pid_t)q[0], .ppid = (pid_t)q[1], .tid = (pid_t)q[2], .fork = h->type == PERF_RECORD_FORK};

    if (h->type == PERF_RECORD_LOST)
        s->overrun = true;
    if (h->type != PERF_RECORD_FORK && h->type != PERF_RECORD_EXIT)
        return;
    memcpy(&r.time, &q[4], sizeof(r.time));
    add_waiting(s, &r);
}

/* Is it of ours? Then it counts. Those of other pid namespaces have no number here. */
static void take_in_turn(struct rings *s, const struct record *r)
{
    bool ours;

    if (!s->threads) {
        add_change(s, r->pid, r->fork ? 1 : -1);
        return;
    }
    if (r->pid <= 0 || (uint32_t)r->pid >= PID_LIMIT)
        return;
    if (r->fork && r->pid == r->tid) { /* a process; who had its number before is gone */
        ours = r->ppid > 0 && (uint32_t)r->ppid < PID_LIMIT && s->threads[r->ppid] > 0;
        s->threads[r->pid] = 0;
    } else {
        ours = s->threads[r->pid] > 0;
    }
    if (!ours)
        return;
    s->threads[r->pid] += r->fork ? 1 : -1;
    add_change(s, r->pid, r->fork ? 1 : -1);
}

static int by_time(const void *a, const void *b)
{
    const struct record *x = a, *y = b;

    if (x->time != y->time)
        return x->time < y->time ? -1 : 1;
    return x->order < y->order ? -1 : x->order > y->order;
}

/* Out of a ring, which is a power of two long. */
static void copy_out(void *to, const char *data, uint64_t at, size_t n, uint64_t size)
{
    size_t first = size - (at & (size - 1));

    first = first < n ? first : n;
    memcpy(to, data + (at & (size - 1)), first);
    memcpy((char *)to + first, data, n - first);
}

static void read_ring(struct rings *s, struct ring *r)
{
    const uint64_t size = s->pages * 4096;
    const char *data = (char *)r->meta + 4096;
    uint64_t head = __atomic_load_n(&r->meta->data_head, __ATOMIC_ACQUIRE), tail = r->meta->data_tail;

    /* What the kernel had no room for is only told with the next record that has room. */
    if (head - tail > size - RECORD_MAX)
        s->overrun = true;
    while (tail < head) {
        struct perf_event_header h;
        uint32_t body[8] = {0};

        copy_out(&h, data, tail, sizeof(h), size);
        if (h.size < sizeof(h))
            break;
        copy_out(body, data, tail + sizeof(h), h.size - sizeof(h) < sizeof(body) ? h.size - sizeof(h) : sizeof(body), size);
        take_record(s, &h, body);
        tail += h.size;
    }
    __atomic_store_n(&r->meta->data_tail, head, __ATOMIC_RELEASE);
}

bool in_proc(pid_t pid)
{
    char path[32];

    snprintf(path, sizeof(path), "/proc/%d", pid);
    return access(path, F_OK) == 0;
}

static int by_pid(const void *a, const void *b)
{
    pid_t x = ((const struct change *)a)->pid, y = ((const struct change *)b)->pid;

    return x < y ? -1 : x > y;
}

/* One change for each process, none for those that came and went. */
static void add_up(struct changes *c)
{
    size_t kept = 0;

    if (c->n)
        qsort(c->item, c->n, sizeof(*c->item), by_pid);
    for (size_t i = 0; i < c->n;) {
        struct change sum = {c->item[i].pid, 0};
        for (; i < c->n && c->item[i].pid == sum.pid; i++)
            sum.delta += c->item[i].delta;
        if (sum.delta || in_proc(sum.pid))
            c->item[kept++] = sum;
    }
    c->n = kept;
}

static void read_each(struct rings *s)
{
    for (int i = 0; i < s->ncpus; i++)
        if (s->rings[i].meta)
            read_ring(s, &s->rings[i]);
}

/*
 * The rings cannot be read at one instant. A child's records can be on another CPU's ring than its parent's and count only
 * after them, and a process whose threads' exits are read before their forks would seem to have none. Whatever made a
 * record that was read by now possible was written before it, so it is there when all rings are read once more.
 * What that second reading finds newer than the first has the same to wait for: the next reading.
 */
static void read_in_order(struct rings *s)
{
    struct records *w = &s->waiting;
    uint64_t until = 0;
    size_t n = 0;

    read_each(s);
    for (size_t i = 0; i < w->n; i++)
        until = w->item[i].time > until ? w->item[i].time : until;
    read_each(s);
    if (!w->n)
        return;
    qsort(w->item, w->n, sizeof(*w->item), by_time);
    while (n < w->n && w->item[n].time <= until)
        take_in_turn(s, &w->item[n++]);
    memmove(w->item, w->item + n, (w->n - n) * sizeof(*w->item));
    w->n -= n;
    for (size_t i = 0; i < w->n; i++)
        w->item[i].order = i;
}

static void read_rings(struct rings *s)
{
    read_in_order(s);
    if (s->changes.n < s->enough)
        return;
    add_up(&s->changes);
    s->enough = s->changes.n * 2 > ADD_UP ? s->changes.n * 2 : ADD_UP;
}

/* --- the thread that reads them ---------------------------------------------------------------------- */

static void wake_drainer(struct rings *s)
{
    const uint64_t one = 1;

    if (write(s->wake, &one, sizeof(one)) < 0)
        return; /* it is awake */
}

static bool dead(int fd)
{
    struct pollfd p = {.fd = fd};

    return poll(&p, 1, 0) != 0; /* nothing was asked for, so it is POLLHUP or an error */
}

/* An event of this CPU that still can happen: all that share a ring tell of it. -1: none. */
static int event_of(const struct rings *s, int cpu)
{
    if (s->rings[cpu].fd < 0 || !dead(s->rings[cpu].fd))
        return s->rings[cpu].fd;
    for (size_t i = 0; i < s->nevents; i++)
        if (s->events[i].cpu == cpu && !dead(s->events[i].fd))
            return s->events[i].fd;
    return -1;
}

static void *drain(void *arg)
{
    struct rings *s = arg;
    struct pollfd *p = calloc((size_t)s->ncpus + 1, sizeof(*p));
    uint64_t count;
    bool ending = !p;

    while (!ending) {
        p[0] = (struct pollfd){.fd = s->wake, .events = POLLIN};
        pthread_mutex_lock(&s->lock);
        for (int i = 0; i < s->ncpus; i++)
            p[i + 1] = (struct pollfd){.fd = event_of(s, i), .events = POLLIN};
        read_rings(s); /* event_of() may have taken the notice of what is there by now */
        ending = s->ending;
        pthread_mutex_unlock(&s->lock);
        if (!ending && poll(p, (nfds_t)s->ncpus + 1, -1) > 0 && p[0].revents)
            ending = read(s->wake, &count, sizeof(count)) < 0 && errno != EAGAIN;
    }
    free(p);
    return NULL;
}

/* Without it nothing is wrong as long as somebody asks often enough; what is lost else is noticed. */
static void start_drainer(struct rings *s)
{
    sigset_t all, before;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are for who asks */
    s->drained = pthread_create(&s->drainer, NULL, drain, s) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void end_drainer(struct rings *s)
{
    if (!s->drained)
        return;
    pthread_mutex_lock(&s->lock);
    s->ending = true;
    pthread_mutex_unlock(&s->lock);
    wake_drainer(s);
    pthread_join(s->drainer, NULL);
    s->drained = false;
}

/* tid -1: of all. The clock is one that all CPUs have in common. */
static int open_event(const struct rings *s, pid_t tid, int cpu)
{
    struct perf_event_attr a = {
        .size = sizeof(a), .type = PERF_TYPE_SOFTWARE, .config = PERF_COUNT_SW_DUMMY,
        .inherit = tid != -1, .task = 1, .use_clockid = 1, .clockid = CLOCK_MONOTONIC_RAW, .exclude_kernel = 1, .exclude_hv = 1,
        .watermark = 1, .wakeup_watermark = (uint32_t)s->pages * 4096 / 2,
    };

    return (int)syscall(SYS_perf_event_open, &a, tid, cpu, -1, PERF_FLAG_FD_CLOEXEC);
}

static int event_on_cpu(struct rings *s, pid_t tid, int cpu)
{
    struct ring *r = &s->rings[cpu];
    int fd = open_event(s, tid, cpu);

    if (fd < 0)
        return errno == ENODEV ? 0 : -errno; /* a CPU that is not online */
    if (r->fd >= 0) {
        struct event *more = grow(s->events, s->nevents, &s->cap_events, sizeof(*more));
        if (more)
            s->events = more;
        if (!more || ioctl(fd, PERF_EVENT_IOC_SET_OUTPUT, r->fd) < 0) {
            close(fd);
            return more ? -errno : -ENOMEM;
        }
        s->events[s->nevents++] = (struct event){fd, cpu};
        return 0;
    }
    void *p = mmap(NULL, (s->pages + 1) * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED) {
        int e = errno;
        close(fd);
        return -e;
    }
    r->fd = fd;
    r->meta = p;
    return 0;
}

static int watch(struct rings *s, pid_t tid)
{
    for (int cpu = 0; cpu < s->ncpus; cpu++) {
        int r = event_on_cpu(s, tid, cpu);
        if (r < 0)
            return r;
    }
    return 0;
}

static void close_events(struct rings *s)
{
    for (int i = 0; s->rings && i < s->ncpus; i++) {
        if (s->rings[i].meta)
            munmap(s->rings[i].meta, (s->pages + 1) * 4096);
        if (s->rings[i].fd >= 0)
            close(s->rings[i].fd);
        s->rings[i] = (struct ring){.fd = -1};
    }
    for (size_t i = 0; i < s->nevents; i++)
        close(s->events[i].fd);
    s->nevents = 0;
}

/* An event for each CPU that tells of all; not without CAP_PERFMON, unless everybody may. */
static void watch_all(struct rings *s)
{
    s->threads = calloc(PID_LIMIT, sizeof(*s->threads)); /* of which little is ever touched */
    s->pages = ALL_PAGES;
    if (s->threads && watch(s, -1) == 0)
        return;
    close_events(s);
    s->pages = RING_PAGES;
    free(s->threads);
    s->threads = NULL;
}

/* What is unread of the time when its number was another's must not count for it. */
static void count_in(struct rings *s, pid_t pid, size_t threads)
{
    read_rings(s);
    if (pid > 0 && (uint32_t)pid < PID_LIMIT)
        s->threads[pid] = (int32_t)threads;
}

int rings_watch(struct rings *s, pid_t pid, const pid_t *tids, size_t n)
{
    int r = 0;

    pthread_mutex_lock(&s->lock);
    if (!s->begun)
        watch_all(s);
    s->begun = true;
    if (s->threads)
        count_in(s, pid, n);
    for (size_t i = 0; !s->threads && i < n && r == 0; i++)
        if ((r = watch(s, tids[i])) == -ESRCH)
            r = 0; /* it has ended */
    pthread_mutex_unlock(&s->lock);
    if (!s->drained)
        start_drainer(s);
    wake_drainer(s);
    return r;
}

struct change *rings_take(struct rings *s, size_t *n, bool *lost)
{
    struct changes c;

    pthread_mutex_lock(&s->lock);
    read_rings(s);
    c = s->changes;
    s->changes = (struct changes){0};
    s->enough = ADD_UP;
    *lost |= s->overrun;
    pthread_mutex_unlock(&s->lock);
    add_up(&c);
    *n = c.n;
    return c.item;
}

int rings_new(struct rings **out, struct err *err)
{
    struct rings *s = calloc(1, sizeof(*s));

    if (!s)
        return err_set(err, ENOMEM, "out of memory");
    s->ncpus = (int)sysconf(_SC_NPROCESSORS_CONF);
    s->enough = ADD_UP;
    s->wake = -1;
    pthread_mutex_init(&s->lock, NULL);
    s->rings = calloc((size_t)s->ncpus, sizeof(*s->rings));
    for (int i = 0; s->rings && i < s->ncpus; i++)
        s->rings[i].fd = -1;
    if (s->rings)
        s->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (s->wake < 0) {
        err_errno(err, "following the program");
        rings_free(s);
        return -err->code;
    }
    *out = s;
    return 0;
}

void rings_free(struct rings *s)
{
    if (!s)
        return;
    end_drainer(s);
    close_events(s);
    if (s->wake >= 0)
        close(s->wake);
    pthread_mutex_destroy(&s->lock);
    free(s->changes.item);
    free(s->waiting.item);
    free(s->threads);
    free(s->rings);
    free(s->events);
    free(s);
}
