/*
 * Unix datagram sockets: many senders to one receiver, with and without names, senders that are gone, a chain, a
 * socket that is connected to itself, one that was connected after others had sent to it, a peer that is
 * gone, messages of no bytes.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"
#include "tests/programs/sock.h"

static char inbox_name[128];

static void send_to(int fd, const char *name, const char *text)
{
    struct sockaddr_un a;
    socklen_t n = sock_unix(&a, name);

    MUST(sendto(fd, text, strlen(text), MSG_DONTWAIT, (void *)&a, n));
}

static void expect_from(int fd, const char *text, const char *sender, const char *what)
{
    struct sockaddr_un a = {0};
    socklen_t n = sizeof(a);
    char buf[256] = "", name[128] = "";
    ssize_t r = recvfrom(fd, buf, sizeof(buf) - 1, MSG_DONTWAIT, (void *)&a, &n);
    size_t len = n > offsetof(struct sockaddr_un, sun_path) ? n - offsetof(struct sockaddr_un, sun_path) : 0;

    if (r < 0) {
        check_fail("%s: %s", what, strerror(errno));
        return;
    }
    memcpy(name, a.sun_path, len);
    if (len && !name[0])
        name[0] = '@';
    check_str(text, buf, what);
    check_str(sender, name, what);
}

/* Big messages of many: the sender's buffer is charged for them. */
static int bulk[2];
static int bulk_count;

static void make_bulk(void)
{
    static char big[20000];

    bulk[0] = sock_bound(SOCK_DGRAM, "@sock_unix_dgram bulk");
    bulk[1] = sock_connected(SOCK_DGRAM, "@sock_unix_dgram bulk");
    for (;;) {
        memset(big, 'a' + bulk_count, sizeof(big));
        if (send(bulk[1], big, sizeof(big), MSG_DONTWAIT) < 0)
            break;
        bulk_count++;
    }
}

static void check_bulk(void)
{
    static char big[20001];

    for (int i = 0; i < bulk_count; i++) {
        check_num(20000, recv(bulk[0], big, sizeof(big), MSG_DONTWAIT), "bytes of big message %d", i);
        check_num('a' + i, big[19999], "content of big message %d", i);
    }
    sock_expect_nothing(bulk[0], "big messages");
}

int main(int argc, char **argv)
{
    int inbox, named, nameless, dead, chain[3], self, late, late_peer, orphan, filter[2];

    check_init(argc, argv);
    snprintf(inbox_name, sizeof(inbox_name), "%s", check_path("inbox"));
    unlink(inbox_name);
    inbox = sock_bound(SOCK_DGRAM, inbox_name);
    named = sock_bound(SOCK_DGRAM, "@sock_unix_dgram named");
    nameless = sock_bound(SOCK_DGRAM, "");
    send_to(named, inbox_name, "from a name");
    send_to(nameless, inbox_name, "from nobody");
    send_to(nameless, inbox_name, "");
    unlink(check_path("dead"));
    dead = sock_bound(SOCK_DGRAM, check_path("dead"));
    send_to(dead, inbox_name, "from a file that is gone");
    close(dead);
    unlink(check_path("dead"));
    send_to(named, inbox_name, "again from the name");
    for (int i = 0; i < 3; i++) {
        char name[32];
        snprintf(name, sizeof(name), "@sock_unix_dgram %d", i);
        chain[i] = sock_bound(SOCK_DGRAM, name);
    }
    for (int i = 0; i < 3; i++) {
        char name[32];
        snprintf(name, sizeof(name), "@sock_unix_dgram %d", i + 1);
        if (i == 2)
            break;
        sock_connect(chain[i], name);
        MUST(send(chain[i], "before", 6, 0));
    }
    self = sock_bound(SOCK_DGRAM, "@sock_unix_dgram self");
    sock_connect(self, "@sock_unix_dgram self");
    MUST(send(self, "to myself", 9, 0));
    late = sock_bound(SOCK_DGRAM, "@sock_unix_dgram late");
    late_peer = sock_bound(SOCK_DGRAM, "@sock_unix_dgram late peer");
    send_to(named, "@sock_unix_dgram late", "before it was connected");
    sock_connect(late, "@sock_unix_dgram late peer");
    send_to(late_peer, "@sock_unix_dgram late", "from the peer");
    dead = sock_bound(SOCK_DGRAM, "@sock_unix_dgram gone");
    orphan = sock_connected(SOCK_DGRAM, "@sock_unix_dgram gone");
    close(dead);
    filter[0] = sock_bound(SOCK_DGRAM, "@sock_unix_dgram autobind");
    filter[1] = sock_connected(SOCK_DGRAM, "@sock_unix_dgram autobind");
    MUST(bind(filter[1], (void *)&(struct sockaddr_un){.sun_family = AF_UNIX}, sizeof(sa_family_t)));
    char automatic[128];
    snprintf(automatic, sizeof(automatic), "%s", sock_name(filter[1], false));
    make_bulk();

    check_wait();

    if (check_broken())
        recv(inbox, automatic + 64, 1, 0);
    expect_from(inbox, "from a name", "@sock_unix_dgram named", "named sender");
    expect_from(inbox, "from nobody", "", "nameless sender");
    expect_from(inbox, "", "", "no bytes");
    expect_from(inbox, "from a file that is gone", check_path("dead"), "sender that is gone");
    expect_from(inbox, "again from the name", "@sock_unix_dgram named", "named sender again");
    sock_expect_nothing(inbox, "inbox");
    send_to(nameless, inbox_name, "new");
    expect_from(inbox, "new", "", "a new message by path");
    expect_from(chain[1], "before", "@sock_unix_dgram 0", "chain");
    expect_from(chain[2], "before", "@sock_unix_dgram 1", "chain");
    check_num(EPERM, send(chain[0], "no", 2, 0) < 0 ? errno : 0, "sending to one that is connected to another");
    MUST(send(chain[1], "along", 5, 0));
    expect_from(chain[2], "along", "@sock_unix_dgram 1", "chain");
    expect_from(self, "to myself", "@sock_unix_dgram self", "to itself");
    MUST(send(self, "once more", 9, 0));
    expect_from(self, "once more", "@sock_unix_dgram self", "to itself, new");
    expect_from(late, "before it was connected", "@sock_unix_dgram named", "before connect");
    expect_from(late, "from the peer", "@sock_unix_dgram late peer", "after connect");
    struct sockaddr_un a;
    socklen_t n = sock_unix(&a, "@sock_unix_dgram late");
    check_num(EPERM, sendto(named, "no", 2, 0, (void *)&a, n) < 0 ? errno : 0, "others may not send to it");
    check_str("@sock_unix_dgram gone", sock_name(orphan, true), "name of a peer that is gone");
    check_num(ECONNREFUSED, send(orphan, "x", 1, 0) < 0 ? errno : 0, "sending to a peer that is gone");
    check_str(automatic, sock_name(filter[1], false), "name that the kernel chose");
    MUST(send(filter[1], "x", 1, 0));
    expect_from(filter[0], "x", automatic, "from the name that the kernel chose");
    check_bulk();
    return check_end();
}
