/*
 * Fuzz target: a coordinator with four peers that have the key and say what they want, in any order: requests
 * that do not fit their role, answers to what was never asked, images with odd names, everything twice. Input
 * is a list of {peer, length (2 bytes), Msg}; a peer number of 0x80 and more closes that peer's connection.
 * The coordinator listens on the loopback and is stepped between messages.
 */
#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "base/log.h"
#include "base/util.h"
#include "coordinator/server.h"

#define PEERS    4
#define STEPS    200
#define MESSAGES 64

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const unsigned char key[WIRE_KEY_SIZE] = "fuzzed";

struct client {
    int fd;
    struct wire *wire;
};

struct world {
    struct options options;
    struct server server;
    struct client client[PEERS];
    char dir[40];
};

static void flush(struct client *c)
{
    const unsigned char *out;
    size_t len = wire_output(c->wire, &out);
    ssize_t n = len ? send(c->fd, out, len, MSG_DONTWAIT | MSG_NOSIGNAL) : 0;

    if (n > 0)
        wire_sent(c->wire, (size_t)n);
}

static void receive(struct client *c)
{
    unsigned char buf[4096];
    Wire__Msg *msg = NULL;
    struct err err;
    ssize_t n;

    while (c->fd >= 0 && (n = recv(c->fd, buf, sizeof(buf), MSG_DONTWAIT)) > 0)
        if (wire_feed(c->wire, buf, (size_t)n, &err) < 0)
            break;
    while (c->fd >= 0 && wire_next(c->wire, &msg, &err) > 0)
        wire__msg__free_unpacked(msg, NULL);
}

/* Let the coordinator do what there is to do; a bounded number of rounds. */
static void settle(struct world *w)
{
    struct err err;

    for (int quiet = 0, i = 0; quiet < 2 && i < STEPS && !w->server.done; i++) {
        quiet = server_round(&w->server, 0, &err) > 0 ? 0 : quiet + 1;
        for (int j = 0; j < PEERS; j++)
            if (w->client[j].fd >= 0) {
                receive(&w->client[j]);
                flush(&w->client[j]);
            }
    }
}

static void hang_up(struct client *c)
{
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
    wire_free(c->wire);
    c->wire = NULL;
}

static int connect_client(struct world *w, struct client *c)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)w->server.port)};
    int one = 1;

    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    c->wire = wire_new(WIRE_CLIENT, key);
    if (c->fd < 0 || !c->wire || connect(c->fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
        hang_up(c);
        return -1;
    }
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)); /* what is said has arrived */
    flush(c);
    settle(w);
    return 0;
}

static int begin(struct world *w)
{
    struct server_config config = {.options = &w->options, .bind = "127.0.0.1", .keep = 1};
    struct err err;

    log_to_fd(-1);
    for (int i = 0; i < PEERS; i++)
        w->client[i].fd = -1;
    strcpy(w->dir, "/dev/shm/wire-fuzz-XXXXXX");
    if (!mkdtemp(w->dir) || options_init(&w->options, "fuzz", &err) < 0)
        return -1;
    free(w->options.ckptdir);
    w->options.ckptdir = strdup(w->dir);
    if (server_init(&w->server, &config, key, &err) < 0 || server_listen(&w->server, 0, &err) < 0)
        return -1;
    return 0;
}

static void end(struct world *w)
{
    DIR *d;
    struct dirent *e;

    for (int i = 0; i < PEERS; i++)
        hang_up(&w->client[i]);
    server_free(&w->server);
    options_free(&w->options);
    d = opendir(w->dir);
    while (d && (e = readdir(d)))
        unlinkat(dirfd(d), e->d_name, 0);
    if (d)
        closedir(d);
    rmdir(w->dir);
}

static void say(struct world *w, unsigned who, const uint8_t *data, size_t len)
{
    struct client *c = &w->client[who % PEERS];
    Wire__Msg *msg = NULL;
    struct err err;

    if (who & 0x80) {
        hang_up(c);
        settle(w);
        return;
    }
    if (c->fd < 0 && connect_client(w, c) < 0)
        return;
    msg = wire__msg__unpack(NULL, len, data);
    if (!msg)
        return;
    if (wire_put(c->wire, msg, &err) == 0)
        flush(c);
    wire__msg__free_unpacked(msg, NULL);
    settle(w);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct world w;

    memset(&w, 0, sizeof(w));
    w.server.listen_fd = w.server.epoll_fd = w.server.signal_fd = w.server.spare_fd = -1;
    if (begin(&w) == 0) {
        for (int i = 0; i < MESSAGES && size >= 3 && !w.server.done; i++) {
            size_t n = (size_t)data[1] | (size_t)data[2] << 8;
            n = n < size - 3 ? n : size - 3;
            say(&w, data[0], data + 3, n);
            data += 3 + n;
            size -= 3 + n;
        }
    }
    end(&w);
    return 0;
}
