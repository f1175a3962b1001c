/*
 * Makes the seed corpora of the wire targets: wire_corpus DIRECTORY makes DIRECTORY/wire_fuzz,
 * DIRECTORY/wire_server and DIRECTORY/wire_manifest. Run it when the protocol changes, and commit what it
 * writes.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/manifest.h"
#include "base/util.h"
#include "coordinator/wire.h"

struct seed {
    uint8_t data[16384];
    size_t len;
};

static void put(struct seed *s, const void *data, size_t len)
{
    if (len > sizeof(s->data) - s->len)
        len = sizeof(s->data) - s->len;
    memcpy(s->data + s->len, data, len);
    s->len += len;
}

static void put_byte(struct seed *s, unsigned byte)
{
    put(s, &(uint8_t){(uint8_t)byte}, 1);
}

static void save(const char *dir, const char *target, const char *name, const struct seed *s)
{
    _cleanup_free_ char *sub = format("%s/%s", dir, target), *path = format("%s/%s", sub, name);
    _cleanup_close_ int fd = -1;

    mkdir(sub, 0755);
    fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0 || write_full(fd, s->data, s->len) < 0)
        perror(path);
}

/* One message of one peer: {peer, length, Msg}, or for the sealed frames {length, Msg}. */
static void put_message(struct seed *s, int peer, Wire__Msg *m, Wire__Msg__BodyCase body, void *part)
{
    uint8_t packed[4096];
    size_t len;

    m->body_case = body;
    m->join = part; /* a union: all members are pointers */
    len = wire__msg__get_packed_size(m);
    if (len > sizeof(packed))
        return;
    wire__msg__pack(m, packed);
    if (peer >= 0)
        put_byte(s, (unsigned)peer);
    put_byte(s, len & 0xff);
    put_byte(s, (unsigned)(len >> 8));
    put(s, packed, len);
}

