/*
 * How answers look. Status and list keep the lines that scripts around DMTCP read (NUM_PEERS=, RUNNING=,
 * CKPT_INTERVAL=; "#, PROG[virtPID:realPID]@HOST, …"); what is new comes after them.
 */
#include "coordinator/show.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/util.h"

const char *phase_name(Wire__Phase__Id phase)
{
    static const char *const names[] = {"none",      "freeze", "collect", "match", "peek-send",
                                        "peek-recv", "write",  "resume",  "commit"};

    return (size_t)phase < ARRAY_SIZE(names) ? names[phase] : "?";
}

const char *human_bytes(uint64_t bytes, char *buf, size_t size)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double v = (double)bytes;
    size_t i = 0;

    while (v >= 1024 && i + 1 < ARRAY_SIZE(units)) {
        v /= 1024;
        i++;
    }
    snprintf(buf, size, i ? "%.1f %s" : "%.0f %s", v, units[i]);
    return buf;
}

/* Names come from programs: nothing of theirs may move the reader's cursor. */
static void put_clean(FILE *f, const char *s)
{
    for (; *s; s++)
        fputc((unsigned char)*s < 0x20 || *s == 0x7f ? '?' : *s, f);
}

void show_status(FILE *f, const Wire__Status *status)
{
    char size[32], when[64] = "";
    time_t t = (time_t)status->last_time;
    struct tm tm;

    fprintf(f, "Coordinator:\n  Host: ");
    put_clean(f, status->hostname);
    fprintf(f, "\n  Port: %u\n", status->port);
    fprintf(f, "Status...\n  NUM_PEERS=%u\n  RUNNING=%s\n", status->processes,
            status->running ? "yes" : "no");
    fprintf(f, "  CKPT_INTERVAL=%u%s\n", status->interval, status->interval ? "" : " (checkpoint manually)");
    fprintf(f, "  COMPUTATION=%s\n  GENERATION=%u\n", status->computation, status->generation);
    if (status->restarting)
        fprintf(f, "  RESTARTING=yes\n");
    if (status->phase)
        fprintf(f, "  PHASE=%s\n", phase_name(status->phase));
    fprintf(f, "  CKPT_DIR=");
    put_clean(f, status->ckptdir);
    fputc('\n', f);
    if (status->last_time && localtime_r(&t, &tm)) {
        strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S", &tm);
        fprintf(f, "  LAST_CKPT=%s, %s, %.3f s, stood still %.3f s\n", when,
                human_bytes(status->last_bytes, size, sizeof(size)), (double)status->last_ns / 1e9,
                (double)status->last_frozen_ns / 1e9);
    }
    if (status->last_error[0]) {
        fprintf(f, "  LAST_ERROR=");
        put_clean(f, status->last_error);
        fputc('\n', f);
    }
}

void show_processes(FILE *f, const Wire__Processes *processes)
{
    fprintf(f, "Client List:\n#, PROG[virtPID:realPID]@HOST, PPID, THREADS, STATE\n");
    for (size_t i = 0; i < processes->n_process; i++) {
        const Wire__Process *p = processes->process[i];
        fprintf(f, "%zu, ", i + 1);
        put_clean(f, p->program);
        fprintf(f, "[%d:%d]@", p->pid, p->pid);
        put_clean(f, p->host);
        fprintf(f, ", %d, %u, ", p->ppid, p->threads);
        put_clean(f, p->state);
        fputc('\n', f);
    }
}

json_t *json_text(const char *text, size_t len)
{
    json_t *string = json_stringn(text, len);
    char *copy;

    if (string)
        return string;
    copy = malloc(len + 1);
    if (!copy)
        return json_null();
    for (size_t i = 0; i < len; i++)
        copy[i] = (unsigned char)text[i] < 0x80 ? text[i] : '?';
    string = json_stringn(copy, len);
    free(copy);
    return string;
}

static json_t *text(const char *s)
{
    return json_text(s, strlen(s));
}

json_t *json_status(const Wire__Status *st)
{
    return json_pack("{s:o,s:i,s:i,s:o,s:i,s:i,s:i,s:i,s:b,s:b,s:s,s:o,s:o,s:I,s:I,s:f,s:f,s:o,s:b}", //
                     "host", text(st->hostname), "port", (int)st->port, "pid", (int)st->pid, "computation",
                     text(st->computation), "generation", (int)st->generation, "interval", (int)st->interval,
                     "processes", (int)st->processes, "tracers", (int)st->tracers, "running", st->running,
                     "restarting", st->restarting, "phase", phase_name(st->phase), "ckptdir",
                     text(st->ckptdir), "manifest", text(st->manifest), "last_time",
                     (json_int_t)st->last_time, "last_bytes", (json_int_t)st->last_bytes, "last_seconds",
                     (double)st->last_ns / 1e9, "last_frozen_seconds", (double)st->last_frozen_ns / 1e9,
                     "last_error", text(st->last_error), "exit_on_last", st->exit_on_last);
}

json_t *json_processes(const Wire__Processes *processes)
{
    json_t *list = json_array();

    for (size_t i = 0; i < processes->n_process; i++) {
        const Wire__Process *p = processes->process[i];
        json_array_append_new(list, json_pack("{s:i,s:i,s:i,s:o,s:i,s:o,s:o,s:i}", "pid", (int)p->pid, "ppid",
                                              (int)p->ppid, "root", (int)p->root, "program", text(p->program),
                                              "threads", (int)p->threads, "state", text(p->state), "host",
                                              text(p->host), "tracer", (int)p->tracer));
    }
    return list;
}
