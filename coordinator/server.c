/*
 * The event loop. Deadlines are few and rare (an interval, an unfinished handshake), so the next one is found
 * by looking at all of them; what is frequent, messages, never waits for a timer.
 */
#include "coordinator/server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "base/log.h"
#include "base/util.h"

#define DAY_MS 86400000

static int watch(struct server *s, int fd, void *tag)
{
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = tag};

    return epoll_ctl(s->epoll_fd, EPOLL_CTL_ADD, fd, &e) < 0 ? -errno : 0;
}

static int open_signals(struct server *s, struct err *err)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGCONT);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGTTIN, SIG_IGN); /* a read of the terminal from the background fails instead of stopping us */
    signal(SIGTTOU, SIG_IGN);
    s->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (s->signal_fd < 0 || watch(s, s->signal_fd, &s->signal_tag) < 0)
        return err_errno(err, "signalfd");
    return 0;
}

static int own_host(struct server *s, struct err *err)
{
    _cleanup_free_ char *boot_id = NULL;
    struct stat st;

    gethostname(s->hostname, sizeof(s->hostname) - 1);
    if (read_proc(&boot_id, NULL, err, "sys/kernel/random/boot_id") < 0)
        return -err->code;
    snprintf(s->boot_id, sizeof(s->boot_id), "%.*s", (int)strcspn(boot_id, "\n"), boot_id);
    if (stat("/proc/self/ns/pid", &st) == 0)
        s->pidns = st.st_ino;
    return 0;
}

int server_init(struct server *s, const struct server_config *config, const unsigned char *key,
                struct err *err)
{
    int64_t now = monotonic_ms();

    memset(s, 0, sizeof(*s));
    s->config = *config;
    memcpy(s->key, key, sizeof(s->key));
    s->listen_fd = s->signal_fd = s->commit_fd = -1;
    s->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    s->next_peer_id = CONSOLE_ID + 1;
    s->keep = config->keep;
    s->interval = config->options->interval > 0 ? config->options->interval : 0;
    if (config->timeout)
        s->timeout_at = now + config->timeout * 1000LL;
    if (config->stale_timeout)
        s->stale_at = now + config->stale_timeout * 1000LL;
    s->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (s->epoll_fd < 0)
        return err_errno(err, "epoll_create1");
    s->commit_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (s->commit_fd < 0 || watch(s, s->commit_fd, &s->commit_tag) < 0)
        return err_errno(err, "eventfd");
    if (own_host(s, err) < 0 || open_signals(s, err) < 0)
        return -err->code;
    return server_new_computation(s) < 0 ? err_set(err, ENOMEM, "out of memory") : 0;
}

static int listen_address(struct server *s, const struct addrinfo *a, struct err *err)
{
    _cleanup_close_ int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    struct sockaddr_storage bound;
    socklen_t len = sizeof(bound);
    char port[16];
    int one = 1;

    if (fd < 0)
        return err_errno(err, "socket");
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (bind(fd, a->ai_addr, a->ai_addrlen) < 0 || listen(fd, 512) < 0)
        return err_errno(err, "cannot listen");
    if (getsockname(fd, (struct sockaddr *)&bound, &len) < 0 ||
        getnameinfo((struct sockaddr *)&bound, len, NULL, 0, port, sizeof(port), NI_NUMERICSERV) != 0)
        return err_errno(err, "getsockname");
    s->port = atoi(port);
    s->listen_fd = take_fd(&fd);
    return watch(s, s->listen_fd, &s->listen_tag);
}

int server_listen(struct server *s, int port, struct err *err)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV},
                    *list = NULL;
    char service[16];
    int r;

    snprintf(service, sizeof(service), "%d", port);
    r = getaddrinfo(s->config.bind, service, &hints, &list);
    if (r != 0)
        return err_set(err, EADDRNOTAVAIL, "--bind %s: %s", s->config.bind, gai_strerror(r));
    r = listen_address(s, list, err);
    freeaddrinfo(list);
    return r < 0 ? err_wrap(err, "%s port %d", s->config.bind, port) : 0;
}

void server_stop_listening(struct server *s)
{
    if (s->listen_fd >= 0)
        close(take_fd(&s->listen_fd));
}

