/*
 * The vDSO: kernel code in every process, at an address that the program has remembered (AT_SYSINFO_EHDR, and
 * pointers that the C library took from it). A skeleton has it where the driver had it; it is moved
 * next to the area first, so that it is in nobody's way, and to its old address in the end. On another
 * kernel its code differs: then the old code is put at the old address with each function replaced by a jump to the
 * one of the same name in the new vDSO, which stays where it is.
 */
#include <elf.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "base/util.h"
#include "image/vma.h"
#include "injector/ptrace.h"
#include "restorer/core.h"

#define PARTS_MAX 4u /* [vvar], [vvar_vclock], [vdso] */

struct vdso {
    struct {
        uint64_t start, end;
    } part[PARTS_MAX]; /* ascending; the code is the last */
    unsigned n;
    uint64_t start, end; /* of all */
    uint64_t code;       /* of the code */
    uint64_t syscall;    /* offset of a syscall instruction in the code, 0: none */
};

static int take_line(struct vdso *v, const char *line, struct err *err)
{
    uint64_t start, end;
    const char *eol = strchrnul(line, '\n');
    bool code = memmem(line, (size_t)(eol - line), "[vdso]", 6) != NULL;

    if (!code && !memmem(line, (size_t)(eol - line), "[vvar", 5))
        return 0;
    if (sscanf(line, "%" SCNx64 "-%" SCNx64, &start, &end) != 2 || v->n == PARTS_MAX ||
        (v->n && v->part[v->n - 1].end != start) || v->code)
        return err_set(err, ENOTSUP, "this kernel's vDSO is laid out in an unknown way");
    v->part[v->n].start = start;
    v->part[v->n++].end = end;
    if (code)
        v->code = start;
    return 0;
}

int vdso_locate(struct restore *r, struct err *err)
{
    _cleanup_free_ char *maps = NULL;
    struct vdso *v = restore_alloc(r, sizeof(*v));
    const uint8_t *insn;

    if (!v)
        return err_set(err, ENOMEM, "out of memory");
    r->vdso = v;
    if (read_proc(&maps, NULL, err, "self/maps") < 0)
        return -err->code;
    for (char *line = maps; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL)
        if (take_line(v, line, err) < 0)
            return -err->code;
    if (!v->code)
        return err_set(err, ENOTSUP, "this kernel has no vDSO");
    v->start = v->part[0].start;
    v->end = v->part[v->n - 1].end;
    insn = memmem((void *)v->code, v->end - v->code, "\x0f\x05", 2);
    v->syscall = insn ? (uint64_t)insn - v->code : 0;
    return 0;
}

uint64_t vdso_size(const struct restore *r)
{
    return r->vdso->end - r->vdso->start;
}

/* Move all parts from where the first is at `from` to where it is at `to`; the two may overlap only if equal. */
static void move(const struct vdso *v, struct inj_batch *b, uint64_t from, uint64_t to)
{
    for (unsigned i = 0; i < v->n && from != to; i++) {
        uint64_t off = v->part[i].start - v->start, len = v->part[i].end - v->part[i].start;

        inj_call(b, BLOB_MUST, SYS_mremap, from + off, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, to + off);
    }
}

void vdso_park(const struct restore *r, struct rproc *p, struct inj_batch *b)
{
    move(r->vdso, b, r->vdso->start, r->vdso_home);
    p->vdso = r->vdso_home + (r->vdso->code - r->vdso->start);
}

int vdso_syscall(const struct restore *r, const struct rproc *p, uint64_t *ip, struct err *err)
{
    uint64_t vdso = p->mm_home->vdso; /* placed once for all that share the memory */

    *ip = vdso + r->vdso->syscall;
    return vdso && r->vdso->syscall ? 0 : pt_find_syscall(p->inj.pid, ip, err);
}

/* --- another kernel's --- */

/* What of an ELF image in memory is needed to find its functions; all bounds are checked, as it comes from a file. */
struct elf {
    const uint8_t *at;
    size_t len;
    const Elf64_Sym *sym;
    size_t nsyms;
    const char *str;
    size_t strsz;
};

static bool inside(const struct elf *e, uint64_t off, uint64_t len)
{
    return off <= e->len && len <= e->len - off;
}

static bool elf_sections(struct elf *e)
{
    const Elf64_Ehdr *h = (const void *)e->at;

    if (!inside(e, 0, sizeof(*h)) || memcmp(h->e_ident, ELFMAG, SELFMAG) != 0 || h->e_shentsize != sizeof(Elf64_Shdr) ||
        h->e_shoff % 8 || !inside(e, h->e_shoff, (uint64_t)h->e_shnum * sizeof(Elf64_Shdr)))
        return false;
    const Elf64_Shdr *s = (const void *)(e->at + h->e_shoff);
    for (unsigned i = 0; i < h->e_shnum; i++) {
        if (s[i].sh_type != SHT_DYNSYM || s[i].sh_link >= h->e_shnum)
            continue;
        const Elf64_Shdr *str = &s[s[i].sh_link];
        if (s[i].sh_offset % 8 || !inside(e, s[i].sh_offset, s[i].sh_size) || !str->sh_size ||
            !inside(e, str->sh_offset, str->sh_size) || e->at[str->sh_offset + str->sh_size - 1])
            return false;
        e->sym = (const void *)(e->at + s[i].sh_offset);
        e->nsyms = s[i].sh_size / sizeof(Elf64_Sym);
        e->str = (const char *)e->at + str->sh_offset;
        e->strsz = str->sh_size;
        return true;
    }
    return false;
}

