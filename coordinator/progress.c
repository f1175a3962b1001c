/* Redraws one line of standard error; see progress.h. What is drawn comes from numbers only, never from
 * names. */
#include "coordinator/progress.h"

#include <stdio.h>

#include "base/util.h"
#include "coordinator/show.h"

void progress_show(struct progress *p, const Wire__Progress *now)
{
    char done[32], total[32], rate[32];
    int64_t ms;

    if (!p->active)
        return;
    if (!p->started_ms) {
        p->started_ms = monotonic_ms();
        p->start_bytes = now->bytes;
    }
    ms = monotonic_ms() - p->started_ms;
    fprintf(stderr, "\r\033[K%s: ", phase_name(now->phase));
    if (now->processes_total)
        fprintf(stderr, "%u/%u processes, ", now->processes, now->processes_total);
    fputs(human_bytes(now->bytes, done, sizeof(done)), stderr);
    if (now->bytes_total)
        fprintf(stderr, " of %s", human_bytes(now->bytes_total, total, sizeof(total)));
    if (ms > 100 && now->bytes > p->start_bytes)
        fprintf(stderr, ", %s/s",
                human_bytes((uint64_t)((double)(now->bytes - p->start_bytes) * 1000 / (double)ms), rate,
                            sizeof(rate)));
    fflush(stderr);
    p->shown = 1;
}

void progress_end(struct progress *p)
{
    if (p->shown)
        fputs("\r\033[K", stderr);
    p->shown = 0;
}
