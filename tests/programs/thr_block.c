/*
 * Threads in every kind of call that waits for something without a time-out. None may come back before the
 * something happens, and then each must come back with the right result.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/select.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"
#include "tests/programs/jobs.h"

#ifndef SYS_futex_waitv
#define SYS_futex_waitv 449
#endif

/* -- pipes and terminals ---------------------------------------------------------------------- */

static void make_pipe(struct job *j)
{
    MUST(pipe(j->fds));
}

static void make_full_pipe(struct job *j)
{
    static char block[65536];

    MUST(pipe(j->fds));
    MUST(fcntl(j->fds[1], F_SETPIPE_SZ, (int)sizeof(block)));
    MUST(write(j->fds[1], block, sizeof(block)));
}

static void make_pty(struct job *j)
{
    struct termios t;

    j->fds[1] = (int)MUST(posix_openpt(O_RDWR | O_NOCTTY));
    MUST(grantpt(j->fds[1]));
    MUST(unlockpt(j->fds[1]));
    j->fds[0] = (int)MUST(open(ptsname(j->fds[1]), O_RDWR | O_NOCTTY));
    MUST(tcgetattr(j->fds[0], &t));
    t.c_lflag &= ~(tcflag_t)ECHO;
    MUST(tcsetattr(j->fds[0], TCSANOW, &t));
}

static void write_line(struct job *j)
{
    MUST(write(j->fds[1], "abcd\n", 5));
}

static void read_much(struct job *j)
{
    static char block[65536];

    MUST(read(j->fds[0], block, sizeof(block)));
}

static long call_read(struct job *j)
{
    char buf[64];

    return result_of(read(j->fds[0], buf, sizeof(buf)));
}

static long call_write(struct job *j)
{
    return result_of(write(j->fds[1], "xyz", 3));
}

static long call_splice(struct job *j)
{
    int other[2];

    MUST(pipe(other));
    return result_of(splice(j->fds[0], NULL, other[1], NULL, 64, 0));
}

static void make_fifo(struct job *j)
{
    MUST(mkfifo(check_path("fifo"), 0600));
    j->fds[0] = -1;
}

static long call_open_fifo(struct job *j)
{
    int fd = open(check_path("fifo"), O_RDONLY);

    j->fds[0] = fd;
    return fd < 0 ? -errno : 0;
}

static void release_fifo(struct job *j)
{
    j->fds[1] = (int)MUST(open(check_path("fifo"), O_WRONLY | O_NONBLOCK));
}

/* -- waiting for several ------------------------------------------------------------------------ */

static long call_poll(struct job *j)
{
    struct pollfd fd = {.fd = j->fds[0], .events = POLLIN};

    return result_of(poll(&fd, 1, -1));
}

static long call_ppoll(struct job *j)
{
    struct pollfd fd = {.fd = j->fds[0], .events = POLLIN};
    sigset_t mask;

    sigfillset(&mask);
    return result_of(ppoll(&fd, 1, NULL, &mask));
}

static long call_select(struct job *j)
{
    fd_set set;

    FD_ZERO(&set);
    FD_SET(j->fds[0], &set);
    return result_of(select(j->fds[0] + 1, &set, NULL, NULL, NULL));
}

static long call_pselect(struct job *j)
{
    sigset_t mask;
    fd_set set;

    FD_ZERO(&set);
    FD_SET(j->fds[0], &set);
    sigfillset(&mask);
    return result_of(pselect(j->fds[0] + 1, &set, NULL, NULL, NULL, &mask));
}

static long call_epoll(struct job *j)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = 0x1122334455667788};
    int fd = (int)MUST(epoll_create1(EPOLL_CLOEXEC));
    long n;

    MUST(epoll_ctl(fd, EPOLL_CTL_ADD, j->fds[0], &event));
    memset(&event, 0, sizeof(event));
    n = result_of(epoll_wait(fd, &event, 1, -1));
    if (n == 1)
        check_num(0x1122334455667788, (long long)event.data.u64, "data of an epoll event");
    return n;
}

