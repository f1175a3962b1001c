/* dmtcp_command --bt: the backtraces of all threads as text, sent as they are made. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/util.h"
#include "tracer/backtrace.h"
#include "tracer/tracer.h"

struct text {
    char *buf;
    size_t len, size;
};

static void add(struct text *t, const char *line)
{
    size_t n = strlen(line);

    if (t->len + n + 1 > t->size) {
        char *more = realloc(t->buf, (t->size + n) * 2 + 256);
        if (!more)
            return;
        t->buf = more;
        t->size = (t->size + n) * 2 + 256;
    }
    memcpy(t->buf + t->len, line, n + 1);
    t->len += n;
}

static void add_frame(void *arg, int n, uint64_t ip, const char *name, uint64_t off)
{
    char line[400];

    snprintf(line, sizeof(line), "  #%-2d 0x%016llx %s%s%llx\n", n, (unsigned long long)ip, name[0] ? name : "?",
             name[0] ? "+0x" : "", (unsigned long long)off);
    add(arg, line);
}

static int send_text(struct tracer *t, const Wire__Msg *request, const struct text *text, struct err *err)
{
    Wire__Msg m = WIRE__MSG__INIT;
    Wire__Text x = WIRE__TEXT__INIT;

    x.text.data = (uint8_t *)text->buf;
    x.text.len = text->len;
    m.body_case = WIRE__MSG__BODY_TEXT;
    m.text = &x;
    return coord_reply(t->coord, request, &m, err);
}

int send_backtraces(struct tracer *t, const Wire__Msg *request, pid_t pid, struct err *err)
{
    struct checkpoint k;
    struct ckpt_options o = {0};
    int r = checkpoint_freeze(&k, t->follow, &o, err);

    for (size_t i = 0; r == 0 && i < k.c.nprocs; i++) {
        struct proc *p = k.c.procs[i];
        if (pid && p->pid != pid)
            continue;
        for (size_t j = 0; r == 0 && j < p->nthreads; j++) {
            struct text text = {0};
            char line[80];
            snprintf(line, sizeof(line), "process %d thread %d\n", p->pid, p->threads[j].tid);
            add(&text, line);
            backtrace_thread(p->threads[j].tid, add_frame, &text);
            r = text.buf ? send_text(t, request, &text, err) : 0;
            free(text.buf);
        }
    }
    /* Nothing was injected and no register was changed: thaw is all there is to do. */
    checkpoint_free(&k);
    return r;
}