static const char *function(const struct elf *e, size_t i)
{
    const Elf64_Sym *s = &e->sym[i];

    if (ELF64_ST_TYPE(s->st_info) != STT_FUNC || !s->st_shndx || s->st_name >= e->strsz)
        return NULL;
    return e->str + s->st_name;
}

static uint64_t find_function(const struct elf *e, const char *name)
{
    for (size_t i = 0; i < e->nsyms; i++) {
        const char *n = function(e, i);
        if (n && !strcmp(n, name))
            return e->sym[i].st_value;
    }
    return 0;
}

/* jmp *0(%rip) and the address behind it; for a function that is no more: return -ENOSYS. */
static void patch(uint8_t *at, uint64_t to)
{
    static const uint8_t gone[] = {0x48, 0xc7, 0xc0, 0xda, 0xff, 0xff, 0xff, 0xc3};
    static const uint8_t jump[] = {0xff, 0x25, 0, 0, 0, 0};

    memcpy(at, to ? jump : gone, to ? sizeof(jump) : sizeof(gone));
    if (to)
        memcpy(at + sizeof(jump), &to, sizeof(to));
}

static int trampolines(const struct restore *r, struct rproc *p, struct err *err)
{
    const ProtobufCBinaryData *old = &p->mm->vdso_content;
    uint64_t len = (old->len + PAGE - 1) & ~(PAGE - 1);
    _cleanup_free_ uint8_t *code = malloc(old->len);
    struct elf from = {.at = code, .len = old->len};
    struct elf to = {.at = (const uint8_t *)r->vdso->code, .len = r->vdso->end - r->vdso->code};
    _cleanup_batch_ struct inj_batch b = {0};

    if (!code)
        return err_set(err, ENOMEM, "out of memory");
    memcpy(code, old->data, old->len);
    if (!elf_sections(&from) || !elf_sections(&to))
        return err_set(err, ENOTSUP, "process %d: the vDSO of another kernel, and it cannot be read", p->pid);
    for (size_t i = 0; i < from.nsyms; i++) {
        const char *name = function(&from, i);
        uint64_t there = name ? find_function(&to, name) : 0;
        if (name && inside(&from, from.sym[i].st_value, 14))
            patch(code + from.sym[i].st_value, there ? p->vdso + there : 0);
    }
    if (inj_begin(&b, &p->inj, err) < 0)
        return -err->code;
    inj_call(&b, BLOB_MUST, SYS_mmap, p->mm->vdso, len, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    if (run_batch(&b, "vDSO", err) < 0 || pt_write(p->inj.pid, p->mm->vdso, code, old->len, err) < 0)
        return -err->code;
    inj_call(&b, BLOB_MUST, SYS_mprotect, p->mm->vdso, len, PROT_READ | PROT_EXEC);
    return run_batch(&b, "vDSO", err);
}

/* The zeros behind the end of this kernel's, where the tracer puts its own (tracer/shortcall.h). */
static uint64_t tail(const struct vdso *v)
{
    const uint8_t *end = (const uint8_t *)v->end, *at = end;

    while (at > (const uint8_t *)v->code && !at[-1])
        at--;
    return (uint64_t)(end - at);
}

/* Is the image's the same code, and its data where the code will look for it? */
static bool same(const struct restore *r, const struct rproc *p)
{
    const ProtobufCBinaryData *old = &p->mm->vdso_content;
    const struct vdso *v = r->vdso;
    uint64_t data = v->code - v->start;

    if (old->len != v->end - v->code || memcmp(old->data, (void *)v->code, old->len - tail(v)) != 0 || p->mm->vdso < data)
        return false;
    /* Its data pages need room before it: of the image's own data pages only. */
    for (size_t i = 0; i < p->mm->n_vmas; i++) {
        const Vma *m = p->mm->vmas[i];
        if (m->kind != VMA_VVAR && m->kind != VMA_VDSO && m->start < p->mm->vdso + old->len &&
            m->end > p->mm->vdso - data)
            return false;
    }
    return true;
}

static int put_tail(const struct restore *r, const struct rproc *p, struct err *err)
{
    const ProtobufCBinaryData *old = &p->mm->vdso_content;
    uint64_t n = tail(r->vdso);
    const uint8_t *from = old->data + old->len - n;

    for (uint64_t i = 0; i < n; i++)
        if (from[i])
            return pt_poke(p->inj.pid, p->vdso + old->len - n, from, n, err);
    return 0;
}

int vdso_place(struct restore *r, struct rproc *p, struct inj_batch *b, struct err *err)
{
    const struct vdso *v = r->vdso;
    uint64_t data = v->code - v->start;

    if (p->mm->vdso && !same(r, p))
        return trampolines(r, p, err);
    if (p->mm->vdso) {
        move(v, b, p->vdso - data, p->mm->vdso - data);
        p->vdso = p->mm->vdso;
        return run_batch(b, "vDSO", err) < 0 ? -err->code : put_tail(r, p, err);
    } else {
        inj_call(b, BLOB_MUST, SYS_munmap, p->vdso - data, v->end - v->start);
        p->vdso = 0;
    }
    return 0;
}
