/*
 * The parsers of /proc texts. The first byte of an input says which: f fdinfo of any kind, s stat, t status, m smaps. The
 * rest is the text. A process names itself and its mappings, so parts of these texts are a program's choice.
 */
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "tracer/fdinfo.h"
#include "tracer/procfs.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void fdinfo(const char *text)
{
    struct fdinfo_epoll_item item;
    struct fdinfo_timer timer;
    struct fdinfo f;
    struct err err;
    uint64_t v;

    fdinfo_parse(text, &f, &err);
    fdinfo_timerfd(text, &timer, &err);
    fdinfo_number(text, "eventfd-count", 16, &v, &err);
    fdinfo_number(text, "sigmask", 16, &v, &err);
    while (fdinfo_epoll(&text, &item, &err) > 0)
        ;
}

static void stat_text(const char *text, size_t len)
{
    struct proc_stat s;
    struct err err;

    parse_stat(text, len, &s, &err);
}

static void status(const char *text)
{
    struct proc_status s;
    struct err err;

    if (parse_status(text, &s, &err) == 0)
        proc_status_free(&s);
}

static void smaps(char *text)
{
    struct map *maps = NULL;
    struct err err;
    size_t n = 0;

    if (parse_smaps(text, &maps, &n, &err) == 0)
        maps_free(maps, n);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = size ? malloc(size) : NULL;

    if (!text)
        return 0;
    memcpy(text, data + 1, size - 1);
    text[size - 1] = '\0';
    switch (data[0]) {
    case 's':
        stat_text(text, size - 1);
        break;
    case 't':
        status(text);
        break;
    case 'm':
        smaps(text);
        break;
    default:
        fdinfo(text);
        break;
    }
    free(text);
    return 0;
}