static long call_epoll_pwait(struct job *j)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLET};
    int fd = (int)MUST(epoll_create1(0));
    sigset_t mask;

    MUST(epoll_ctl(fd, EPOLL_CTL_ADD, j->fds[0], &event));
    sigfillset(&mask);
    return result_of(epoll_pwait(fd, &event, 1, -1, &mask));
}

/* -- futexes -------------------------------------------------------------------------------------- */

static long call_futex(struct job *j)
{
    return result_of(syscall(SYS_futex, &j->word, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0));
}

static long call_futex_bitset(struct job *j)
{
    return result_of(syscall(SYS_futex, &j->word, FUTEX_WAIT_BITSET, 0, NULL, NULL, 0x10));
}

static long call_futex_waitv(struct job *j)
{
    struct futex_waitv v = {.val = 0, .uaddr = (uintptr_t)&j->word, .flags = FUTEX_32 | FUTEX_PRIVATE_FLAG};

    return result_of(syscall(SYS_futex_waitv, &v, 1, 0, NULL, 0));
}

static void release_futex(struct job *j)
{
    atomic_store(&j->word, 1);
    MUST(syscall(SYS_futex, &j->word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0));
}

static void release_futex_bitset(struct job *j)
{
    check_num(0, syscall(SYS_futex, &j->word, FUTEX_WAKE_BITSET, 1, NULL, NULL, 0x20), "threads woken by other bits");
    check_num(1, syscall(SYS_futex, &j->word, FUTEX_WAKE_BITSET, 1, NULL, NULL, 0x30), "threads woken by their bit");
}

static void make_sem(struct job *j)
{
    MUST(sem_init(&j->sem, 0, 0));
}

static long call_sem(struct job *j)
{
    return result_of(sem_wait(&j->sem));
}

static void release_sem(struct job *j)
{
    MUST(sem_post(&j->sem));
}

static void make_mutex(struct job *j)
{
    pthread_mutex_init(&j->mutex, NULL);
    pthread_mutex_lock(&j->mutex);
}

static void make_pi_mutex(struct job *j)
{
    pthread_mutexattr_t attr;

    pthread_mutexattr_init(&attr);
    pthread_mutexattr_setprotocol(&attr, PTHREAD_PRIO_INHERIT);
    pthread_mutex_init(&j->mutex, &attr);
    pthread_mutex_lock(&j->mutex);
}

static long call_mutex(struct job *j)
{
    int error = pthread_mutex_lock(&j->mutex);

    if (!error)
        pthread_mutex_unlock(&j->mutex);
    return -error;
}

static void release_mutex(struct job *j)
{
    check_num(0, pthread_mutex_unlock(&j->mutex), "unlocking a mutex");
}

static void make_cond(struct job *j)
{
    pthread_mutex_init(&j->mutex, NULL);
    pthread_cond_init(&j->cond, NULL);
}

static long call_cond(struct job *j)
{
    pthread_mutex_lock(&j->mutex);
    return -pthread_cond_wait(&j->cond, &j->mutex);
}

static void release_cond(struct job *j)
{
    pthread_mutex_lock(&j->mutex);
    pthread_cond_signal(&j->cond);
    pthread_mutex_unlock(&j->mutex);
}

/* -- signals ------------------------------------------------------------------------------------------ */

static void on_signal(int sig)
{
    (void)sig;
}

static void make_handler(struct job *j)
{
    struct sigaction sa = {.sa_handler = on_signal};

    (void)j;
    MUST(sigaction(SIGUSR1, &sa, NULL));
}

static long call_pause(struct job *j)
{
    (void)j;
    return result_of(pause());
}

static long call_sigsuspend(struct job *j)
{
    sigset_t mask;

    (void)j;
    sigemptyset(&mask);
    return result_of(sigsuspend(&mask));
}

