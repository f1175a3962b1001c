/*
 * What processes share by clone() without being threads: the descriptor table (CLONE_FILES), working
 * directory and umask (CLONE_FS), memory (CLONE_VM), signal handlers (CLONE_SIGHAND); and that a forked
 * child shares none of it. A change in one shows in the other or does not.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"

#define STACK 65536

struct relative {
    const char *what;
    int flags;
    pid_t pid;
    char *stack;
};

struct shared {
    volatile int step;
    volatile int up;
};

static struct relative relatives[] = {
    {"forked child", 0, 0, NULL},
    {"CLONE_FILES", CLONE_FILES, 0, NULL},
    {"CLONE_FS", CLONE_FS, 0, NULL},
    {"CLONE_VM", CLONE_VM, 0, NULL},
    {"CLONE_FILES and CLONE_FS", CLONE_FILES | CLONE_FS, 0, NULL},
    {"CLONE_VM and CLONE_SIGHAND", CLONE_VM | CLONE_SIGHAND, 0, NULL},
};

#define RELATIVES (sizeof(relatives) / sizeof(relatives[0]))

static struct shared *s;
static volatile int in_memory = 1;

static void on_signal(int sig)
{
    (void)sig;
}

/* Runs when the parent has changed all there is to change. Must not fail() in memory that is shared:
 * the parent's counter is the right one then, so it may. */
static int relative(void *arg)
{
    const struct relative *r = arg;
    struct sigaction sa;
    char cwd[600] = "";
    mode_t mask;

    __atomic_add_fetch(&s->up, 1, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&s->step, __ATOMIC_SEQ_CST) == 0)
        check_sleep(0.002);
    check_num(r->flags & CLONE_FILES ? 0 : -1, fcntl(100, F_GETFL) < 0 ? -1 : 0, "%s: descriptor opened by the parent",
              r->what);
    check_num(r->flags & CLONE_FILES ? -1 : 0, fcntl(101, F_GETFL) < 0 ? -1 : 0, "%s: descriptor closed by the parent",
              r->what);
    mask = umask(0);
    umask(mask);
    check_num(r->flags & CLONE_FS ? 0011 : 0022, mask, "%s: umask after the parent changed it", r->what);
    MUST(readlink("/proc/self/cwd", cwd, sizeof(cwd) - 1));
    check_str(r->flags & CLONE_FS ? "/usr" : "/", cwd, r->what);
    check_num(r->flags & CLONE_VM ? 2 : 1, in_memory, "%s: variable that the parent changed", r->what);
    MUST(sigaction(SIGUSR1, NULL, &sa));
    check_num(r->flags & CLONE_SIGHAND ? 1 : 0, sa.sa_handler == on_signal, "%s: handler set by the parent", r->what);
    _exit(r->flags & CLONE_VM ? 0 : check_status());
}

int main(int argc, char **argv)
{
    unsigned i;

    check_init(argc, argv);
    umask(022);
    MUST(chdir("/"));
    s = mmap(NULL, sizeof(*s), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    MUST(s);
    MUST(dup2(1, 101));
    for (i = 0; i < RELATIVES; i++) {
        struct relative *r = &relatives[i];

        r->stack = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        MUST(r->stack);
        r->pid = (pid_t)MUST(clone(relative, r->stack + STACK, r->flags | SIGCHLD, r));
    }
    while (__atomic_load_n(&s->up, __ATOMIC_SEQ_CST) < (int)RELATIVES)
        check_sleep(0.002);

    check_wait();

    if (!check_broken())
        MUST(dup2(1, 100));
    MUST(close(101));
    umask(011);
    MUST(chdir("/usr"));
    in_memory = 2;
    signal(SIGUSR1, on_signal);
    __atomic_store_n(&s->step, 1, __ATOMIC_SEQ_CST);
    for (i = 0; i < RELATIVES; i++)
        check_child(relatives[i].pid, relatives[i].what);
    return check_end();
}
