/*
 * dmtcp_restart_script.sh: POSIX sh, made to be read and edited. Host names and paths come from the
 * computation, so each is one single-quoted word, whatever bytes are in it.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/util.h"
#include "coordinator/server.h"

static void put_quoted(FILE *f, const char *word)
{
    fputc('\'', f);
    for (; *word; word++)
        if (*word == '\'')
            fputs("'\\''", f);
        else
            fputc(*word, f);
    fputc('\'', f);
}

static const char *const head =
    "# Names are quoted as they are, and for other hosts here:\n"
    "# shellcheck disable=SC2016,SC2029\n"
    "set -u\n"
    "\n"
    "usage() {\n"
    "    cat <<'END'\n"
    "Usage: dmtcp_restart_script.sh [options]\n"
    "  -h, --coord-host HOST     the coordinator's host (DMTCP_COORD_HOST; default: this host)\n"
    "  -p, --coord-port PORT     its port (DMTCP_COORD_PORT)\n"
    "      --hostfile FILE       hosts to restart on, one a line, in the order of the list below\n"
    "      --restartdir DIR      take the images from there, wherever they were written\n"
    "      --ckptdir DIR         where the next images go\n"
    "      --tmpdir DIR          temporary files\n"
    "  -i, --interval SECONDS    automatic checkpoints\n"
    "      --no-strict-checking  allow images of another user\n"
    "      --help\n"
    "END\n"
    "}\n"
    "\n"
    "fail() {\n"
    "    printf 'dmtcp_restart_script.sh: %s\\n' \"$1\" >&2\n"
    "    exit \"${DMTCP_FAIL_RC:-99}\"\n"
    "}\n"
    "\n";

static const char *const options_part =
    "hostfile='' restartdir='' ckptdir='' tmpdir='' interval='' unstrict=''\n"
    "while [ $# -gt 0 ]; do\n"
    "    case $1 in\n"
    "    --help) usage; exit 0 ;;\n"
    "    --no-strict-checking) unstrict=1; shift; continue ;;\n"
    "    --*=*) name=${1%%=*} value=${1#*=}; shift; set -- \"$name\" \"$value\" \"$@\" ;;\n"
    "    esac\n"
    "    [ $# -ge 2 ] || fail \"$1: unknown option, or its argument is missing (see --help)\"\n"
    "    case $1 in\n"
    "    -h | --coord-host | --host) coord_host=$2 ;;\n"
    "    -p | --coord-port | --port) coord_port=$2 ;;\n"
    "    --hostfile) hostfile=$2; [ -r \"$2\" ] || fail \"$2: cannot be read\" ;;\n"
    "    --restartdir | -d) restartdir=$2 ;;\n"
    "    --ckptdir | -c) ckptdir=$2 ;;\n"
    "    --tmpdir | -t) tmpdir=$2 ;;\n"
    "    --interval | -i) interval=$2 ;;\n"
    "    *) fail \"$1: unknown option (see --help)\" ;;\n"
    "    esac\n"
    "    shift 2\n"
    "done\n"
    "\n";

static const char *const functions =
    "# One word for a shell on another host.\n"
    "quote() {\n"
    "    printf \"'\"\n"
    "    printf '%s' \"$1\" | sed \"s/'/'\\\\\\\\''/g\"\n"
    "    printf \"'.\"\n"
    "}\n"
    "\n"
    "# The host for the images that were on host number $1 ($2 then).\n"
    "host_now() {\n"
    "    if [ -n \"$hostfile\" ]; then\n"
    "        sed -e 's/#.*//' -e 's/[[:space:]]//g' -e '/^$/d' \"$hostfile\" | sed -n \"$1p\"\n"
    "    else\n"
    "        printf '%s\\n' \"$2\"\n"
    "    fi\n"
    "}\n"
    "\n"
    "is_here() {\n"
    "    [ \"$1\" = localhost ] || [ \"$1\" = \"$(uname -n)\" ] || { [ \"$hosts\" -eq 1 ] && [ -z "
    "\"$hostfile\" ]; }\n"
    "}\n"
    "\n"
    "# restart PASS NUMBER HOST IMAGE...: on other hosts in the first pass, here in the second.\n"
    "restart() {\n"
    "    pass=$1 host=$(host_now \"$2\" \"$3\")\n"
    "    [ -n \"$host\" ] || fail \"$hostfile: no host for images of $3\"\n"
    "    if is_here \"$host\"; then here=1; else here=0; fi\n"
    "    [ \"$here\" -eq \"$pass\" ] || return 0\n"
    "    shift 3\n"
    "    n=$#\n"
    "    for image do\n"
    "        [ -z \"$restartdir\" ] || image=$restartdir/${image##*/}\n"
    "        set -- \"$@\" \"$image\"\n"
    "    done\n"
    "    shift \"$n\"\n"
    "    [ \"$hosts\" -eq 1 ] || set -- --hosts \"$hosts\" \"$@\"\n"
    "    [ -z \"$ckptdir\" ] || set -- --ckptdir \"$ckptdir\" \"$@\"\n"
    "    [ -z \"$tmpdir\" ] || set -- --tmpdir \"$tmpdir\" \"$@\"\n"
    "    [ -z \"$interval\" ] || set -- --interval \"$interval\" \"$@\"\n"
    "    [ -z \"$plugins\" ] || set -- --with-plugin \"$plugins\" \"$@\"\n"
    "    [ -z \"$unstrict\" ] || set -- --no-strict-checking \"$@\"\n"
    "    set -- --coord-host \"$coord_host\" --coord-port \"$coord_port\" \"$@\"\n"
    "    if [ \"$here\" -eq 1 ]; then\n"
    "        [ -x \"$dmtcp_restart\" ] || dmtcp_restart=dmtcp_restart\n"
    "        exec \"$dmtcp_restart\" \"$@\"\n"
    "    fi\n"
    "    command=\n"
    "    for word in \"$dmtcp_restart\" \"$@\"; do\n"
    "        word=$(quote \"$word\")\n"
    "        command=\"$command ${word%.}\"\n"
    "    done\n"
    "    ssh \"$host\" \"$command\" </dev/null &\n"
    "}\n"
    "\n";

