/*
 * What is checkpointed in the benchmark.
 *
 *   bench_load STAMPS TICK_US KIND COUNT [CONTENT]
 *
 * Every process of a load wakes up once in TICK_US, reads the clock and notes in its slot of the file STAMPS
 * (which it maps) the longest time that it did not run, and when it ran first, since the round began that the
 * benchmark counts in the file's head. So standing still and running again are seen from inside.
 *
 * Kinds: memory MiB CONTENT, threads N, processes N (of CONTENT MiB each), unix N, tcp N, pipes N (in two processes).
 */
#include "tests/bench/bench.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define SLOTS 1024

struct slot {
    uint64_t round; /* for which the rest holds */
    uint64_t first, last, longest;
    uint64_t pad[4];
};

struct stamps {
    uint64_t round; /* written by the benchmark */
    uint64_t ready; /* counts processes that are set up */
    uint64_t pad[6];
    struct slot slot[SLOTS];
};

static void __attribute__((noreturn)) tick(struct stamps *s, unsigned number, unsigned us)
{
    struct slot *me = &s->slot[number];
    uint64_t last = bench_ns();

    __atomic_add_fetch(&s->ready, 1, __ATOMIC_RELEASE);
    for (;;) {
        uint64_t now, round = __atomic_load_n(&s->round, __ATOMIC_ACQUIRE);

        usleep(us);
        now = bench_ns();
        if (me->round != round) {
            me->longest = 0;
            me->first = now;
            __atomic_store_n(&me->round, round, __ATOMIC_RELEASE);
        }
        if (now - last > me->longest)
            me->longest = now - last;
        me->last = last = now;
    }
}

static void *own_memory(size_t len, const char *content)
{
    void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (p == MAP_FAILED)
        bench_must(-1, "mmap");
    bench_fill(p, len, content);
    return p;
}

static void *blocked(void *arg)
{
    for (;;)
        pause();
    return arg;
}

static void make_threads(unsigned n)
{
    pthread_attr_t a;
    pthread_t t;

    pthread_attr_init(&a);
    pthread_attr_setstacksize(&a, 64 << 10);
    for (unsigned i = 1; i < n; i++)
        MUST(-pthread_create(&t, &a, blocked, NULL));
}

/* Returns the number of this process. */
static unsigned make_processes(unsigned n, size_t mib)
{
    for (unsigned i = 1; i < n; i++)
        if (MUST(fork()) == 0) {
            if (mib)
                own_memory(mib << 20, "compressible");
            return i;
        }
    if (mib)
        own_memory(mib << 20, "compressible");
    return 0;
}

static void make_pipes(unsigned n)
{
    char data[1000];
    int fd[2];

    memset(data, 'p', sizeof(data));
    for (unsigned i = 0; i < n; i++) {
        MUST(pipe(fd));
        MUST(write(fd[1], data, sizeof(data)));
    }
}

static void make_pairs(unsigned n)
{
    char data[1000];
    int fd[2];

    memset(data, 'u', sizeof(data));
    for (unsigned i = 0; i < n; i++) {
        MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, fd));
        MUST(write(fd[0], data, sizeof(data)));
        MUST(write(fd[1], data, sizeof(data)));
    }
}

static void make_connections(unsigned n)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(a);
    int listener = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
    char data[1000];

    memset(data, 't', sizeof(data));
    MUST(bind(listener, (struct sockaddr *)&a, len));
    MUST(listen(listener, 16));
    MUST(getsockname(listener, (struct sockaddr *)&a, &len));
    for (unsigned i = 0; i < n; i++) {
        int c = (int)MUST(socket(AF_INET, SOCK_STREAM, 0)), s;
        MUST(connect(c, (struct sockaddr *)&a, len));
        s = (int)MUST(accept(listener, NULL, NULL));
        MUST(write(c, data, sizeof(data)));
        MUST(write(s, data, sizeof(data)));
    }
}

static struct stamps *map_stamps(const char *path)
{
    int fd = (int)MUST(open(path, O_RDWR | O_CLOEXEC));
    void *p = mmap(NULL, sizeof(struct stamps), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

    close(fd);
    if (p == MAP_FAILED)
        bench_must(-1, path);
    return p;
}

int main(int argc, char **argv)
{
    const char *kind = argc > 4 ? argv[3] : "", *content = argc > 5 ? argv[5] : "0";
    unsigned n = argc > 4 ? (unsigned)atoi(argv[4]) : 0, number = 0;
    struct rlimit files = {200000, 200000};
    struct stamps *s;

    if (argc < 5 || n > 1000000)
        return fprintf(stderr, "bench_load STAMPS TICK_US KIND COUNT [CONTENT]\n"), 2;
    s = map_stamps(argv[1]);
    if (setrlimit(RLIMIT_NOFILE, &files) < 0 && getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    if (!strcmp(kind, "memory") && n)
        own_memory((size_t)n << 20, content);
    else if (!strcmp(kind, "threads"))
        make_threads(n);
    else if (!strcmp(kind, "processes") && n <= SLOTS)
        number = make_processes(n, (size_t)atoi(content));
    else if (!strcmp(kind, "unix"))
        make_pairs(n);
    else if (!strcmp(kind, "tcp"))
        make_connections(n);
    else if (!strcmp(kind, "pipes")) {
        number = make_processes(2, 0); /* limits of open files are often too low for one */
        make_pipes(n / 2);
    }
    tick(s, number, (unsigned)atoi(argv[2]));
}
