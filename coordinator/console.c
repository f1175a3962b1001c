/*
 * Commands on the coordinator's standard input, one a line, and their answers on its standard output. They
 * are the same commands as dmtcp_command's. A coordinator in the background of a terminal leaves the terminal
 * alone until it comes to the foreground (SIGCONT).
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/log.h"
#include "coordinator/server.h"
#include "coordinator/show.h"

static const char help[] = "COMMANDS:\n"
                           "  l : list the processes of the computation\n"
                           "  s : status\n"
                           "  c : checkpoint\n"
                           "  kc: checkpoint, then kill (also: ck)\n"
                           "  i : show the interval between automatic checkpoints (i SECONDS: set it)\n"
                           "  f : restart although hosts are missing\n"
                           "  k : kill all processes\n"
                           "  q : kill all processes and quit\n"
                           "  ? : this text\n";

static const struct {
    const char *name;
    Wire__Command__Op op;
} commands[] = {
    {"l", WIRE__COMMAND__OP__LIST},         {"s", WIRE__COMMAND__OP__STATUS},
    {"c", WIRE__COMMAND__OP__CHECKPOINT},   {"kc", WIRE__COMMAND__OP__KCHECKPOINT},
    {"ck", WIRE__COMMAND__OP__KCHECKPOINT}, {"f", WIRE__COMMAND__OP__FORCE_RESTART},
    {"k", WIRE__COMMAND__OP__KILL},         {"q", WIRE__COMMAND__OP__QUIT},
};

static int in_background(void)
{
    pid_t group = tcgetpgrp(0);

    return isatty(0) && group >= 0 && group != getpgrp();
}

static void forget(struct server *s)
{
    if (s->console)
        epoll_ctl(s->epoll_fd, EPOLL_CTL_DEL, 0, NULL);
    s->console = 0;
}

void console_start(struct server *s)
{
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = &s->console_tag};

    if (!s->config.use_stdin || s->console || in_background())
        return;
    if (epoll_ctl(s->epoll_fd, EPOLL_CTL_ADD, 0, &e) == 0) {
        s->console = 1;
    } else if (errno == EPERM) { /* a regular file or /dev/null: never waits */
        s->console = 1;
        while (s->console && !s->done)
            console_event(s);
    }
}

static void interval(struct server *s, const char *argument)
{
    const struct ask ask = {CONSOLE_ID, 1, 0};
    Wire__Command command = WIRE__COMMAND__INIT;

    while (*argument == ' ')
        argument++;
    if (*argument) {
        char *end;
        long v = strtol(argument, &end, 10);
        if (*end || v < 0 || v > INT32_MAX) {
            printf("i: \"%s\" is not a number of seconds\n", argument);
            return;
        }
        command.op = WIRE__COMMAND__OP__INTERVAL;
        command.interval = (uint32_t)v;
        command_run(s, &ask, &command);
    }
    if (s->interval)
        printf("Current checkpoint interval: %d seconds\n", s->interval);
    else
        printf("Current checkpoint interval: 0 (checkpoint manually)\n");
}

static void run_line(struct server *s, char *line)
{
    const struct ask ask = {CONSOLE_ID, 1, 0};
    Wire__Command command = WIRE__COMMAND__INIT;

    while (*line == ' ' || *line == '\t')
        line++;
    line[strcspn(line, "\r\n")] = '\0';
    if (!*line)
        return;
    if (line[0] == 'i' && (!line[1] || line[1] == ' ')) {
        interval(s, line + 1);
        return;
    }
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
        if (!strcmp(line, commands[i].name))
            command.op = commands[i].op;
    if (command.op == WIRE__COMMAND__OP__NONE) {
        if (strcmp(line, "?") != 0 && strcmp(line, "h") != 0)
            printf("unhandled command: %s\n", line);
        fputs(help, stdout);
        return;
    }
    command.wait = 1;
    command_run(s, &ask, &command);
}

void console_event(struct server *s)
{
    ssize_t n;
    char *newline;

    if (in_background()) {
        forget(s);
        return;
    }
    n = read(0, s->line + s->line_len, sizeof(s->line) - 1 - s->line_len);
    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return;
    if (n <= 0) {
        if (s->line_len) /* a last line without a newline */
            run_line(s, s->line);
        s->line_len = 0;
        forget(s);
        if (n == 0 && !isatty(0))
            s->config.use_stdin = 0;
        return;
    }
    s->line_len += (size_t)n;
    s->line[s->line_len] = '\0';
    while ((newline = memchr(s->line, '\n', s->line_len)) && !s->done) {
        size_t used = (size_t)(newline - s->line) + 1;
        *newline = '\0';
        run_line(s, s->line);
        s->line_len -= used;
        memmove(s->line, s->line + used, s->line_len + 1);
    }
    if (s->line_len == sizeof(s->line) - 1)
        s->line_len = 0; /* no command is that long */
    fflush(stdout);
}

void console_answer(struct server *s, const Wire__Msg *msg)
{
    (void)s;
    switch (msg->body_case) {
    case WIRE__MSG__BODY_ERROR:
        printf("Error: %s\n", msg->error->text);
        break;
    case WIRE__MSG__BODY_STATUS:
        show_status(stdout, msg->status);
        break;
    case WIRE__MSG__BODY_PROCESSES:
        show_processes(stdout, msg->processes);
        break;
    default:
        break;
    }
    fflush(stdout);
}
