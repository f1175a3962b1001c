/*
 * Runs a fuzz target (LLVMFuzzerTestOneInput, as libFuzzer calls it) without libFuzzer, so that
 * the targets run everywhere the tests do: first over a corpus, then over random mutations of it
 * for a bounded time. No coverage feedback: what finds new paths is libFuzzer (see meson.build);
 * this keeps the paths that are known from breaking.
 *
 *   fuzz_X [-t seconds] [-s seed] file-or-directory...
 *
 * An input that crashes or hangs is written to crash-SEED in the current directory.
 */
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>

#include "base/util.h"

#define INPUT_MAX    (256u << 10)
#define HANG_SECONDS 20

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed) __attribute__((weak));
void __sanitizer_set_death_callback(void (*callback)(void)) __attribute__((weak));

struct input {
    uint8_t *data;
    size_t len;
};

struct corpus {
    struct input *inputs;
    size_t n, cap;
};

/* For the signal handlers, which must know what is being run. */
static struct {
    const uint8_t *data;
    size_t len;
    char file[40];
} current;

static uint64_t random_state;

static uint64_t random_below(uint64_t n)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return n ? random_state % n : 0;
}

static void save_input(void)
{
    int fd = open(current.file, O_WRONLY | O_CREAT | O_TRUNC, 0600);

    if (fd < 0 || write_full(fd, current.data, current.len) < 0)
        return;
    close(fd);
    fprintf(stderr, "the input is in %s\n", current.file);
}

static void on_signal(int sig)
{
    save_input();
    signal(sig, SIG_DFL);
    raise(sig);
}

static void run(const uint8_t *data, size_t len)
{
    struct itimerval hang = {.it_value = {.tv_sec = HANG_SECONDS}};

    current.data = data;
    current.len = len;
    setitimer(ITIMER_REAL, &hang, NULL);
    LLVMFuzzerTestOneInput(data, len);
}

static int add_path(struct corpus *c, const char *path);

static int add_directory(struct corpus *c, const char *path)
{
    DIR *dir = opendir(path);
    struct dirent *d;
    int r = dir ? 0 : -1;

    while (!r && (d = readdir(dir))) {
        _cleanup_free_ char *below = format("%s/%s", path, d->d_name);

        if (d->d_name[0] != '.')
            r = below ? add_path(c, below) : -1;
    }
    if (dir)
        closedir(dir);
    return r;
}

static int add_path(struct corpus *c, const char *path)
{
    struct stat st;
    struct input *more, in;

    if (stat(path, &st) < 0)
        return -1;
    if (S_ISDIR(st.st_mode))
        return add_directory(c, path);
    more = grow(c->inputs, c->n, &c->cap, sizeof(*more));
    if (!more)
        return -1;
    c->inputs = more;
    if (read_file(AT_FDCWD, path, (char **)&in.data, &in.len) < 0)
        return -1;
    c->inputs[c->n++] = in;
    return 0;
}

/* ---- mutations ---- */

static void put_number(uint8_t *data, size_t size)
{
    static const uint64_t interesting[] = {0,          1,      7,      8,        127,        128,        255,
                                           256,        0x7fff, 0xffff, 0x10000,  0x7fffffff, 1ull << 31, -1,
                                           1ull << 32, 4095,   4096,   1u << 18, 1ull << 63, INT64_MAX};
    uint64_t v = interesting[random_below(ARRAY_SIZE(interesting))] + random_below(3) - 1;
    size_t width = (size_t)1 << random_below(4), at;

    if (width > size)
        return;
    at = random_below(size - width + 1);
    at = random_below(2) ? at & ~(width - 1) : at;
    memcpy(data + at, &v, width);
}

/* Copy a piece over another, or make room for it there. */
static size_t copy_piece(uint8_t *data, size_t size, size_t max)
{
    size_t len = 1 + random_below(size < 64 ? size : 64), from, to;

    if (len > size)
        return size;
    from = random_below(size - len + 1);
    to = random_below(size - len + 1);
    if (random_below(2) || size + len > max) {
        memmove(data + to, data + from, len);
        return size;
    }
    memmove(data + to + len, data + to, size - to);
    memmove(data + to, data + (from >= to ? from + len : from), len);
    return size + len;
}

