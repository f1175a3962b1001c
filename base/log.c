/* Log lines: one write(2) each, so that lines of several processes do not mix. See log.h. */
#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static struct {
    const char *program;
    enum log_level level;
    int fd;
} log_state = {"dmtcp", LOG_NOTE, 2};

static const char *const level_names[] = {"error", "warn", "note", "trace"};

void log_init(const char *program, int quiet)
{
    const char *env = getenv("DMTCP_LOG_LEVEL");
    int level = LOG_NOTE;

    log_state.program = program;
    for (int i = LOG_ERROR; env && i <= LOG_TRACE; i++)
        if (!strcasecmp(env, level_names[i]))
            level = i;
    if (level <= LOG_NOTE)
        level = level - quiet < LOG_ERROR ? LOG_ERROR : level - quiet;
    log_state.level = (enum log_level)level;
}

void log_to_fd(int fd)
{
    log_state.fd = fd;
}

int log_enabled(enum log_level level)
{
    return log_state.fd >= 0 && level <= log_state.level;
}

void log_at(enum log_level level, const char *fmt, ...)
{
    char line[1400];
    struct timespec now;
    va_list ap;
    int n = 0, m;

    if (!log_enabled(level))
        return;
    if (log_state.level == LOG_TRACE) {
        clock_gettime(CLOCK_MONOTONIC, &now);
        n = snprintf(line, sizeof(line), "%lld.%06ld ", (long long)now.tv_sec, now.tv_nsec / 1000);
    }
    n += snprintf(line + n, sizeof(line) - (size_t)n, "%s: %s", log_state.program,
                  level == LOG_ERROR || level == LOG_NOTE ? "" : level == LOG_WARN ? "warning: " : "trace: ");
    va_start(ap, fmt);
    m = vsnprintf(line + n, sizeof(line) - (size_t)n - 1, fmt, ap);
    va_end(ap);
    n = m < 0 ? n : (size_t)(n + m) > sizeof(line) - 2 ? (int)sizeof(line) - 2 : n + m;
    line[n++] = '\n';
    if (write(log_state.fd, line, (size_t)n) < 0)
        return; /* nowhere left to say so */
}
