/* The kernel's description of its types: of this kernel, and cut off and damaged. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/util.h"
#include "tracer/btf.h"

#define PATH "/sys/kernel/btf/vmlinux"

static void this_kernel(void **state)
{
    uint32_t next, prev, len, network;
    struct btf *b = NULL;
    struct err err;
    int r = btf_open(&b, &err);

    (void)state;
    if (r == -ENOENT)
        skip();
    assert_int_equal(r, 0);
    assert_int_equal(btf_offset(b, "list_head", "next", &next, &err), 0);
    assert_int_equal(btf_offset(b, "list_head", "prev", &prev, &err), 0);
    assert_int_equal(next, 0);
    assert_int_equal(prev, sizeof(void *));
    assert_int_equal(btf_offset(b, "sk_buff", "len", &len, &err), 0);
    assert_int_equal(btf_offset(b, "sk_buff", "network_header", &network, &err), 0); /* in an unnamed part */
    assert_true(len && network && len != network);
    assert_int_equal(btf_offset(b, "sk_buff", "nothing", &len, &err), -ENOENT);
    assert_int_equal(btf_offset(b, "nothing", "len", &len, &err), -ENOENT);
    btf_free(b);
}

/* Some of all prefixes, and some with a byte changed: no crash (run it with a sanitizer), a struct or an error. */
static void damaged(void **state)
{
    _cleanup_free_ char *text = NULL;
    size_t n;

    (void)state;
    if (read_file(-1, PATH, &text, &n) < 0)
        skip();
    for (size_t i = 0; i < 40; i++) {
        size_t len = i < 20 ? i * 13 : n;
        char *copy = malloc(len + 1);
        struct btf *b = NULL;
        struct err err;
        uint32_t at;
        memcpy(copy, text, len);
        if (i >= 20)
            copy[i < 30 ? i - 20 : (i * 7919) % n] ^= 0x55;
        if (btf_parse(copy, len, &b, &err) == 0)
            btf_offset(b, "sk_buff", "network_header", &at, &err);
        else
            assert_true(i < 30 || err.code == EINVAL);
        btf_free(b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(this_kernel), cmocka_unit_test(damaged)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
