/*
 * A key in the process's own keyring (keyrings(7)), which is gone with the process: a checkpoint is refused, and the key
 * is still there.
 */
#include <linux/keyctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests/programs/check.h"

int main(int argc, char **argv)
{
    static const char secret[] = "a secret";
    char got[sizeof(secret)] = "";
    long key;

    check_init(argc, argv);
    key = syscall(SYS_add_key, "user", "dmtcp-test", secret, sizeof(secret), KEY_SPEC_PROCESS_KEYRING);
    if (key < 0)
        check_skip("add_key(2)");
    check_wait();
    if (check_broken())
        MUST(syscall(SYS_keyctl, KEYCTL_REVOKE, key));
    check_num(sizeof(secret), syscall(SYS_keyctl, KEYCTL_READ, key, got, sizeof(got)), "length of the key");
    check_mem(secret, got, sizeof(secret), "key");
    return check_end();
}
