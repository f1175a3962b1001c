/*
 * dmtcp_nocheckpoint: leaves the computation that it was started in, and then becomes the command, which with all it
 * starts stays outside. Where there is no computation it just becomes the command.
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/util.h"
#include "coordinator/client.h"

static const struct option longopts[] = {COMMON_OPTIONS, {0}};

static int parse(int argc, char **argv, struct options *o, struct err *err)
{
    int opt, r = options_init(o, argv[0], err);

    while (r >= 0 && (opt = getopt_long(argc, argv, "+" COMMON_SHORT, longopts, NULL)) != -1) {
        r = options_take(o, opt, optarg, err);
        if (r == 0)
            return err_set(err, EINVAL, "try 'dmtcp_nocheckpoint --help'");
    }
    return r < 0 ? r : options_finish(o, err);
}

/* Nobody there, or somebody to whom we do not belong: then there is nothing to leave. */
static int leave(struct options *o, struct err *err)
{
    Wire__Msg request = WIRE__MSG__INIT, *answer = NULL;
    Wire__Command command = WIRE__COMMAND__INIT;
    Wire__Host host = WIRE__HOST__INIT;
    struct coord *c;
    int r;

    o->mode = COORD_JOIN;
    r = coord_connect(&c, o, err);
    if (r == -ECONNREFUSED)
        return 0;
    if (r < 0)
        return r;
    r = coord_host(c, &host, err);
    command.op = WIRE__COMMAND__OP__DETACH;
    command.pid = getpid();
    command.host = &host;
    request.body_case = WIRE__MSG__BODY_COMMAND;
    request.command = &command;
    if (r == 0)
        r = coord_call(c, &request, &answer, COORD_FOREVER, NULL, NULL, err);
    coord_msg_free(answer);
    coord_close(c);
    return r == -ESRCH ? 0 : r;
}

int main(int argc, char **argv)
{
    struct options o;
    struct err err = {0};
    int r;

    log_init("dmtcp_nocheckpoint", 0);
    r = parse(argc, argv, &o, &err);
    if (r == 0 && o.help) {
        printf("Usage: dmtcp_nocheckpoint [options] command [args...]\n"
               "Run a command that stays out of the computation it is started in.\n\n%s\nSee dmtcp_nocheckpoint(1).\n",
               options_common_help);
        return 0;
    }
    if (r == 0 && o.version) {
        options_print_version(&o);
        return 0;
    }
    if (r == 0 && optind >= argc)
        r = err_set(&err, EINVAL, "no command given; try 'dmtcp_nocheckpoint --help'");
    if (r == 0)
        r = leave(&o, &err);
    if (r == 0) {
        execvp(argv[optind], argv + optind);
        err_errno(&err, "%s", argv[optind]);
    }
    log_error("%s", err.msg);
    return o.fail_rc;
}
