/*
 * io_uring by its raw calls: a ring with completions not yet seen, an entry prepared but not submitted, and
 * operations under way (a poll, a read of an empty pipe, a far timeout); registered files and buffers;
 * counters that went around the ring several times; and a ring with a polling thread of the kernel.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"

#define ENTRIES 16u

struct ring {
    struct io_uring_params p;
    int fd;
    uint8_t *mem;
    struct io_uring_sqe *sqes;
    uint32_t tail; /* as liburing keeps a copy */
};

static uint32_t *at(struct ring *r, uint32_t offset)
{
    return (uint32_t *)(void *)(r->mem + offset);
}

static bool make(struct ring *r, unsigned flags)
{
    *r = (struct ring){.p.flags = flags, .p.sq_thread_idle = 20};
    r->fd = (int)syscall(SYS_io_uring_setup, ENTRIES, &r->p);
    if (r->fd < 0)
        return false;
    r->mem = mmap(NULL, r->p.sq_off.array + 4ul * ENTRIES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE,
                  r->fd, IORING_OFF_SQ_RING);
    r->sqes = mmap(NULL, ENTRIES * sizeof(struct io_uring_sqe), PROT_READ | PROT_WRITE,
                   MAP_SHARED | MAP_POPULATE, r->fd, (off_t)IORING_OFF_SQES);
    MUST((void *)r->mem == MAP_FAILED || (void *)r->sqes == MAP_FAILED ? -1 : 0);
    for (uint32_t i = 0; i < ENTRIES; i++)
        *at(r, r->p.sq_off.array + 4 * i) = i;
    return true;
}

static struct io_uring_sqe *prepare(struct ring *r, int op, int fd, const void *addr, unsigned len,
                                    uint64_t data)
{
    struct io_uring_sqe *s = &r->sqes[r->tail++ & (ENTRIES - 1)];

    *s = (struct io_uring_sqe){
        .opcode = (uint8_t)op, .fd = fd, .addr = (uint64_t)(uintptr_t)addr, .len = len, .user_data = data};
    return s;
}

static long submit(struct ring *r)
{
    uint32_t n = r->tail - __atomic_load_n(at(r, r->p.sq_off.head), __ATOMIC_ACQUIRE);

    __atomic_store_n(at(r, r->p.sq_off.tail), r->tail, __ATOMIC_RELEASE);
    return syscall(SYS_io_uring_enter, r->fd, n, 0,
                   r->p.flags & IORING_SETUP_SQPOLL ? IORING_ENTER_SQ_WAKEUP : 0, NULL, 0);
}

/* The next completion; waits for it, but not for ever. */
static bool next(struct ring *r, struct io_uring_cqe *cqe)
{
    uint32_t head = *at(r, r->p.cq_off.head);

    for (int i = 0; i < 1000; i++) {
        if (head != __atomic_load_n(at(r, r->p.cq_off.tail), __ATOMIC_ACQUIRE)) {
            memcpy(cqe, r->mem + r->p.cq_off.cqes + sizeof(*cqe) * (head & (r->p.cq_entries - 1)),
                   sizeof(*cqe));
            __atomic_store_n(at(r, r->p.cq_off.head), head + 1, __ATOMIC_RELEASE);
            return true;
        }
        syscall(SYS_io_uring_enter, r->fd, 0, 0, IORING_ENTER_GETEVENTS, NULL, 0);
        check_sleep(0.002);
    }
    return false;
}

static void expect(struct ring *r, uint64_t data, int res, const char *what)
{
    struct io_uring_cqe cqe = {0};

    if (!check_true(next(r, &cqe), "no completion of %s", what))
        return;
    check_num((long long)data, (long long)cqe.user_data, "user_data of %s", what);
    check_num(res, cqe.res, "result of %s", what);
}

static void turn(struct ring *r, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        prepare(r, IORING_OP_NOP, -1, NULL, 0, 1000 + i);
        MUST(submit(r));
        expect(r, 1000 + i, 0, "nothing");
    }
}

int main(int argc, char **argv)
{
    static char fixed[8192], got[16], other[16];
    struct __kernel_timespec far = {.tv_sec = 100000};
    struct iovec iov = {fixed, sizeof(fixed)};
    struct ring a, b;
    int empty[2], full[2], third[2], file, files[3];

    check_init(argc, argv);
    if (!make(&a, 0))
        check_skip("no io_uring here: %s", strerror(errno));
    MUST(pipe(empty));
    MUST(pipe(full));
    MUST(pipe(third));
    check_spit(check_path("file"), "content of the file", 19);
    file = (int)MUST(open(check_path("file"), O_RDONLY));
    turn(&a, 40);
    files[0] = -1;
    files[1] = file;
    files[2] = -1;
    MUST(syscall(SYS_io_uring_register, a.fd, IORING_REGISTER_FILES, files, 3));
    MUST(syscall(SYS_io_uring_register, a.fd, IORING_REGISTER_BUFFERS, &iov, 1));
    prepare(&a, IORING_OP_POLL_ADD, empty[0], NULL, 0, 1)->poll32_events = POLLIN;
    prepare(&a, IORING_OP_READ, third[0], got, sizeof(got), 2)->off = (uint64_t)-1;
    prepare(&a, IORING_OP_TIMEOUT, -1, &far, 1, 3);
    prepare(&a, IORING_OP_NOP, -1, NULL, 0, 4);
    prepare(&a, IORING_OP_NOP, -1, NULL, 0, 5);
    MUST(submit(&a));
    prepare(&a, IORING_OP_READ_FIXED, 1, fixed + 100, 7, 6)->flags = IOSQE_FIXED_FILE; /* not submitted yet */
    if (!make(&b, IORING_SETUP_SQPOLL))
        check_note("no ring with a polling thread: %s", strerror(errno));
    if (b.fd >= 0) {
        turn(&b, 5);
        prepare(&b, IORING_OP_POLL_ADD, full[0], NULL, 0, 7)->poll32_events = POLLIN;
        MUST(submit(&b));
    }

    check_wait();

    if (check_broken())
        *at(&a, a.p.cq_off.head) += 1;
    expect(&a, 4, 0, "the first that was not seen");
    expect(&a, 5, 0, "the second that was not seen");
    MUST(submit(&a));
    expect(&a, 6, 7, "the read that was only prepared");
    check_mem("content", fixed + 100, 7, "what it read");
    MUST(write(third[1], "hello", 5));
    expect(&a, 2, 5, "the read that waited");
    check_mem("hello", got, 5, "what it read");
    MUST(write(empty[1], "x", 1));
    expect(&a, 1, POLLIN, "the poll");
    prepare(&a, IORING_OP_TIMEOUT_REMOVE, -1, (void *)3, 0, 8);
    MUST(submit(&a));
    {
        struct io_uring_cqe c1 = {0}, c2 = {0}; /* in any order */
        check_true(next(&a, &c1) && next(&a, &c2), "no completions of the timeout");
        check_num(3 + 8, (long long)(c1.user_data + c2.user_data), "timeout and its removal");
        check_num(-ECANCELED, c1.res + c2.res, "results of timeout and its removal");
    }
    turn(&a, 40);
    if (b.fd >= 0) {
        MUST(write(full[1], "x", 1));
        expect(&b, 7, POLLIN, "the poll of the ring with a thread");
        prepare(&b, IORING_OP_READ, full[0], other, 1, 9)->off = (uint64_t)-1;
        MUST(submit(&b));
        expect(&b, 9, 1, "a read of the ring with a thread");
        turn(&b, 40);
    }
    return check_end();
}
