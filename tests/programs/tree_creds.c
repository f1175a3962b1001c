/*
 * Credentials that only root can have: processes with different real, effective, saved and file system ids,
 * supplementary groups, and each of the five capability sets, securebits and no_new_privs.
 */
#include <grp.h>
#include <stdio.h>
#include <string.h>
#include <sys/capability.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <linux/securebits.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"

static const char *const lines[] = {"Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs"};

#define LINES (sizeof(lines) / sizeof(lines[0]))

struct creds {
    char text[LINES][400];
    long securebits, keepcaps;
};

static void look(struct creds *c)
{
    unsigned i;

    for (i = 0; i < LINES; i++)
        check_status_line("self", lines[i], c->text[i], sizeof(c->text[i]));
    c->securebits = MUST(prctl(PR_GET_SECUREBITS));
    c->keepcaps = MUST(prctl(PR_GET_KEEPCAPS));
}

static void set_caps(unsigned effective, unsigned permitted, unsigned inheritable)
{
    struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2] = {{effective, permitted, inheritable}, {0, 0, 0}};

    MUST(syscall(SYS_capset, &head, data));
}

#define BIT(cap) (1u << (cap))

static void all_groups(void)
{
    gid_t groups[40];
    int i;

    for (i = 0; i < 40; i++)
        groups[i] = (gid_t)(10000 + i * 3);
    MUST(setgroups(40, groups));
    MUST(setresgid(1001, 1002, 1003));
}

static void mixed_ids(void)
{
    MUST(setgroups(0, NULL));
    MUST(setresgid(5, 6, 7));
    MUST(setresuid(1000, 1001, 0));
}

static void some_caps(void)
{
    MUST(prctl(PR_SET_KEEPCAPS, 1));
    MUST(setresuid(2000, 2000, 2000));
    set_caps(BIT(CAP_CHOWN), BIT(CAP_CHOWN) | BIT(CAP_NET_BIND_SERVICE), BIT(CAP_CHOWN) | BIT(CAP_KILL));
    MUST(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_CHOWN, 0, 0));
}

static void bounded(void)
{
    MUST(prctl(PR_CAPBSET_DROP, CAP_SYS_MODULE));
    MUST(prctl(PR_CAPBSET_DROP, CAP_NET_RAW));
    MUST(prctl(PR_SET_SECUREBITS, SECBIT_NOROOT | SECBIT_NO_SETUID_FIXUP | SECBIT_KEEP_CAPS_LOCKED));
}

static void fs_ids(void)
{
    setfsgid(3001);
    setfsuid(3000);
}

static void unprivileged(void)
{
    MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    MUST(setgroups(1, (gid_t[]){77}));
    MUST(setresgid(3001, 3001, 3001));
    MUST(setresuid(3000, 3000, 3000));
}

static const struct {
    const char *name;
    void (*set)(void);
} kinds[] = {
    {"supplementary groups and group ids", all_groups}, {"mixed user ids", mixed_ids},
    {"some capabilities", some_caps},                   {"bounding set and securebits", bounded},
    {"file system ids", fs_ids},                        {"unprivileged with no_new_privs", unprivileged},
};

#define KINDS (sizeof(kinds) / sizeof(kinds[0]))

static void run(unsigned kind, int up)
{
    struct creds before, after;
    unsigned i;

    kinds[kind].set();
    look(&before);
    MUST(write(up, "x", 1));
    check_idle();
    if (check_broken() && kind == 3)
        MUST(prctl(PR_CAPBSET_DROP, CAP_SYS_BOOT));
    look(&after);
    for (i = 0; i < LINES; i++) {
        char what[100];

        snprintf(what, sizeof(what), "%s: %s", kinds[kind].name, lines[i]);
        check_str(before.text[i], after.text[i], what);
    }
    check_num(before.securebits, after.securebits, "%s: securebits", kinds[kind].name);
    check_num(before.keepcaps, after.keepcaps, "%s: keepcaps", kinds[kind].name);
    _exit(check_status());
}

int main(int argc, char **argv)
{
    pid_t pids[KINDS];
    int up[2];
    unsigned i;
    char c;

    check_init(argc, argv);
    if (geteuid() != 0)
        check_skip("only root can change credentials");
    MUST(pipe(up));
    for (i = 0; i < KINDS; i++) {
        pids[i] = (pid_t)MUST(fork());
        if (pids[i] == 0)
            run(i, up[1]);
        if (read(up[0], &c, 1) != 1)
            check_die("a child did not come up");
    }

    check_wait();

    for (i = 0; i < KINDS; i++)
        check_child(pids[i], kinds[i].name);
    return check_end();
}
