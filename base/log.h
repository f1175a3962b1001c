/*
 * Log lines of the long-lived processes (coordinator, tracer) and of the commands.
 * The level comes from DMTCP_LOG_LEVEL (error, warn, note, trace; default note) and
 * -q (each -q one level less). Lines go to standard error unless log_to_fd() says otherwise;
 * a traced program's standard error is never written to.
 */
#ifndef BASE_LOG_H
#define BASE_LOG_H

enum log_level { LOG_ERROR, LOG_WARN, LOG_NOTE, LOG_TRACE };

void log_init(const char *program, int quiet);
void log_to_fd(int fd); /* fd -1: say nothing */
int log_enabled(enum log_level level);
void log_at(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...) log_at(LOG_ERROR, __VA_ARGS__)
#define log_warn(...)  log_at(LOG_WARN, __VA_ARGS__)
#define log_note(...)  log_at(LOG_NOTE, __VA_ARGS__)
#define log_trace(...)                       \
    do {                                     \
        if (log_enabled(LOG_TRACE))          \
            log_at(LOG_TRACE, __VA_ARGS__);  \
    } while (0)

#endif
