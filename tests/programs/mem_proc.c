/*
 * What /proc says of a process: its program file, arguments (also after they were overwritten, as daemons
 * do to set a title), environment, auxiliary vector, name, personality, and the addresses in stat.
 */
#include <elf.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"

#define BIG 65536

struct view {
    char exe[512], cmdline[BIG], environ[BIG], auxv[4096], comm[64], stat[64][32];
    size_t cmdline_len, environ_len, auxv_len;
    int persona;
};

static struct view before, after;

/* The fields of stat that say where things are (proc_pid_stat(5)). */
static const struct {
    int field;
    const char *name;
} addresses[] = {{26, "startcode"}, {27, "endcode"},   {28, "startstack"}, {45, "start_data"}, {46, "end_data"},
                 {47, "start_brk"}, {48, "arg_start"}, {49, "arg_end"},    {50, "env_start"},  {51, "env_end"}};

static void look(struct view *v)
{
    char stat[2048], *at;
    int i;

    MUST(readlink("/proc/self/exe", v->exe, sizeof(v->exe) - 1));
    v->cmdline_len = check_slurp("/proc/self/cmdline", v->cmdline, BIG);
    v->environ_len = check_slurp("/proc/self/environ", v->environ, BIG);
    v->auxv_len = check_slurp("/proc/self/auxv", v->auxv, sizeof(v->auxv));
    check_slurp("/proc/self/comm", v->comm, sizeof(v->comm));
    v->persona = (int)MUST(personality(0xffffffff));
    check_slurp("/proc/self/stat", stat, sizeof(stat));
    at = strrchr(stat, ')') + 2;
    for (i = 3; i < 60 && *at; i++) {
        size_t len = strcspn(at, " \n");

        if (i < 64)
            snprintf(v->stat[i], sizeof(v->stat[i]), "%.*s", (int)len, at);
        at += len + (at[len] != 0);
    }
}

int main(int argc, char **argv)
{
    const char *path = getenv("PATH");
    unsigned i;

    check_init(argc, argv);
    MUST(personality(ADDR_NO_RANDOMIZE | UNAME26));
    MUST(prctl(PR_SET_NAME, "a (new) name"));
    /* As setproctitle() does it. */
    argv[0][0] = '#';
    look(&before);

    check_wait();

    if (check_broken())
        MUST(prctl(PR_SET_NAME, "other"));
    look(&after);
    check_str(before.exe, after.exe, "/proc/self/exe");
    check_num((long long)before.cmdline_len, (long long)after.cmdline_len, "length of /proc/self/cmdline");
    check_mem(before.cmdline, after.cmdline, before.cmdline_len, "/proc/self/cmdline");
    check_num((long long)before.environ_len, (long long)after.environ_len, "length of /proc/self/environ");
    check_mem(before.environ, after.environ, before.environ_len, "/proc/self/environ");
    check_num((long long)before.auxv_len, (long long)after.auxv_len, "length of /proc/self/auxv");
    check_mem(before.auxv, after.auxv, before.auxv_len, "/proc/self/auxv");
    check_str(before.comm, after.comm, "/proc/self/comm");
    check_num(before.persona, after.persona, "personality");
    for (i = 0; i < sizeof(addresses) / sizeof(addresses[0]); i++)
        check_str(before.stat[addresses[i].field], after.stat[addresses[i].field], addresses[i].name);
    if (path)
        check_str(path, getenv("PATH") ? getenv("PATH") : "(unset)", "PATH");
    check_num((long long)getpagesize(), (long long)getauxval(AT_PAGESZ), "AT_PAGESZ");
    return check_end();
}
