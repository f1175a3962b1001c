/*
 * Stopped processes: one whose parent has been told, one whose parent has not, one with threads, one that
 * was stopped by a terminal signal. They are still stopped, the parent is told exactly as often as it should
 * be, and SIGCONT continues them. So is the parent of one that was continued.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"

struct child {
    const char *what;
    int sig;
    bool threads, told;
    pid_t pid;
    bool continued; /* it goes on again; told is about that */
};

static struct child children[] = {
    {"stopped, parent told", SIGSTOP, false, true, 0, false},
    {"stopped, parent not told", SIGSTOP, false, false, 0, false},
    {"stopped with threads", SIGSTOP, true, true, 0, false},
    {"stopped by SIGTSTP", SIGTSTP, false, true, 0, false},
    {"continued, parent told", SIGSTOP, false, true, 0, true},
    {"continued, parent not told", SIGSTOP, false, false, 0, true},
};

#define CHILDREN (sizeof(children) / sizeof(children[0]))

static volatile sig_atomic_t signals; /* SIGCHLD that the parent got */

static void on_sigchld(int sig)
{
    (void)sig;
    signals++;
}

static char state_of(pid_t pid)
{
    char path[64], stat[1024], *at;

    snprintf(path, sizeof(path), "/proc/%d/stat", pid);
    check_slurp(path, stat, sizeof(stat));
    at = strrchr(stat, ')');
    return at ? at[2] : '?';
}

static void *thread(void *arg)
{
    check_idle();
    return arg;
}

static void run(const struct child *c, int up)
{
    pthread_t threads[3];
    int i;

    for (i = 0; i < 3 && c->threads; i++)
        pthread_create(&threads[i], NULL, thread, NULL);
    MUST(write(up, "x", 1));
    while (c->continued)
        pause(); /* until it is killed */
    check_idle();
    for (i = 0; i < 3 && c->threads; i++)
        pthread_join(threads[i], NULL);
    _exit(5);
}

static void stop(struct child *c)
{
    siginfo_t info = {0};

    MUST(kill(c->pid, c->sig));
    while (state_of(c->pid) != 'T')
        check_sleep(0.002);
    if (!c->continued) {
        MUST(waitid(P_PID, (id_t)c->pid, &info, WSTOPPED | (c->told ? 0 : WNOWAIT)));
        return;
    }
    MUST(kill(c->pid, SIGCONT));
    MUST(waitid(P_PID, (id_t)c->pid, &info, WCONTINUED | (c->told ? 0 : WNOWAIT)));
    while (state_of(c->pid) != 'S')
        check_sleep(0.002);
}

/* Told that it goes on as often as it should be, and never that it had stopped. */
static void finish_continued(const struct child *c)
{
    int status = 0;

    check_num('S', state_of(c->pid), "%s: state", c->what);
    check_num(c->told ? 0 : c->pid, waitpid(c->pid, &status, WCONTINUED | WUNTRACED | WNOHANG), "%s: waitpid", c->what);
    if (!c->told)
        check_num(1, WIFCONTINUED(status), "%s: is that what it is told?", c->what);
    check_num(0, waitpid(c->pid, &status, WCONTINUED | WUNTRACED | WNOHANG), "%s: waitpid once more", c->what);
    MUST(kill(c->pid, SIGKILL));
    check_num(c->pid, waitpid(c->pid, &status, 0), "%s: waitpid at the end", c->what);
}

static void finish(const struct child *c)
{
    siginfo_t info = {0};
    int status = 0;

    check_num('T', state_of(c->pid), "%s: state", c->what);
    check_num(0, waitid(P_PID, (id_t)c->pid, &info, WSTOPPED | WNOHANG), "%s: waitid(WSTOPPED)", c->what);
    check_num(c->told ? 0 : c->pid, info.si_pid, "%s: waitid(WSTOPPED): pid", c->what);
    if (!c->told) {
        check_num(c->sig, info.si_status, "%s: signal that stopped it", c->what);
        check_num(CLD_STOPPED, info.si_code, "%s: si_code", c->what);
    }
    memset(&info, 0, sizeof(info));
    check_num(0, waitid(P_PID, (id_t)c->pid, &info, WSTOPPED | WNOHANG), "%s: waitid(WSTOPPED)", c->what);
    check_num(0, info.si_pid, "%s: waitid(WSTOPPED) once more: pid", c->what);
    MUST(kill(c->pid, SIGCONT));
    check_num(0, waitid(P_PID, (id_t)c->pid, &info, WCONTINUED | WEXITED | WNOWAIT), "%s: waitid", c->what);
    check_true(info.si_code == CLD_CONTINUED || info.si_code == CLD_EXITED, "%s: si_code after SIGCONT: %d", c->what,
               info.si_code);
    do
        check_num(c->pid, waitpid(c->pid, &status, 0), "%s: waitpid", c->what);
    while (WIFCONTINUED(status));
    check_num(5, WIFEXITED(status) ? WEXITSTATUS(status) : -1, "%s: exit status", c->what);
}

int main(int argc, char **argv)
{
    struct sigaction sa = {.sa_handler = on_sigchld, .sa_flags = SA_RESTART};
    int up[2], before;
    unsigned i;
    char c;

    check_init(argc, argv);
    MUST(sigaction(SIGCHLD, &sa, NULL));
    MUST(pipe(up));
    for (i = 0; i < CHILDREN; i++) {
        children[i].pid = (pid_t)MUST(fork());
        if (children[i].pid == 0) {
            /* A group of its own in our session: SIGTSTP is ignored by orphaned groups only. */
            MUST(setpgid(0, 0));
            run(&children[i], up[1]);
        }
        MUST(read(up[0], &c, 1));
        stop(&children[i]);
    }

    before = signals;
    check_wait();

    check_num(before, signals, "SIGCHLD while nothing happened");
    if (check_broken())
        kill(children[0].pid, SIGCONT);
    check_sleep(0.02);
    for (i = 0; i < CHILDREN; i++)
        children[i].continued ? finish_continued(&children[i]) : finish(&children[i]);
    return check_end();
}
