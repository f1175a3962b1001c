/*
 * Multicast groups of a socket. No call lists them; but the groups of every interface are in /proc/net, and a
 * socket can be asked for its sources in one group, which fails when it is no member.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

#include "base/util.h"
#include "tracer/inet.h"

#define MAX_SOURCES 64u

/* A member: keep it. Not a member: nothing. */
static int ask(struct ckpt *c, int fd, Inet *m, int level, uint32_t ifindex, const void *group, size_t len,
               struct err *err)
{
    size_t size = GROUP_FILTER_SIZE(MAX_SOURCES);
    _cleanup_free_ struct group_filter *f = calloc(1, size);
    socklen_t n = (socklen_t)size;
    char name[IF_NAMESIZE] = "";
    InetGroup *g;

    if (!f)
        return err_set(err, ENOMEM, "out of memory");
    f->gf_interface = ifindex;
    f->gf_numsrc = MAX_SOURCES;
    memcpy(&f->gf_group, group, len);
    if (getsockopt(fd, level, MCAST_MSFILTER, f, &n) < 0)
        return 0;
    if (f->gf_numsrc > MAX_SOURCES)
        return err_set(err, ENOTSUP, "a multicast group with more than %u sources", MAX_SOURCES);
    g = arena_alloc(c->arena, sizeof(*g));
    if (!g)
        return err_set(err, ENOMEM, "out of memory");
    inet_group__init(g);
    g->ifindex = ifindex;
    g->ifname = arena_text(c->arena, if_indextoname(ifindex, name) ? name : "");
    g->group = arena_bytes(c->arena, group, len);
    g->mode = f->gf_fmode;
    g->sources = arena_alloc(c->arena, (f->gf_numsrc + 1) * sizeof(*g->sources));
    if (!g->sources)
        return err_set(err, ENOMEM, "out of memory");
    for (uint32_t i = 0; i < f->gf_numsrc; i++)
        g->sources[g->n_sources++] = arena_bytes(c->arena, &f->gf_slist[i], len);
    arena_push(c->arena, (void ***)&m->groups, &m->n_groups, g);
    return 0;
}

/*
 * /proc/net/igmp: a line "1\tlo : …" for each interface, then an indented line for each of its groups that
 * begins with the address as the machine stores it.
 */
static int walk_v4(struct ckpt *c, int fd, Inet *m, char *text, struct err *err)
{
    uint32_t ifindex = 0, raw;
    char *save = NULL;

    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        struct sockaddr_in a = {.sin_family = AF_INET};
        if (line[0] != '\t') {
            if (sscanf(line, "%u", &ifindex) != 1)
                ifindex = 0;
            continue;
        }
        if (!ifindex || sscanf(line, " %8x", &raw) != 1)
            continue;
        a.sin_addr.s_addr = raw;
        if (raw != htonl(INADDR_ALLHOSTS_GROUP) && ask(c, fd, m, IPPROTO_IP, ifindex, &a, sizeof(a), err) < 0)
            return -err->code;
    }
    return 0;
}

/* /proc/net/igmp6: "1    lo    ff020000000000000000000000000001   1 …", a line for each group. */
static int walk_v6(struct ckpt *c, int fd, Inet *m, char *text, struct err *err)
{
    static const struct in6_addr all_nodes = {{{0xff, 0x02, [15] = 1}}};
    char *save = NULL;

    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        struct sockaddr_in6 a = {.sin6_family = AF_INET6};
        uint32_t ifindex;
        char hex[33];
        bool good;
        if (sscanf(line, "%u %*s %32s", &ifindex, hex) != 2 || strlen(hex) != 32)
            continue;
        good = true;
        for (int i = 0; good && i < 16; i++)
            good = sscanf(hex + 2 * i, "%2hhx", &a.sin6_addr.s6_addr[i]) == 1;
        if (good && memcmp(&a.sin6_addr, &all_nodes, 16) &&
            ask(c, fd, m, IPPROTO_IPV6, ifindex, &a, sizeof(a), err) < 0)
            return -err->code;
    }
    return 0;
}

int mcast_collect(struct ckpt *c, int fd, Inet *m, struct err *err)
{
    _cleanup_free_ char *v4 = NULL, *v6 = NULL;
    size_t n;

    /* An IPv6 socket can be in IPv4 groups too. */
    if (read_file(-1, "/proc/net/igmp", &v4, &n) == 0 && walk_v4(c, fd, m, v4, err) < 0)
        return -err->code;
    if (m->socket->family == AF_INET6 && read_file(-1, "/proc/net/igmp6", &v6, &n) == 0 &&
        walk_v6(c, fd, m, v6, err) < 0)
        return -err->code;
    return 0;
}