static void on_signals(struct server *s)
{
    const struct ask nobody = {0};
    struct signalfd_siginfo info;

    while (read(s->signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
        if (info.ssi_signo == SIGCONT) {
            console_start(s); /* perhaps in the foreground now */
            continue;
        }
        log_note("%s: %s", strsignal((int)info.ssi_signo),
                 info.ssi_signo == SIGHUP ? "ending, the computation goes on without a coordinator"
                                          : "killing the computation and ending");
        quit(s, &nobody, info.ssi_signo != SIGHUP);
    }
}

static int64_t sooner(int64_t a, int64_t b)
{
    return b && (!a || b < a) ? b : a;
}

static int64_t next_deadline(const struct server *s)
{
    int64_t at = sooner(sooner(s->interval_at, s->timeout_at), sooner(s->stale_at, s->quit_at));

    at = sooner(at, gather_deadline(s));
    for (const struct peer *p = s->peers; p; p = p->next)
        at = sooner(at, p->deadline);
    return at;
}

static void peer_deadlines(struct server *s, int64_t now)
{
    for (struct peer *p = s->peers; p; p = p->next) {
        if (!p->deadline || p->deadline > now || p->dead)
            continue;
        p->deadline = 0;
        if (p->role == ROLE_NEW)
            peer_close(s, p, "no handshake in time");
        else
            launch_turn_over(s, p);
    }
}

static void deadlines(struct server *s)
{
    const struct ask nobody = {0};
    int64_t now = monotonic_ms();

    peer_deadlines(s, now);
    gathers_expire(s, now);
    if (s->interval_at && s->interval_at <= now) {
        s->interval_at = now + s->interval * 1000LL;
        checkpoint_request(s, &nobody, 0, 0);
    }
    if ((s->timeout_at && s->timeout_at <= now) || (s->stale_at && s->stale_at <= now)) {
        log_note("%s: ending",
                 s->timeout_at && s->timeout_at <= now ? "--timeout" : "nobody here for --stale-timeout");
        s->done = 1;
    }
    if (s->quit_at && s->quit_at <= now) {
        log_warn("not all tracers have ended in time");
        s->done = 1;
    }
}

/* After each round: has the last one gone? */
static void check_last(struct server *s)
{
    int64_t now = monotonic_ms();
    size_t members = peers_count(s, ROLE_MEMBER);

    if (members)
        s->stale_at = 0;
    else if (!s->stale_at && s->config.stale_timeout)
        s->stale_at = now + s->config.stale_timeout * 1000LL;
    if (!members || !s->interval)
        s->interval_at = 0;
    else if (!s->interval_at && s->ck.state == CK_IDLE)
        s->interval_at = now + s->interval * 1000LL;
    if (s->quitting && !members)
        s->done = 1;
    if (s->config.exit_on_last && s->had_worker &&
        !peers_count(s, ROLE_MEMBER | ROLE_LAUNCHER | ROLE_KNOWN | ROLE_NEW))
        s->done = 1;
}

static void one_event(struct server *s, const struct epoll_event *e)
{
    if (e->data.ptr == &s->listen_tag)
        peer_accept(s);
    else if (e->data.ptr == &s->signal_tag)
        on_signals(s);
    else if (e->data.ptr == &s->console_tag)
        console_event(s);
    else if (e->data.ptr == &s->commit_tag)
        checkpoint_committed(s);
    else
        peer_event(s, e->data.ptr, e->events);
}

int server_round(struct server *s, int may_wait, struct err *err)
{
    struct epoll_event events[64];
    int64_t at = next_deadline(s), now = monotonic_ms();
    int timeout = !may_wait || (at && at <= now) ? 0
                  : !at                          ? -1
                  : at - now > DAY_MS            ? DAY_MS
                                                 : (int)(at - now);
    int n = epoll_wait(s->epoll_fd, events, ARRAY_SIZE(events), timeout);

    if (n < 0 && errno != EINTR)
        return err_errno(err, "epoll_wait");
    for (int i = 0; i < n; i++)
        one_event(s, &events[i]);
    deadlines(s);
    check_last(s);
    peers_reap(s);
    return n < 0 ? 0 : n;
}

int server_run(struct server *s, struct err *err)
{
    while (!s->done) {
        int r = server_round(s, 1, err);
        if (r < 0)
            return r;
    }
    server_stop_listening(s);
    checkpoint_committed(s);
    if (s->quitting)
        answer_ok(s, &s->quit_ask);
    peers_reap(s);
    return 0;
}

void server_free(struct server *s)
{
    while (s->peers) {
        peer_close(s, s->peers, NULL);
        peers_reap(s);
    }
    commit_forget(s);
    checkpoint_free(s);
    generations_free(s);
    names_clear(s);
    barriers_fail(s, "the coordinator ends");
    for (size_t i = 0; i < s->n_deferred; i++)
        wire__msg__free_unpacked(s->deferred[i].msg, NULL);
    free(s->deferred);
    free(s->names);
    free(s->computation);
    free(s->plugins);
    server_stop_listening(s);
    if (s->signal_fd >= 0)
        close(s->signal_fd);
    if (s->spare_fd >= 0)
        close(s->spare_fd);
    if (s->commit_fd >= 0)
        close(s->commit_fd);
    if (s->epoll_fd >= 0)
        close(s->epoll_fd);
}
