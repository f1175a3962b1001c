/*
 * The memory map of an image, as lines like those of /proc/PID/maps, each with how much of it the image
 * holds. What is not held reads as zero, comes from the file again, or is shared with another process.
 */
#include <inttypes.h>
#include <sys/mman.h>

#include "base/util.h"
#include "image/inspect.h"
#include "image/vma.h"

static const char *vma_kind_name(uint32_t kind)
{
    static const char *const names[] = {
        [VMA_ANON] = "anon", [VMA_FILE] = "file",       [VMA_SHM] = "shm",
        [VMA_VDSO] = "vdso", [VMA_VVAR] = "vvar",       [VMA_SYSV] = "sysv",
        [VMA_AIO] = "aio",   [VMA_IOURING] = "iouring", [VMA_VSYSCALL] = "vsyscall",
    };

    return kind < ARRAY_SIZE(names) && names[kind] ? names[kind] : "unknown";
}

/* Bytes of chunks in [start, end); *i walks over the chunks once for all mappings. */
static uint64_t bytes_between(const struct image_chunk *c, size_t n, size_t *i, uint64_t start, uint64_t end)
{
    uint64_t sum = 0;

    while (*i < n && c[*i].addr + c[*i].len <= start)
        (*i)++;
    for (; *i < n && c[*i].addr < end; (*i)++) {
        uint64_t from = c[*i].addr > start ? c[*i].addr : start;
        uint64_t to = c[*i].addr + c[*i].len;

        sum += (to < end ? to : end) - from;
        if (to > end)
            break; /* the next mapping has the rest of it */
    }
    return sum;
}

static void print_advice(FILE *out, uint64_t advice)
{
    static const char *const names[] = {"dontfork",   "wipeonfork", "dontdump", "mergeable", "hugepage",
                                        "nohugepage", "sequential", "random",   "locked",    "lockonfault",
                                        "droppable",  "sealed",     "heap",     "stack"};

    for (size_t i = 0; i < ARRAY_SIZE(names); i++)
        if (advice & (1ull << i))
            fprintf(out, " %s", names[i]);
}

static void print_vma(FILE *out, const struct set *s, const struct view *v, const Vma *m, uint64_t held)
{
    char size[2][16];

    fprintf(out, "    %012" PRIx64 "-%012" PRIx64 " %c%c%c%c %10s %10s  ", m->start, m->end,
            m->prot & PROT_READ ? 'r' : '-', m->prot & PROT_WRITE ? 'w' : '-',
            m->prot & PROT_EXEC ? 'x' : '-', (m->flags & MAP_TYPE) == MAP_PRIVATE ? 'p' : 's',
            print_size(size[0], m->end - m->start), held ? print_size(size[1], held) : "-");
    if (m->object) {
        print_object(out, set_object(s, v, m->object), m->object);
        fprintf(out, " +0x%" PRIx64, m->offset);
    } else {
        fputs(vma_kind_name(m->kind), out);
    }
    if (m->name.len) {
        fputs(" [", out);
        print_text(out, m->name.data, m->name.len);
        fputc(']', out);
    }
    print_advice(out, m->advice);
    fputc('\n', out);
}

void inspect_memory(FILE *out, const struct set *s, const struct view *v)
{
    static const char *const apart[] = {"vmas", "vdso_content", "auxv", NULL};
    const struct print_limits limits = {.elements = 8, .bytes = 64};
    const Mm *mm = v->mm;
    const struct image_chunk *c;
    uint64_t before = 0;
    size_t n, at = 0;

    c = image_chunks(v->img, IMAGE_SPACE_PRIVATE, &n);
    fprintf(out, "  memory: %zu mappings ", mm->n_vmas);
    print_fields(out, &mm->base, apart, &limits);
    fputs("\n    address                   perm       size    in image  what\n", out);
    for (size_t i = 0; i < mm->n_vmas; i++) {
        const Vma *m = mm->vmas[i];

        if (m->start < before || m->end < m->start) {
            fputs("    (the rest is out of order)\n", out);
            return;
        }
        before = m->end;
        print_vma(out, s, v, m, bytes_between(c, n, &at, m->start, m->end));
    }
}