static void release_by_signal(struct job *j)
{
    pthread_kill(j->thread, SIGUSR1);
}

static long call_sigwaitinfo(struct job *j)
{
    siginfo_t info;
    sigset_t set;
    long sig;

    (void)j;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN + 1);
    sig = result_of(sigwaitinfo(&set, &info));
    if (sig > 0)
        check_num(4711, info.si_value.sival_int, "value of the signal that sigwaitinfo got");
    return sig == SIGRTMIN + 1 ? 1 : sig;
}

static void release_sigwaitinfo(struct job *j)
{
    (void)j;
    MUST(sigqueue(getpid(), SIGRTMIN + 1, (union sigval){.sival_int = 4711}));
}

static void make_signalfd(struct job *j)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN + 2);
    j->fds[0] = (int)MUST(signalfd(-1, &set, SFD_CLOEXEC));
}

static long call_signalfd(struct job *j)
{
    struct signalfd_siginfo info;

    return result_of(read(j->fds[0], &info, sizeof(info))) == sizeof(info) ? 1 : -errno;
}

static void release_signalfd(struct job *j)
{
    pthread_kill(j->thread, SIGRTMIN + 2);
}

/* -- children and locks --------------------------------------------------------------------------------- */

/* A child that holds a POSIX lock on "lock", says so, and ends with 7 when told. */
static void make_child(struct job *j)
{
    int told[2];
    char c;

    MUST(pipe(told));
    MUST(pipe2(j->fds, O_CLOEXEC));
    j->pid = (pid_t)MUST(fork());
    if (j->pid == 0) {
        struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
        int fd = (int)MUST(open(check_path("lock"), O_RDWR | O_CREAT, 0600));

        close(j->fds[1]);
        close(told[0]);
        lock.l_start = getpid();
        lock.l_len = 1;
        MUST(fcntl(fd, F_SETLKW, &lock));
        MUST(write(told[1], "x", 1));
        while (read(j->fds[0], &c, 1) < 0 && errno == EINTR)
            ;
        _exit(7);
    }
    MUST(read(told[0], &c, 1));
    close(told[0]);
    close(told[1]);
    close(j->fds[0]);
}

static void release_child(struct job *j)
{
    MUST(write(j->fds[1], "x", 1));
}

static long call_waitpid(struct job *j)
{
    int status = 0;
    long got = result_of(waitpid(j->pid, &status, 0));

    return got == j->pid ? WEXITSTATUS(status) : got;
}

static long call_waitid(struct job *j)
{
    siginfo_t info = {0};
    long got = result_of(waitid(P_PID, (id_t)j->pid, &info, WEXITED));

    return got == 0 ? info.si_status : got;
}

static long lock_child_byte(struct job *j, int command, pid_t as)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = j->pid, .l_len = 1, .l_pid = as};
    int fd = (int)MUST(open(check_path("lock"), O_RDWR));

    return result_of(fcntl(fd, command, &lock));
}

static long call_setlkw(struct job *j)
{
    return lock_child_byte(j, F_SETLKW, 0);
}

static long call_ofd_setlkw(struct job *j)
{
    return lock_child_byte(j, F_OFD_SETLKW, 0);
}

static void make_flock(struct job *j)
{
    j->fds[0] = (int)MUST(open(check_path("flock"), O_RDWR | O_CREAT, 0600));
    MUST(flock(j->fds[0], LOCK_EX));
}

static long call_flock(struct job *j)
{
    int fd = (int)MUST(open(check_path("flock"), O_RDWR));

    (void)j;
    return result_of(flock(fd, LOCK_EX));
}

static void release_flock(struct job *j)
{
    MUST(flock(j->fds[0], LOCK_UN));
}

/* -- descriptors of their own kind -------------------------------------------------------------------------- */

static void make_eventfd(struct job *j)
{
    j->fds[0] = (int)MUST(eventfd(0, 0));
}

static void release_eventfd(struct job *j)
{
    MUST(eventfd_write(j->fds[0], 1));
}

