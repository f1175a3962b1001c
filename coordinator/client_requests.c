/* The requests of tracers, restarters and launchers, each a call. See client.h and wire.proto. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/stat.h>

#include "base/util.h"
#include "coordinator/client_internal.h"

#define ANSWER_MS 30000 /* for what the coordinator answers by itself, without asking anybody */

int coord_host(struct coord *c, Wire__Host *host, struct err *err)
{
    char name[256] = "";
    struct stat st;

    if (stat("/proc/self/ns/pid", &st) < 0)
        return err_errno(err, "/proc/self/ns/pid");
    if (!c->boot_id) {
        if (read_proc(&c->boot_id, NULL, err, "sys/kernel/random/boot_id") < 0)
            return -err->code;
        c->boot_id[strcspn(c->boot_id, "\n")] = '\0';
    }
    if (!c->own_hostname) {
        gethostname(name, sizeof(name) - 1);
        c->own_hostname = strdup(name);
        if (!c->own_hostname)
            return err_set(err, ENOMEM, "out of memory");
    }
    host->boot_id = c->boot_id;
    host->pidns = st.st_ino;
    host->hostname = c->own_hostname;
    return 0;
}

int coord_join(struct coord *c, Wire__Join *join, Wire__Msg **joined, struct err *err)
{
    Wire__Msg m = WIRE__MSG__INIT, *answer = NULL;
    Wire__Host host = WIRE__HOST__INIT;
    int r = coord_host(c, &host, err);

    if (r < 0)
        return r;
    join->host = &host;
    join->uid = geteuid();
    join->pid = getpid();
    m.body_case = WIRE__MSG__BODY_JOIN;
    m.join = join;
    r = coord_call(c, &m, &answer, ANSWER_MS, NULL, NULL, err);
    join->host = NULL;
    if (r < 0)
        return r;
    if (answer->body_case != WIRE__MSG__BODY_JOINED) {
        coord_msg_free(answer);
        return err_set(err, EPROTO, "coordinator at %s: an unexpected answer", c->where);
    }
    if (joined)
        *joined = answer;
    else
        coord_msg_free(answer);
    return 0;
}

int coord_leave(struct coord *c, struct err *err)
{
    Wire__Msg m = WIRE__MSG__INIT;
    Wire__Leave leave = WIRE__LEAVE__INIT;
    int r;

    m.body_case = WIRE__MSG__BODY_LEAVE;
    m.leave = &leave;
    r = coord_call(c, &m, NULL, ANSWER_MS, NULL, NULL, err);
    if (r == -EBUSY && !c->lost)
        return 0;
    return r < 0 ? r : 1;
}

int coord_publish(struct coord *c, const Wire__Publish *publish, struct err *err)
{
    Wire__Msg m = WIRE__MSG__INIT;

    m.body_case = WIRE__MSG__BODY_PUBLISH;
    m.publish = (Wire__Publish *)publish;
    return coord_call(c, &m, NULL, ANSWER_MS, NULL, NULL, err);
}

int coord_query(struct coord *c, size_t n, const ProtobufCBinaryData *keys, Wire__Msg **values,
                struct err *err)
{
    Wire__Msg m = WIRE__MSG__INIT;
    Wire__Query query = WIRE__QUERY__INIT;
    int r;

    query.n_key = n;
    query.key = (ProtobufCBinaryData *)keys;
    m.body_case = WIRE__MSG__BODY_QUERY;
    m.query = &query;
    r = coord_call(c, &m, values, ANSWER_MS, NULL, NULL, err);
    if (r < 0)
        return r;
    if ((*values)->body_case == WIRE__MSG__BODY_VALUES && (*values)->values->n_value == n)
        return 0;
    coord_msg_free(*values);
    *values = NULL;
    return err_set(err, EPROTO, "coordinator at %s: an unexpected answer", c->where);
}

int coord_barrier(struct coord *c, const char *name, unsigned count, struct err *err)
{
    Wire__Msg m = WIRE__MSG__INIT;
    Wire__Barrier barrier = WIRE__BARRIER__INIT;

    barrier.name = (char *)name;
    barrier.count = count;
    m.body_case = WIRE__MSG__BODY_BARRIER;
    m.barrier = &barrier;
    return coord_call(c, &m, NULL, COORD_FOREVER, NULL, NULL, err);
}

/* One answer to a Launch: 1 when it is settled. */
static int launch_answer(struct coord *c, Wire__Msg *m, Wire__TracerConfig *config, int *status,
                         struct err *err)
{
    if (m->body_case == WIRE__MSG__BODY_OK)
        return 1;
    if (m->body_case == WIRE__MSG__BODY_ERROR)
        return coord_take_error(m, err);
    if (m->body_case != WIRE__MSG__BODY_START_TRACER)
        return 0;
    if (*status >= 0)
        close(take_fd(status));
    config->host = c->hostname;
    config->port = (uint32_t)c->port;
    config->key_file = c->key_file;
    return coord_spawn_tracer(config, status, err);
}

/* Until the coordinator's answer is there, or the tracer says that it can't start. */
static int launch_wait(struct coord *c, uint32_t seq, Wire__TracerConfig *config, int *status,
                       struct err *err)
{
    int r = 0;

    while (r == 0) {
        struct pollfd p[2] = {{c->fd, POLLIN, 0}, {*status, POLLIN, 0}};
        Wire__Msg *m = NULL;
        if (poll(p, 2, -1) < 0 && errno != EINTR)
            return err_errno(err, "poll");
        if (p[1].revents)
            r = coord_tracer_started(take_fd(status), err);
        while (r == 0 && (r = coord_next(c, &m, err)) == 1) {
            r = coord_answers(m, seq) ? launch_answer(c, m, config, status, err) : 0;
            coord_msg_free(m);
        }
    }
    return r < 0 ? r : 0;
}

int coord_launch(struct coord *c, pid_t pid, int attach, const Wire__TreeOptions *options,
                 Wire__TracerConfig *config, struct err *err)
{
    Wire__Msg m = WIRE__MSG__INIT;
    Wire__Launch launch = WIRE__LAUNCH__INIT;
    Wire__Host host = WIRE__HOST__INIT;
    _cleanup_close_ int status = -1;
    int r = coord_host(c, &host, err);

    if (r < 0)
        return r;
    launch.host = &host;
    launch.uid = geteuid();
    launch.pid = pid;
    launch.attach = attach;
    launch.options = (Wire__TreeOptions *)options;
    m.seq = c->next_seq++;
    m.body_case = WIRE__MSG__BODY_LAUNCH;
    m.launch = &launch;
    r = coord_send(c, &m, err);
    return r < 0 ? r : launch_wait(c, m.seq, config, &status, err);
}
