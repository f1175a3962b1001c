/*
 * Descriptors that take a plugin (examples/plugins/namespaces.c): of namespaces. Two numbers with one description, one with
 * another, in a child too: same inode, flags and who shares what.
 */
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "check.h"

#define N 3
#define KCMP_FILE 0

static int fds[N];
static ino_t before[N];

static void compare(const char *who)
{
    struct stat st;

    for (int i = 0; i < N; i++) {
        if (!check_num(0, fstat(fds[i], &st), "%s: fstat of descriptor %d", who, i))
            continue;
        check_num((long long)before[i], (long long)st.st_ino, "%s: inode of descriptor %d", who, i);
        check_num(i == 1 ? FD_CLOEXEC : 0, fcntl(fds[i], F_GETFD), "%s: close-on-exec of descriptor %d", who, i);
        check_num(i == 2 ? O_NONBLOCK : 0, fcntl(fds[i], F_GETFL) & O_NONBLOCK, "%s: O_NONBLOCK of descriptor %d", who, i);
    }
    pid_t self = getpid(), parent = getppid();
    check_num(0, syscall(SYS_kcmp, self, self, KCMP_FILE, fds[0], fds[1]), "%s: descriptors 0 and 1 are one", who);
    check_true(syscall(SYS_kcmp, self, self, KCMP_FILE, fds[0], fds[2]) > 0, "%s: descriptors 0 and 2 are two", who);
    if (who[0] == 'c')
        check_num(0, syscall(SYS_kcmp, self, parent, KCMP_FILE, fds[2], fds[2]), "%s: its parent's descriptor 2 is its own", who);
}

int main(int argc, char **argv)
{
    struct stat st;

    check_init(argc, argv);
    fds[0] = open("/proc/self/ns/uts", O_RDONLY);
    fds[1] = fcntl(fds[0], F_DUPFD_CLOEXEC, 100);
    fds[2] = open("/proc/self/ns/uts", O_RDONLY | O_NONBLOCK);
    for (int i = 0; i < N; i++) {
        if (fds[i] < 0 || fstat(fds[i], &st) < 0)
            check_die("/proc/self/ns/uts: %m");
        before[i] = st.st_ino;
    }
    pid_t child = fork();
    if (child == 0) {
        check_wait_go();
        compare("child");
        _exit(check_status());
    }
    check_wait();
    if (check_broken())
        before[2]++;
    compare("parent");
    check_child(child, "the child");
    return check_end();
}
