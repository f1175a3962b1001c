/*
 * Devices that everybody has, and files of /proc: /dev/null, zero, full, random, urandom; of /proc the
 * process's own, of a child, of the system, directories and a half-read one.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"

static void check_devices(int null, int zero, int full, int urandom)
{
    char a[64], b[64], zeros[64] = {0};

    check_num(0, read(null, a, 1), "read from /dev/null");
    check_num(64, write(null, a, 64), "write to /dev/null");
    check_num(64, read(zero, a, 64), "read from /dev/zero");
    check_mem(zeros, a, 64, "what /dev/zero gives");
    check_num(-1, write(full, a, 1), "write to /dev/full");
    check_num(ENOSPC, errno, "errno of that");
    check_num(64, read(urandom, a, 64), "read from /dev/urandom");
    check_num(64, read(urandom, b, 64), "read from /dev/urandom");
    check_true(memcmp(a, b, 64) != 0, "/dev/urandom gives the same twice");
}

/* Read a /proc file from its start; it must mention a text. */
static void check_mentions(int fd, const char *text, const char *what)
{
    static char buf[65536];
    ssize_t n;

    check_num(0, lseek(fd, 0, SEEK_SET), "%s: lseek", what);
    n = read(fd, buf, sizeof(buf) - 1);
    buf[n > 0 ? n : 0] = 0;
    check_true(strstr(buf, text) != NULL, "%s: no '%s' in '%.100s'", what, text, buf);
}

int main(int argc, char **argv)
{
    char path[64], pid_line[64], child_line[64], rest[64] = "", byte;
    int null, zero, full, urandom, self, child_status, stat_fd, half, dir, mem, oom;
    unsigned char *mapped;
    pid_t pid;

    check_init(argc, argv);
    pid = (pid_t)MUST(fork());
    if (pid == 0) {
        check_idle();
        check_sleep(0.2); /* the parent reads our status */
        _exit(0);
    }
    null = (int)MUST(open("/dev/null", O_RDWR));
    zero = (int)MUST(open("/dev/zero", O_RDWR));
    full = (int)MUST(open("/dev/full", O_RDWR));
    urandom = (int)MUST(open("/dev/urandom", O_RDONLY | O_NONBLOCK));
    mapped = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE, zero, 0);
    MUST(mapped);
    mapped[5] = 5;
    self = (int)MUST(open("/proc/self/status", O_RDONLY));
    snprintf(path, sizeof(path), "/proc/%d/status", pid);
    child_status = (int)MUST(open(path, O_RDONLY));
    stat_fd = (int)MUST(open("/proc/stat", O_RDONLY));
    half = (int)MUST(open("/proc/self/cmdline", O_RDONLY));
    MUST(lseek(half, 3, SEEK_SET));
    dir = (int)MUST(open("/proc/self/fd", O_RDONLY | O_DIRECTORY));
    mem = (int)MUST(open("/proc/self/mem", O_RDWR));
    oom = (int)MUST(open("/proc/self/oom_score_adj", O_RDWR | O_CLOEXEC));

    check_wait();

    if (check_broken())
        MUST(dup2(zero, null));
    check_devices(null, zero, full, urandom);
    check_num(O_NONBLOCK, fcntl(urandom, F_GETFL) & O_NONBLOCK, "flags of /dev/urandom");
    check_num(5, mapped[5], "byte written to private memory of /dev/zero");
    check_num(0, mapped[5000], "untouched byte of private memory of /dev/zero");
    snprintf(pid_line, sizeof(pid_line), "\nPid:\t%d\n", getpid());
    snprintf(child_line, sizeof(child_line), "\nPid:\t%d\n", pid);
    check_mentions(self, pid_line, "/proc/self/status");
    check_mentions(child_status, child_line, "/proc/PID/status of a child");
    check_mentions(stat_fd, "cpu", "/proc/stat");
    MUST(read(half, rest, 8));
    check_true(!strncmp(rest, argv[0] + 3, strlen(argv[0]) > 11 ? 8 : 1), "/proc/self/cmdline goes on with '%.8s'", rest);
    check_num(0, faccessat(dir, "0", F_OK, 0), "entry 0 of /proc/self/fd");
    check_num(1, pread(mem, &byte, 1, (off_t)(uintptr_t)(mapped + 5)), "read from /proc/self/mem");
    check_num(5, byte, "byte read from /proc/self/mem");
    check_num(3, write(oom, "123", 3), "write to /proc/self/oom_score_adj");
    check_mentions(oom, "123", "/proc/self/oom_score_adj");
    check_child(pid, "child");
    return check_end();
}
