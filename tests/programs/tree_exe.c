/*
 * Program files that are gone: a process that runs a copy of this program which has been deleted since, one
 * whose copy was replaced by another file (an upgrade), and one that runs from a memfd.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"

extern char **environ;

/* A constant of some size, so that the program file has pages that are not touched before the checkpoint. */
static const unsigned char constant[40000] = {[0] = 1, [10000] = 2, [20000] = 3, [39999] = 4};

static void copy_self(int to)
{
    int from = (int)MUST(open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
    struct stat st;

    MUST(fstat(from, &st));
    while (st.st_size > 0)
        st.st_size -= MUST(sendfile(to, from, NULL, (size_t)st.st_size));
    close(from);
}

/* In the copy: argv has --kind behind the usual arguments. */
static int in_copy(int up)
{
    char before[600] = "", after[600] = "";
    volatile unsigned at = 10000;

    MUST(readlink("/proc/self/exe", before, sizeof(before) - 1));
    check_true(strstr(before, "(deleted)") != NULL || strstr(before, "memfd") != NULL, "%s is not deleted", before);
    MUST(write(up, "x", 1));
    check_idle();
    MUST(readlink("/proc/self/exe", after, sizeof(after) - 1));
    /* The name is somebody else's now, and a file cannot be shown under it unless it was made under it. */
    if (strstr(before, "/replaced"))
        check_true(strstr(after, " (deleted)") != NULL, "/proc/self/exe is %s, and was deleted", after);
    else
        check_str(before, after, "/proc/self/exe");
    check_num(check_broken() ? 1 : 2, constant[at], "constant in the program file");
    check_num(4, constant[at * 4 - 1], "another constant in the program file");
    return check_status();
}

/* Become the copy. */
static void execute(char **argv, int argc, const char *how, int up)
{
    char *args[16], fd_text[16];
    int i, fd;

    for (i = 0; i < argc && i < 10; i++)
        args[i] = argv[i];
    snprintf(fd_text, sizeof(fd_text), "%d", up);
    args[i++] = (char *)"--copy";
    args[i++] = fd_text;
    args[i] = NULL;
    if (!strcmp(how, "memfd")) {
        fd = (int)MUST(memfd_create("program", MFD_CLOEXEC));
        copy_self(fd);
        fexecve(fd, args, environ);
    } else {
        execv(check_path(how), args);
    }
    check_die("cannot execute the copy (%s)", how);
}

static void make_copy(const char *name)
{
    int fd = (int)MUST(open(check_path(name), O_WRONLY | O_CREAT | O_CLOEXEC, 0755));

    copy_self(fd);
    close(fd);
}

/* Wait in the copy until /proc/self/exe says that the file is gone. */
static void await_deletion(void)
{
    char link[600];
    ssize_t n;

    do {
        check_sleep(0.002);
        n = readlink("/proc/self/exe", link, sizeof(link) - 1);
        link[n > 0 ? n : 0] = 0;
    } while (!strstr(link, "(deleted)") && !strstr(link, "memfd"));
}

/* Wait in the parent until the child has executed the copy: only then may the file go. */
static void await_exec(pid_t pid, const char *name)
{
    char path[64], link[600];
    ssize_t n;

    snprintf(path, sizeof(path), "/proc/%d/exe", pid);
    do {
        check_sleep(0.002);
        n = readlink(path, link, sizeof(link) - 1);
        link[n > 0 ? n : 0] = 0;
    } while (!strstr(link, name)); /* "memfd:program" has "memfd" in it */
}

int main(int argc, char **argv)
{
    static const char *const hows[] = {"deleted", "replaced", "memfd"};
    pid_t pids[3];
    int up[2], i;
    char c;

    check_init(argc, argv);
    if (argc > 2 && !strcmp(argv[argc - 2], "--copy")) {
        await_deletion();
        return in_copy(atoi(argv[argc - 1]));
    }
    MUST(pipe(up));
    for (i = 0; i < 3; i++) {
        if (i < 2)
            make_copy(hows[i]);
        pids[i] = (pid_t)MUST(fork());
        if (pids[i] == 0)
            execute(argv, argc, hows[i], up[1]);
        await_exec(pids[i], hows[i]);
        if (i == 0)
            MUST(unlink(check_path("deleted")));
        if (i == 1) {
            check_spit(check_path("other"), "not a program", 13);
            MUST(rename(check_path("other"), check_path("replaced")));
        }
        MUST(read(up[0], &c, 1));
    }

    check_wait();

    for (i = 0; i < 3; i++)
        check_child(pids[i], hows[i]);
    return check_end();
}
