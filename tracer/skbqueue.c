/*
 * The walk through a socket's receive queue in the kernel's memory (kernelmem.h), from our own fd to the
 * socket and along the list of its buffers (struct sk_buff). Who could take a message is frozen meanwhile,
 * and new ones come at the end; that all was read as it is, is seen by the first message and by the sum of
 * what all take.
 */
#include "tracer/skbqueue.h"

#include <errno.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <string.h>

#include "base/util.h"
#include "tracer/btf.h"
#include "tracer/kernelmem.h"

#define MOST     4096u /* messages */
#define MOST_LEN (256u << 10)

enum {
    FILES,
    FDT,
    FD,
    PRIVATE,
    SK,
    QUEUE,
    NEXT,
    LEN,
    DATA_LEN,
    DATA,
    HEAD,
    NETWORK,
    TRUESIZE,
    CB,
    PORT,
    GROUP,
    N_OFFSETS
};

static const char *const members[N_OFFSETS][2] = {
    [FILES] = {"task_struct", "files"},
    [FDT] = {"files_struct", "fdt"},
    [FD] = {"fdtable", "fd"},
    [PRIVATE] = {"file", "private_data"},
    [SK] = {"socket", "sk"},
    [QUEUE] = {"sock", "sk_receive_queue"},
    [NEXT] = {"sk_buff", "next"},
    [LEN] = {"sk_buff", "len"},
    [DATA_LEN] = {"sk_buff", "data_len"},
    [DATA] = {"sk_buff", "data"},
    [HEAD] = {"sk_buff", "head"},
    [NETWORK] = {"sk_buff", "network_header"},
    [TRUESIZE] = {"sk_buff", "truesize"},
    [CB] = {"sk_buff", "cb"},
    [PORT] = {"netlink_skb_parms", "portid"},
    [GROUP] = {"netlink_skb_parms", "dst_group"},
};

struct walk {
    struct kernelmem mem;
    uint32_t at[N_OFFSETS];
    const struct peeked *first;
    struct peeked *found;
    size_t n, cap;
    uint64_t truesize;
};

static void walk_end(struct walk *w)
{
    for (size_t i = 0; i < w->n; i++)
        free((void *)w->found[i].data);
    free(w->found);
    kernelmem_close(&w->mem);
}

static int find_offsets(struct walk *w, struct err *err)
{
    struct btf *b = NULL;
    int r = btf_open(&b, err);

    if (r < 0)
        return r;
    for (size_t i = 0; i < N_OFFSETS && r == 0; i++)
        r = btf_offset(b, members[i][0], members[i][1], &w->at[i], err);
    btf_free(b);
    return r;
}

static int word(struct walk *w, uint64_t base, int member, uint64_t *to, struct err *err)
{
    return kernelmem_read(&w->mem, base ? base + w->at[member] : 0, to, sizeof(*to), err);
}

static int find_queue(struct walk *w, int fd, uint64_t *queue, struct err *err)
{
    uint64_t p = 0;

    if (kernelmem_current(&w->mem, &p, err) < 0 || word(w, p, FILES, &p, err) < 0 ||
        word(w, p, FDT, &p, err) < 0 || word(w, p, FD, &p, err) < 0 ||
        kernelmem_read(&w->mem, p + (uint64_t)fd * sizeof(p), &p, sizeof(p), err) < 0 ||
        word(w, p, PRIVATE, &p, err) < 0 || word(w, p, SK, &p, err) < 0)
        return -err->code;
    *queue = p + w->at[QUEUE];
    return 0;
}