static void make_timerfd(struct job *j)
{
    j->fds[0] = (int)MUST(timerfd_create(CLOCK_MONOTONIC, 0));
}

static void release_timerfd(struct job *j)
{
    struct itimerspec soon = {.it_value = {0, 1000000}};

    MUST(timerfd_settime(j->fds[0], 0, &soon, NULL));
}

static void make_inotify(struct job *j)
{
    MUST(mkdir(check_path("watched"), 0700));
    j->fds[0] = (int)MUST(inotify_init1(0));
    MUST(inotify_add_watch(j->fds[0], check_path("watched"), IN_CREATE));
}

static long call_inotify(struct job *j)
{
    char buf[4096];

    return result_of(read(j->fds[0], buf, sizeof(buf))) > 0 ? 1 : -errno;
}

static void release_inotify(struct job *j)
{
    (void)j;
    check_spit(check_path("watched/file"), "x", 1);
}

static struct job jobs[] = {
    JOB("read from a pipe", make_pipe, call_read, write_line, 5),
    JOB("write to a full pipe", make_full_pipe, call_write, read_much, 3),
    JOB("splice from a pipe", make_pipe, call_splice, write_line, 5),
    JOB("read from a terminal", make_pty, call_read, write_line, 5),
    JOB("open of a FIFO", make_fifo, call_open_fifo, release_fifo, 0),
    JOB("poll", make_pipe, call_poll, write_line, 1),
    JOB("ppoll", make_pipe, call_ppoll, write_line, 1),
    JOB("select", make_pipe, call_select, write_line, 1),
    JOB("pselect", make_pipe, call_pselect, write_line, 1),
    JOB("epoll_wait", make_pipe, call_epoll, write_line, 1),
    JOB("epoll_pwait", make_pipe, call_epoll_pwait, write_line, 1),
    JOB("futex", NULL, call_futex, release_futex, 0),
    JOB("futex with a bit set", NULL, call_futex_bitset, release_futex_bitset, 0),
    JOB("futex_waitv", NULL, call_futex_waitv, release_futex, 0),
    JOB("sem_wait", make_sem, call_sem, release_sem, 0),
    JOB("pthread_mutex_lock", make_mutex, call_mutex, release_mutex, 0),
    JOB("priority-inheriting pthread_mutex_lock", make_pi_mutex, call_mutex, release_mutex, 0),
    JOB("pthread_cond_wait", make_cond, call_cond, release_cond, 0),
    JOB("pause", make_handler, call_pause, release_by_signal, -EINTR),
    JOB("sigsuspend", make_handler, call_sigsuspend, release_by_signal, -EINTR),
    JOB("sigwaitinfo", NULL, call_sigwaitinfo, release_sigwaitinfo, 1),
    JOB("read from a signalfd", make_signalfd, call_signalfd, release_signalfd, 1),
    JOB("waitpid", make_child, call_waitpid, release_child, 7),
    JOB("waitid", make_child, call_waitid, release_child, 7),
    JOB("fcntl F_SETLKW", make_child, call_setlkw, release_child, 0),
    JOB("fcntl F_OFD_SETLKW", make_child, call_ofd_setlkw, release_child, 0),
    JOB("flock", make_flock, call_flock, release_flock, 0),
    JOB("read from an eventfd", make_eventfd, call_read, release_eventfd, 8),
    JOB("read from a timerfd", make_timerfd, call_read, release_timerfd, 8),
    JOB("read from an inotify", make_inotify, call_inotify, release_inotify, 1),
};

int main(int argc, char **argv)
{
    sigset_t mask;

    check_init(argc, argv);
    sigemptyset(&mask);
    sigaddset(&mask, SIGRTMIN + 1);
    sigaddset(&mask, SIGRTMIN + 2);
    pthread_sigmask(SIG_BLOCK, &mask, NULL);
    return check_jobs(jobs, sizeof(jobs) / sizeof(jobs[0]));
}