#define SAY(s, peer, seq_, re_, CASE, part)                                                                  \
    do {                                                                                                     \
        Wire__Msg m_ = WIRE__MSG__INIT;                                                                      \
        m_.seq = (seq_);                                                                                     \
        m_.re = (re_);                                                                                       \
        put_message(s, peer, &m_, WIRE__MSG__BODY_##CASE, part);                                             \
    } while (0)

static void join(struct seed *s, int peer, const char *hostname, int restarter)
{
    Wire__Join j = WIRE__JOIN__INIT;
    Wire__Host host = WIRE__HOST__INIT;

    host.boot_id = host.hostname = (char *)hostname;
    host.pidns = 1;
    j.host = &host;
    j.pid = 10 + peer;
    j.role = restarter ? WIRE__JOIN__ROLE__RESTARTER : WIRE__JOIN__ROLE__TRACER;
    j.computation = (char *)(restarter ? "comp-1" : "");
    j.generation = restarter ? 3 : 0;
    j.hosts_expected = restarter ? 2 : 0;
    SAY(s, peer, 1, 0, JOIN, &j);
}

static void command(struct seed *s, int peer, Wire__Command__Op op, int wait)
{
    Wire__Command c = WIRE__COMMAND__INIT;

    c.op = op;
    c.wait = wait;
    c.want_progress = 1;
    SAY(s, peer, 2, 0, COMMAND, &c);
}

static void phase_done(struct seed *s, int peer, unsigned re, Wire__Phase__Id id)
{
    Wire__PhaseDone done = WIRE__PHASE_DONE__INIT;
    Wire__Image image = WIRE__IMAGE__INIT, *list[] = {&image};

    image.path = (char *)"/dev/shm/none/ckpt_a_1.dmtcp";
    image.program = (char *)"a";
    image.size = 5;
    done.phase = id;
    done.processes = 1;
    done.n_image = id == WIRE__PHASE__ID__WRITE;
    done.image = list;
    SAY(s, peer, 0, re, PHASE_DONE, &done);
}

static void launch(struct seed *s, int peer, const char *hostname)
{
    Wire__Launch l = WIRE__LAUNCH__INIT;
    Wire__Host host = WIRE__HOST__INIT;
    Wire__TreeOptions options = WIRE__TREE_OPTIONS__INIT;

    host.boot_id = host.hostname = (char *)hostname;
    host.pidns = 1;
    l.host = &host;
    l.pid = 77;
    options.program = (char *)"prog";
    options.keep = 2;
    l.options = &options;
    SAY(s, peer, 5, 0, LAUNCH, &l);
}

static void say_ok(struct seed *s, int peer, unsigned re)
{
    Wire__Ok ok = WIRE__OK__INIT;

    SAY(s, peer, 0, re, OK, &ok);
}

static void say_error(struct seed *s, int peer, unsigned re)
{
    Wire__Error e = WIRE__ERROR__INIT;

    e.code = 5;
    e.text = (char *)"no";
    SAY(s, peer, 0, re, ERROR, &e);
}

static void checkpoints(const char *dir)
{
    struct seed solo = {.len = 0}, two = {.len = 0}, fails = {.len = 0}, killed = {.len = 0};

    join(&solo, 0, "anna", 0);
    for (unsigned i = 0; i < 3; i++) {
        command(&solo, 1, WIRE__COMMAND__OP__CHECKPOINT, 1);
        phase_done(&solo, 0, 2 * i + 1, WIRE__PHASE__ID__WRITE);
        phase_done(&solo, 0, 2 * i + 2, WIRE__PHASE__ID__COMMIT);
    }
    save(dir, "wire_server", "solo", &solo);
    join(&two, 0, "anna", 0);
    join(&two, 1, "berta", 0);
    command(&two, 2, WIRE__COMMAND__OP__CHECKPOINT, 1);
    for (unsigned id = 1; id <= 8; id++) {
        phase_done(&two, 0, id, (Wire__Phase__Id)id);
        phase_done(&two, 1, id, (Wire__Phase__Id)id);
    }
    save(dir, "wire_server", "two", &two);
    join(&fails, 0, "anna", 0);
    join(&fails, 1, "berta", 0);
    command(&fails, 2, WIRE__COMMAND__OP__CHECKPOINT, 1);
    command(&fails, 2, WIRE__COMMAND__OP__LIST, 1);
    command(&fails, 2, WIRE__COMMAND__OP__STATUS, 1);
    launch(&fails, 3, "anna");
    phase_done(&fails, 0, 1, WIRE__PHASE__ID__FREEZE);
    say_error(&fails, 1, 1);
    say_ok(&fails, 1, 2);
    put_byte(&fails, 0x80); /* the first one hangs up */
    put_byte(&fails, 0);
    put_byte(&fails, 0);
    save(dir, "wire_server", "fails", &fails);
    join(&killed, 0, "anna", 0);
    command(&killed, 1, WIRE__COMMAND__OP__KCHECKPOINT, 1);
    phase_done(&killed, 0, 1, WIRE__PHASE__ID__WRITE);
    phase_done(&killed, 0, 2, WIRE__PHASE__ID__COMMIT);
    say_ok(&killed, 0, 3);
    command(&killed, 1, WIRE__COMMAND__OP__QUIT, 1);
    save(dir, "wire_server", "killed", &killed);
}

static void launches_and_restarts(const char *dir)
{
    struct seed l = {.len = 0}, r = {.len = 0};
    Wire__Barrier barrier = WIRE__BARRIER__INIT;
    Wire__Publish publish = WIRE__PUBLISH__INIT;
    Wire__Publish__Pair pair = WIRE__PUBLISH__PAIR__INIT, *pairs[] = {&pair};
    Wire__Query query = WIRE__QUERY__INIT;
    Wire__Leave leave = WIRE__LEAVE__INIT;
    ProtobufCBinaryData key = {3, (uint8_t *)"key"};

    launch(&l, 0, "anna");
    launch(&l, 1, "anna");
    join(&l, 2, "anna", 0);
    say_ok(&l, 2, 1);
    say_error(&l, 2, 2);
    SAY(&l, 2, 9, 0, LEAVE, &leave);
    launch(&l, 3, "anna");
    save(dir, "wire_server", "launch", &l);
    barrier.name = (char *)"restart";
    pair.key = pair.value = key;
    publish.n_pair = 1;
    publish.pair = pairs;
    query.n_key = 1;
    query.key = &key;
    for (int i = 0; i < 2; i++) {
        join(&r, i, i ? "berta" : "anna", 1);
        SAY(&r, i, 2, 0, PUBLISH, &publish);
        SAY(&r, i, 3, 0, BARRIER, &barrier);
    }
    SAY(&r, 0, 4, 0, QUERY, &query);
    join(&r, 0, "anna", 0);
    command(&r, 2, WIRE__COMMAND__OP__FORCE_RESTART, 1);
    join(&r, 1, "berta", 0);
    command(&r, 2, WIRE__COMMAND__OP__CHECKPOINT, 0);
    save(dir, "wire_server", "restart", &r);
}

/* The client's greeting, and both ends' frames after it, cut into chunks. */
static void frames(const char *dir)
{
    static const unsigned char key[WIRE_KEY_SIZE] = "fuzzed";
    struct wire *client = wire_new(WIRE_CLIENT, key), *coordinator = wire_new(WIRE_COORDINATOR, key);
    struct seed to_coordinator = {.len = 0}, to_client = {.len = 0}, sealed = {.len = 0}, config = {.len = 0};
    const unsigned char *out;
    Wire__TracerConfig c = WIRE__TRACER_CONFIG__INIT;
    Wire__Msg *msg = NULL;
    struct err err;
    size_t n;

    if (!client || !coordinator)
        return;
    n = wire_output(client, &out);
    put_byte(&to_coordinator, 0);
    put_byte(&to_coordinator, (unsigned)n - 1);
    put(&to_coordinator, out, n);
    if (wire_feed(coordinator, out, n, &err) == 0 && wire_next(coordinator, &msg, &err) == 0) {
        n = wire_output(coordinator, &out);
        put_byte(&to_client, 1);
        put_byte(&to_client, (unsigned)n - 1);
        put(&to_client, out, n);
    }
    save(dir, "wire_fuzz", "to-coordinator", &to_coordinator);
    save(dir, "wire_fuzz", "to-client", &to_client);
    put_byte(&sealed, 5);
    join(&sealed, -1, "anna", 1);
    command(&sealed, -1, WIRE__COMMAND__OP__LIST, 1);
    phase_done(&sealed, -1, 4, WIRE__PHASE__ID__WRITE);
    launch(&sealed, -1, "berta");
    save(dir, "wire_fuzz", "sealed", &sealed);
    c.host = (char *)"localhost";
    c.port = 7779;
    put_byte(&config, 3);
    config.len += wire__tracer_config__pack(&c, config.data + 1);
    save(dir, "wire_fuzz", "config", &config);
    wire_free(client);
    wire_free(coordinator);
}

static void manifests(const char *dir)
{
    struct manifest *m = manifest_new("comp-1", 3, 1700000000);
    struct seed s = {.len = 0};
    char *text;

    if (!m || manifest_add_host(m, "anna", "boot", 4026531836u, "/ckpt") < 0 ||
        manifest_add_image(m, 0, "/ckpt/it's \"a\"\n.dmtcp", 4096, "a b", 10, 1) < 0 ||
        manifest_add_image(m, 0, "/ckpt/b.dmtcp", 1, "b", 11, 0) < 0)
        return;
    text = manifest_format(m);
    if (text)
        put(&s, text, strlen(text));
    save(dir, "wire_manifest", "two-images", &s);
    free(text);
    manifest_free(m);
}

int main(int argc, char **argv)
{
    if (argc != 2)
        return 2;
    checkpoints(argv[1]);
    launches_and_restarts(argv[1]);
    frames(argv[1]);
    manifests(argv[1]);
    return 0;
}