/* As recvmsg(2) gives it, from where each protocol keeps it. */
static int find_sender(struct walk *w, uint64_t skb, struct peeked *p, struct err *err)
{
    struct sockaddr_nl *nl = (void *)&p->from;
    struct sockaddr_in6 *v6 = (void *)&p->from;
    uint64_t head = 0;
    uint16_t network = 0;
    uint32_t group = 0;

    p->from = w->first->from;
    p->from_len = w->first->from_len;
    if (p->from.ss_family == AF_NETLINK) {
        if (kernelmem_read(&w->mem, skb + w->at[CB] + w->at[PORT], &nl->nl_pid, sizeof(nl->nl_pid), err) <
                0 ||
            kernelmem_read(&w->mem, skb + w->at[CB] + w->at[GROUP], &group, sizeof(group), err) < 0)
            return -err->code;
        nl->nl_groups = group ? 1u << (group - 1) % 32 : 0;
        return 0;
    }
    if (word(w, skb, HEAD, &head, err) < 0 ||
        kernelmem_read(&w->mem, skb + w->at[NETWORK], &network, sizeof(network), err) < 0)
        return -err->code;
    if (p->from.ss_family == AF_INET)
        return kernelmem_read(&w->mem, head + network + offsetof(struct iphdr, saddr),
                              &((struct sockaddr_in *)&p->from)->sin_addr, 4, err);
    if (kernelmem_read(&w->mem, head + network + offsetof(struct ip6_hdr, ip6_src), &v6->sin6_addr, 16, err) <
        0)
        return -err->code;
    return IN6_IS_ADDR_LINKLOCAL(&v6->sin6_addr) ? err_set(err, ENOTSUP, "a link-local sender") : 0;
}

static int take(struct walk *w, uint64_t skb, struct err *err)
{
    struct peeked *more = grow(w->found, w->n, &w->cap, sizeof(*more));
    uint32_t len = 0, data_len = 0, truesize = 0;
    uint8_t *bytes;
    uint64_t data = 0;

    if (!more)
        return err_set(err, ENOMEM, "out of memory");
    w->found = more;
    if (kernelmem_read(&w->mem, skb + w->at[LEN], &len, sizeof(len), err) < 0 ||
        kernelmem_read(&w->mem, skb + w->at[DATA_LEN], &data_len, sizeof(data_len), err) < 0 ||
        kernelmem_read(&w->mem, skb + w->at[TRUESIZE], &truesize, sizeof(truesize), err) < 0 ||
        word(w, skb, DATA, &data, err) < 0)
        return -err->code;
    if (data_len || len > MOST_LEN)
        return err_set(err, ENOTSUP, "a message in several pieces of memory");
    bytes = malloc(len + 1);
    if (!bytes)
        return err_set(err, ENOMEM, "out of memory");
    more = &w->found[w->n++];
    *more = (struct peeked){.data = bytes, .len = len};
    w->truesize += truesize;
    return kernelmem_read(&w->mem, data, bytes, len, err) < 0 ? -err->code : find_sender(w, skb, more, err);
}

static int take_all(struct walk *w, int fd, struct err *err)
{
    uint64_t queue = 0, skb = 0;

    if (find_queue(w, fd, &queue, err) < 0 ||
        kernelmem_read(&w->mem, queue + w->at[NEXT], &skb, sizeof(skb), err) < 0)
        return -err->code;
    while (skb != queue) {
        if (w->n >= MOST)
            return err_set(err, ENOTSUP, "more than %u messages", MOST);
        if (take(w, skb, err) < 0 || word(w, skb, NEXT, &skb, err) < 0)
            return -err->code;
    }
    return 0;
}

static bool agrees(const struct walk *w, uint32_t taken)
{
    const struct peeked *a = w->first, *b = w->found;

    return w->n && w->truesize == taken && a->len == b->len && !memcmp(a->data, b->data, a->len) &&
           !memcmp(&a->from, &b->from, a->from_len);
}

int skbqueue_peek(int fd, const struct peeked *first, uint32_t taken,
                  int (*each)(void *arg, struct peeked *p, struct err *err), void *arg, struct err *err)
{
    __attribute__((cleanup(walk_end))) struct walk w = {.first = first};

    if (kernelmem_open(&w.mem, err) < 0 || find_offsets(&w, err) < 0 || take_all(&w, fd, err) < 0)
        return -err->code;
    if (!agrees(&w, taken))
        return err_set(err, EIO, "what was found is not what waits");
    for (size_t i = 0; i < w.n; i++)
        if (each(arg, &w.found[i], err) < 0)
            return -err->code;
    return 0;
}