static size_t cut_piece(uint8_t *data, size_t size)
{
    size_t len = 1 + random_below(random_below(8) ? 8 : size), at;

    if (len >= size)
        return size;
    at = random_below(size - len + 1);
    memmove(data + at, data + at + len, size - at - len);
    return size - len;
}

static size_t insert_bytes(uint8_t *data, size_t size, size_t max)
{
    size_t len = 1 + random_below(16), at = random_below(size + 1);

    if (size + len > max)
        return size;
    memmove(data + at + len, data + at, size - at);
    for (size_t i = 0; i < len; i++)
        data[at + i] = (uint8_t)random_below(256);
    return size + len;
}

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max)
{
    if (!size)
        return insert_bytes(data, size, max);
    switch (random_below(8)) {
    case 0:
    case 1:
        data[random_below(size)] ^= (uint8_t)(1u << random_below(8));
        return size;
    case 2:
        data[random_below(size)] = (uint8_t)random_below(256);
        return size;
    case 3:
    case 4:
        put_number(data, size);
        return size;
    case 5:
        return copy_piece(data, size, max);
    case 6:
        return cut_piece(data, size);
    default:
        return insert_bytes(data, size, max);
    }
}

static size_t mutate(const struct corpus *c, uint8_t *buf)
{
    size_t size = 0;

    if (c->n) {
        const struct input *in = &c->inputs[random_below(c->n)];

        size = in->len < INPUT_MAX ? in->len : INPUT_MAX;
        memcpy(buf, in->data, size);
    }
    for (uint64_t i = 1 + random_below(4); i > 0; i--)
        size = LLVMFuzzerCustomMutator
                   ? LLVMFuzzerCustomMutator(buf, size, INPUT_MAX, (unsigned)random_below(1u << 31))
                   : LLVMFuzzerMutate(buf, size, INPUT_MAX);
    return size;
}

static uint64_t fuzz(const struct corpus *c, int seconds)
{
    _cleanup_free_ uint8_t *buf = malloc(INPUT_MAX);
    time_t end = time(NULL) + seconds;
    uint64_t runs = 0;

    while (buf && time(NULL) < end) {
        size_t len = mutate(c, buf);
        uint8_t *exact = malloc(len ? len : 1); /* so that ASan sees the end of it */

        if (!exact)
            break;
        memcpy(exact, buf, len);
        run(exact, len);
        free(exact);
        runs++;
    }
    return runs;
}

static void prepare(uint64_t seed)
{
    static const int signals[] = {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL, SIGALRM};

    random_state = seed * 0x9e3779b97f4a7c15u | 1;
    snprintf(current.file, sizeof(current.file), "crash-%llu", (unsigned long long)seed);
    if (__sanitizer_set_death_callback)
        __sanitizer_set_death_callback(save_input);
    for (size_t i = 0; i < ARRAY_SIZE(signals); i++)
        if (!__sanitizer_set_death_callback || signals[i] == SIGALRM)
            signal(signals[i], on_signal);
}

int main(int argc, char **argv)
{
    struct corpus c = {0};
    int seconds = 0, opt;
    uint64_t seed = (uint64_t)time(NULL), runs;

    while ((opt = getopt(argc, argv, "t:s:")) != -1) {
        if (opt == 't')
            seconds = atoi(optarg);
        else if (opt == 's')
            seed = strtoull(optarg, NULL, 0);
        else
            return 2;
    }
    for (; optind < argc; optind++)
        if (add_path(&c, argv[optind]) < 0) {
            perror(argv[optind]);
            return 2;
        }
    prepare(seed);
    for (size_t i = 0; i < c.n; i++)
        run(c.inputs[i].data, c.inputs[i].len);
    runs = fuzz(&c, seconds);
    printf("%zu inputs and %llu mutations of them, seed %llu\n", c.n, (unsigned long long)runs,
           (unsigned long long)seed);
    for (size_t i = 0; i < c.n; i++)
        free(c.inputs[i].data);
    free(c.inputs);
    return 0;
}
