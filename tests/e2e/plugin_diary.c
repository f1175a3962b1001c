/*
 * A plugin that writes down each call in the file DMTCP_TEST_DIARY: the event, how many of the processes are there and stand
 * still, and what was kept, a number that grows by one with each checkpoint. It fails the event that a file DIARY.fail names.
 */
#include <dmtcp_plugin.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static unsigned number;

static char state_of(pid_t pid)
{
    char path[40], text[400] = "", *end;
    FILE *f;

    snprintf(path, sizeof(path), "/proc/%d/stat", pid);
    f = fopen(path, "r");
    if (f) {
        text[fread(text, 1, sizeof(text) - 1, f)] = '\0';
        fclose(f);
    }
    end = strrchr(text, ')');
    return end ? end[2] : '?';
}

static const char *const names[] = {[DMTCP_PLUGIN_PRECHECKPOINT] = "precheckpoint", [DMTCP_PLUGIN_RESUME] = "resume",
                                    [DMTCP_PLUGIN_RESTART] = "restart"};

static int is_to_fail(const char *diary, const char *event)
{
    char path[500], text[40] = "";
    FILE *f;

    snprintf(path, sizeof(path), "%s.fail", diary);
    f = fopen(path, "r");
    if (!f)
        return 0;
    text[fread(text, 1, sizeof(text) - 1, f)] = '\0';
    fclose(f);
    return !strcmp(text, event);
}

/* Files called "claimed" are opened again by their path, without O_CLOEXEC. */
static bool claim(const struct dmtcp_plugin_file *file)
{
    const char *slash = strrchr(file->path, '/');

    return slash && !strcmp(slash, "/claimed");
}

static int save_file(struct dmtcp_plugin_call *call, const struct dmtcp_plugin_file *file)
{
    return call->keep(call, file->path, strlen(file->path) + 1);
}

static int open_file(struct dmtcp_plugin_call *call)
{
    return open(call->data, O_RDONLY);
}

static int event(struct dmtcp_plugin_call *call)
{
    const char *diary = getenv("DMTCP_TEST_DIARY");
    size_t still = 0;
    FILE *f;

    for (size_t i = 0; i < call->n_pids; i++)
        still += state_of(call->pids[i]) == 't';
    if (call->event == DMTCP_PLUGIN_RESTART) {
        if (call->size != sizeof(number))
            return call->fail(call, "%zu bytes were kept", call->size);
        memcpy(&number, call->data, sizeof(number));
    }
    f = diary ? fopen(diary, "a") : NULL;
    if (!f)
        return call->fail(call, "no diary");
    fprintf(f, "%s %zu/%zu %u\n", names[call->event], still, call->n_pids, number);
    fclose(f);
    if (is_to_fail(diary, names[call->event]))
        return call->fail(call, "it is to fail\nhere");
    if (call->event != DMTCP_PLUGIN_PRECHECKPOINT)
        return 0;
    number++;
    return call->keep(call, &number, sizeof(number));
}

const struct dmtcp_plugin dmtcp_plugin = {.api = DMTCP_PLUGIN_API, .name = "diary", .event = event, .claim = claim,
                                          .save_file = save_file, .open_file = open_file};
