/* See fdinfo.h. One small scanner for all: sscanf would accept signs, blanks and overflow. */
#include "tracer/fdinfo.h"

#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/sysmacros.h>

static int digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return 99;
}

static void blanks(const char **s)
{
    while (**s == ' ' || **s == '\t')
        (*s)++;
}

/* A number without sign; false when there is none or it does not fit. */
static bool number(const char **s, int base, uint64_t *value)
{
    const char *p = *s;
    uint64_t v = 0;

    for (; digit(*p) < base; p++)
        if (__builtin_mul_overflow(v, (uint64_t)base, &v) ||
            __builtin_add_overflow(v, (uint64_t)digit(*p), &v))
            return false;
    if (p == *s)
        return false;
    *s = p;
    *value = v;
    return true;
}

const char *fdinfo_find(const char *text, const char *key)
{
    size_t n = strlen(key);

    while (text && *text) {
        if (!strncmp(text, key, n) && text[n] == ':') {
            text += n + 1;
            blanks(&text);
            return text;
        }
        text = strchr(text, '\n');
        text = text ? text + 1 : NULL;
    }
    return NULL;
}

int fdinfo_number(const char *text, const char *key, int base, uint64_t *value, struct err *err)
{
    const char *s = fdinfo_find(text, key);

    if (!s)
        return err_set(err, ENOENT, "the kernel does not say %s", key);
    if (!number(&s, base, value) || (*s && *s != '\n' && *s != ' '))
        return err_set(err, EBADMSG, "strange %s in fdinfo", key);
    return 0;
}

int fdinfo_parse(const char *text, struct fdinfo *f, struct err *err)
{
    uint64_t flags, mnt, ino;
    const char *pos = fdinfo_find(text, "pos");
    struct err ignored;

    *f = (struct fdinfo){.mnt_id = -1};
    if (fdinfo_number(text, "flags", 8, &flags, err) < 0)
        return -err->code;
    if (!pos || flags > UINT32_MAX)
        return err_set(err, EBADMSG, "strange fdinfo");
    bool negative = *pos == '-'; /* a position of /proc/PID/mem may have the highest bit set */
    uint64_t v;
    pos += negative;
    if (!number(&pos, 10, &v))
        return err_set(err, EBADMSG, "strange pos in fdinfo");
    f->pos = (int64_t)(negative ? 0 - v : v);
    f->flags = (uint32_t)flags;
    if (fdinfo_number(text, "mnt_id", 10, &mnt, &ignored) == 0 && mnt <= INT_MAX)
        f->mnt_id = (int)mnt;
    if (fdinfo_number(text, "ino", 10, &ino, &ignored) == 0)
        f->ino = ino;
    return 0;
}

/* "(seconds, nanoseconds)" */
static int time_pair(const char *text, const char *key, uint64_t *ns, struct err *err)
{
    const char *s = fdinfo_find(text, key);
    uint64_t sec, nsec;

    if (!s)
        return err_set(err, ENOENT, "the kernel does not say %s", key);
    if (*s++ != '(' || !number(&s, 10, &sec) || *s++ != ',')
        return err_set(err, EBADMSG, "strange %s in fdinfo", key);
    blanks(&s);
    if (!number(&s, 10, &nsec) || *s != ')' || nsec >= 1000000000 || sec > INT64_MAX / 1000000000)
        return err_set(err, EBADMSG, "strange %s in fdinfo", key);
    *ns = sec * 1000000000 + nsec;
    return 0;
}

int fdinfo_timerfd(const char *text, struct fdinfo_timer *t, struct err *err)
{
    uint64_t clockid, flags;

    *t = (struct fdinfo_timer){0};
    if (fdinfo_number(text, "clockid", 10, &clockid, err) < 0 ||
        fdinfo_number(text, "ticks", 10, &t->ticks, err) < 0 ||
        fdinfo_number(text, "settime flags", 8, &flags, err) < 0 ||
        time_pair(text, "it_value", &t->value_ns, err) < 0 ||
        time_pair(text, "it_interval", &t->interval_ns, err) < 0)
        return -err->code;
    if (clockid > INT_MAX || flags > UINT32_MAX)
        return err_set(err, EBADMSG, "strange timer in fdinfo");
    t->clockid = (int)clockid;
    t->settime_flags = (uint32_t)flags;
    return 0;
}

/* "key:" blanks number, further along the same line */
static bool field(const char **s, const char *key, int base, uint64_t *value)
{
    size_t n = strlen(key);

    blanks(s);
    if (strncmp(*s, key, n))
        return false;
    *s += n;
    blanks(s);
    return number(s, base, value);
}

/* "tfd:        5 events:       19 data: 5  pos:0 ino:3d sdev:d" (fs/eventpoll.c) */
int fdinfo_epoll(const char **text, struct fdinfo_epoll_item *item, struct err *err)
{
    const char *s = fdinfo_find(*text, "tfd"), *end;
    uint64_t tfd, events, sdev;

    if (!s)
        return 0;
    end = strchr(s, '\n');
    *text = end ? end + 1 : s + strlen(s);
    if (!number(&s, 10, &tfd) || tfd > INT_MAX || !field(&s, "events:", 16, &events) || events > UINT32_MAX ||
        !field(&s, "data:", 16, &item->data))
        return err_set(err, EBADMSG, "strange epoll item in fdinfo");
    blanks(&s);
    if (!strncmp(s, "pos:", 4))
        s += strcspn(s, " \n");
    if (!field(&s, "ino:", 16, &item->ino) || !field(&s, "sdev:", 16, &sdev))
        return err_set(err, EBADMSG, "the kernel does not say which files an epoll descriptor watches");
    item->tfd = (uint32_t)tfd;
    item->events = (uint32_t)events;
    /* The kernel's own dev_t: 20 bits of minor number (include/linux/kdev_t.h). */
    item->dev = makedev((unsigned)(sdev >> 20), (unsigned)(sdev & 0xfffff));
    return 1;
}
