/*
 * Asynchronous I/O (io_setup(2)): a context with events that are not fetched yet, after its ring went around;
 * one that is at the last place of its ring; one whose events go over the end of its ring. The context's id,
 * which is an address, stays valid.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"

static char buf[8][64];

static void submit(aio_context_t ctx, int fd, unsigned slot, unsigned len, uint64_t offset, uint64_t data)
{
    struct iocb cb = {.aio_lio_opcode = IOCB_CMD_PREAD,
                      .aio_fildes = (uint32_t)fd,
                      .aio_nbytes = len,
                      .aio_buf = (uint64_t)(uintptr_t)buf[slot],
                      .aio_offset = (int64_t)offset,
                      .aio_data = data};
    struct iocb *list = &cb;

    MUST(syscall(SYS_io_submit, ctx, 1, &list));
}

static void expect(aio_context_t ctx, uint64_t data, long res)
{
    struct timespec patience = {.tv_sec = 5};
    struct io_event e = {0};

    check_num(1, syscall(SYS_io_getevents, ctx, 1, 1, &e, &patience), "events for %llu",
              (unsigned long long)data);
    check_num((long long)data, (long long)e.data, "data of an event");
    check_num(res, e.res, "result of %llu", (unsigned long long)data);
}

static uint32_t places(aio_context_t ctx)
{
    return ((const uint32_t *)(uintptr_t)ctx)[1]; /* fs/aio.c: struct aio_ring */
}

/* A context whose next event is put so many places before the end of its ring. */
static aio_context_t make_at(int fd, unsigned before_end)
{
    aio_context_t ctx = 0;

    MUST(syscall(SYS_io_setup, 40, &ctx));
    for (unsigned i = 0; i < places(ctx) - before_end; i++) {
        submit(ctx, fd, 7, 1, 0, i);
        expect(ctx, i, 1);
    }
    return ctx;
}

int main(int argc, char **argv)
{
    aio_context_t ctx = 0, other = 0, last, over;
    struct io_event e;
    struct timespec none = {0};
    int fd;

    check_init(argc, argv);
    if (syscall(SYS_io_setup, 40, &ctx) < 0)
        check_skip("no asynchronous I/O here: %s", strerror(errno));
    MUST(syscall(SYS_io_setup, 3, &other));
    check_spit(check_path("file"), "0123456789abcdefghij", 20);
    fd = (int)MUST(open(check_path("file"), O_RDONLY));
    for (unsigned i = 0; i < 150; i++) {
        submit(ctx, fd, 7, 1, i % 20, i);
        expect(ctx, i, 1);
    }
    submit(ctx, fd, 0, 5, 3, 1001);
    submit(ctx, fd, 1, 5, 18, 1002);
    submit(other, fd, 2, 4, 0, 1003);
    last = make_at(fd, 1);
    over = make_at(fd, 20);
    for (unsigned i = 0; i < 30; i++)
        submit(over, fd, 7, 1, 0, 2000 + i);

    check_wait();

    expect(ctx, check_broken() ? 1002 : 1001, 5);
    expect(ctx, 1002, 2);
    check_mem("34567", buf[0], 5, "what was read");
    check_num(0, syscall(SYS_io_getevents, ctx, 0, 1, &e, &none), "further events");
    expect(other, 1003, 4);
    for (unsigned i = 0; i < 30; i++)
        expect(over, 2000 + i, 1);
    for (unsigned i = 0; i < 150; i++) {
        submit(ctx, fd, 7, 1, i % 20, i);
        expect(ctx, i, 1);
        submit(last, fd, 7, 1, i % 20, i);
        expect(last, i, 1);
        submit(over, fd, 7, 1, i % 20, i);
        expect(over, i, 1);
    }
    check_num(0, syscall(SYS_io_destroy, ctx), "io_destroy");
    check_num(0, syscall(SYS_io_destroy, other), "io_destroy");
    return check_end();
}