static const char *const tail =
    "# Other hosts reach the coordinator by this host's name, so it has to listen for them.\n"
    "remote=0\n"
    "i=1\n"
    "while [ \"$i\" -le \"$hosts\" ]; do\n"
    "    is_here \"$(host_now \"$i\" \"$(host_then \"$i\")\")\" || remote=1\n"
    "    i=$((i + 1))\n"
    "done\n"
    "if [ -z \"$coord_host\" ]; then\n"
    "    coord_host=localhost\n"
    "    if [ \"$remote\" -eq 1 ]; then\n"
    "        coord_host=$(uname -n)\n"
    "        [ -x \"$dmtcp_coordinator\" ] || dmtcp_coordinator=dmtcp_coordinator\n"
    "        \"$dmtcp_coordinator\" --daemon --exit-on-last --bind 0.0.0.0 --coord-port \"$coord_port\" ||\n"
    "            fail 'no coordinator; if one is running, say where with --coord-host'\n"
    "    fi\n"
    "fi\n"
    "\n"
    "images 0\n"
    "images 1\n"
    "wait\n";

static void put_list(FILE *f, const struct manifest *m)
{
    size_t at = 0;

    fputs("# What is restarted where: a call of restart for each host, with the images that were written "
          "there. Hosts and\n"
          "# images may be changed. The first image of the host on which this script runs is the process "
          "that the\n"
          "# terminal sees, and whose exit status becomes the script's.\n"
          "images() {\n",
          f);
    for (size_t i = 0; i < m->n_hosts; i++) {
        fprintf(f, "    restart \"$1\" %zu ", i + 1);
        put_quoted(f, m->host[i].hostname);
        for (; at < m->n_images && m->image[at].host == i; at++) {
            fputs(" \\\n        ", f);
            put_quoted(f, m->image[at].path);
        }
        fputc('\n', f);
    }
    fprintf(f, "}\nhosts=%zu\nhost_then() {\n    case $1 in\n", m->n_hosts);
    for (size_t i = 0; i < m->n_hosts; i++) {
        fprintf(f, "    %zu) printf '%%s\\n' ", i + 1);
        put_quoted(f, m->host[i].hostname);
        fputs(" ;;\n", f);
    }
    fputs("    esac\n}\n\n", f);
}

/* The coordinator's program is a neighbour of dmtcp_restart, or was found in the path like it. */
static void put_programs(FILE *f, const char *restart_program)
{
    _cleanup_free_ char *self = readlink_dup("/proc/self/exe");

    fputs("dmtcp_restart=", f);
    put_quoted(f, restart_program);
    fputs("\ndmtcp_coordinator=", f);
    put_quoted(f, self ? self : "dmtcp_coordinator");
    fputc('\n', f);
}

char *script_format(const struct server *s, const struct manifest *m, const char *restart_program)
{
    char *text = NULL, when[64] = "";
    time_t t = (time_t)m->time;
    struct tm tm;
    size_t len;
    FILE *f = open_memstream(&text, &len);

    if (!f)
        return NULL;
    if (localtime_r(&t, &tm))
        strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S %z", &tm);
    fprintf(
        f,
        "#!/bin/sh\n"
        "# Restarts a computation from its checkpoint. Written by dmtcp_coordinator; see dmtcp_restart(1).\n"
        "#\n"
        "#   computation  %s\n"
        "#   generation   %u\n"
        "#   made         %s\n"
        "#\n"
        "# It may be copied and edited: hosts and images are listed in one place below. The options (see "
        "--help)\n"
        "# do what is needed most often without editing.\n",
        m->computation, m->generation, when);
    fputs(head, f);
    put_programs(f, restart_program);
    fputs("plugins=", f);
    put_quoted(f, s->plugins ? s->plugins : "");
    fputc('\n', f);
    fprintf(f,
            "coord_host=${DMTCP_COORD_HOST:-${DMTCP_HOST:-}}\ncoord_port=${DMTCP_COORD_PORT:-${DMTCP_PORT:-%"
            "d}}\n\n",
            s->port);
    put_list(f, m);
    fputs(options_part, f);
    fputs(functions, f);
    fputs(tail, f);
    if (fclose(f) != 0) {
        free(text);
        return NULL;
    }
    return text;
}
