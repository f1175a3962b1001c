/* See kernelmem.h. The program is run by hand (BPF_PROG_TEST_RUN), and is attached to nothing. */
#include "tracer/kernelmem.h"

#include <errno.h>
#include <linux/bpf.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "base/util.h"

#define WINDOW 65536u

#define INSN(c, d, s, o, i)                                                                                  \
    {                                                                                                        \
        .code = (c), .dst_reg = (d), .src_reg = (s), .off = (o), .imm = (i)                                  \
    }

static int bpf(int what, union bpf_attr *a)
{
    return (int)syscall(SYS_bpf, what, a, sizeof(*a));
}

/* (address, length): read that into the window; address 0: put the caller's task there. */
static int load(int map)
{
    const struct bpf_insn code[] = {
        INSN(BPF_LDX | BPF_MEM | BPF_DW, BPF_REG_3, BPF_REG_1, 0, 0),
        INSN(BPF_LDX | BPF_MEM | BPF_DW, BPF_REG_2, BPF_REG_1, 8, 0),
        INSN(BPF_LD | BPF_DW | BPF_IMM, BPF_REG_6, BPF_PSEUDO_MAP_VALUE, 0, map),
        INSN(0, 0, 0, 0, 0),
        INSN(BPF_JMP | BPF_JEQ | BPF_K, BPF_REG_3, 0, 4, 0),
        INSN(BPF_ALU64 | BPF_AND | BPF_K, BPF_REG_2, 0, 0, WINDOW - 1),
        INSN(BPF_ALU64 | BPF_MOV | BPF_X, BPF_REG_1, BPF_REG_6, 0, 0),
        INSN(BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_probe_read_kernel),
        INSN(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
        INSN(BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_get_current_task),
        INSN(BPF_STX | BPF_MEM | BPF_DW, BPF_REG_6, BPF_REG_0, 0, 0),
        INSN(BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_0, 0, 0, 0),
        INSN(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
    };
    union bpf_attr a;

    memset(&a, 0, sizeof(a));
    a.prog_type = BPF_PROG_TYPE_RAW_TRACEPOINT;
    a.insns = (uint64_t)code;
    a.insn_cnt = ARRAY_SIZE(code);
    a.license = (uint64_t) "Dual MIT/GPL"; /* the helper is for such only */
    return bpf(BPF_PROG_LOAD, &a);
}

int kernelmem_open(struct kernelmem *k, struct err *err)
{
    union bpf_attr a;
    void *p;

    *k = (struct kernelmem){.map = -1, .prog = -1};
    memset(&a, 0, sizeof(a));
    a.map_type = BPF_MAP_TYPE_ARRAY;
    a.key_size = sizeof(uint32_t);
    a.value_size = WINDOW;
    a.max_entries = 1;
    a.map_flags = BPF_F_MMAPABLE;
    k->map = bpf(BPF_MAP_CREATE, &a);
    k->prog = k->map < 0 ? -1 : load(k->map);
    p = k->prog < 0 ? MAP_FAILED : mmap(NULL, WINDOW, PROT_READ, MAP_SHARED, k->map, 0);
    if (p == MAP_FAILED) {
        err_errno(err, "reading the kernel's memory");
        kernelmem_close(k);
        return -err->code;
    }
    k->window = p;
    return 0;
}

void kernelmem_close(struct kernelmem *k)
{
    if (k->window)
        munmap(k->window, WINDOW);
    if (k->prog > 0)
        close(k->prog);
    if (k->map > 0)
        close(k->map);
    *k = (struct kernelmem){0};
}

static int run(struct kernelmem *k, uint64_t addr, uint64_t n, struct err *err)
{
    uint64_t ctx[2] = {addr, n};
    union bpf_attr a;

    memset(&a, 0, sizeof(a));
    a.test.prog_fd = (uint32_t)k->prog;
    a.test.ctx_in = (uint64_t)ctx;
    a.test.ctx_size_in = sizeof(ctx);
    if (bpf(BPF_PROG_TEST_RUN, &a) < 0)
        return err_errno(err, "reading the kernel's memory");
    return a.test.retval ? err_set(err, EFAULT, "reading the kernel's memory: there is none") : 0;
}

int kernelmem_read(struct kernelmem *k, uint64_t addr, void *to, size_t n, struct err *err)
{
    for (size_t done = 0, part; done < n; done += part) {
        part = n - done < WINDOW / 2 ? n - done : WINDOW / 2;
        if (!addr)
            return err_set(err, EFAULT, "reading the kernel's memory: there is none");
        if (run(k, addr + done, part, err) < 0)
            return -err->code;
        memcpy((char *)to + done, k->window, part);
    }
    return 0;
}

int kernelmem_current(struct kernelmem *k, uint64_t *addr, struct err *err)
{
    if (run(k, 0, 0, err) < 0)
        return -err->code;
    memcpy(addr, k->window, sizeof(*addr));
    return 0;
}
