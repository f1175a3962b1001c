/*
 * dmtcp_inspect --bt: backtraces of the threads in an image. They are not in it, so that a checkpoint does not
 * wait for them: libunwind walks the saved registers and pages, and reads symbols and unwind tables from the
 * program's files, by the names in the image.
 *
 * libunwind-ptrace finds these files by an address in /proc/PID/maps, so the code of the image's process is mapped
 * (never executed) at its addresses into this process, one image after the other.
 */
#include <errno.h>
#include <fcntl.h>
#include <libunwind-ptrace.h>
#include <limits.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/user.h>

#include "base/util.h"
#include "image/file.pb-c.h"
#include "image/inspect.h"
#include "image/thread.pb-c.h"
#include "image/vma.h"

#define MAX_FRAMES 64

/* What libunwind reads of a thread. It hands out only its own argument, so the one that is walked is here. */
static struct walked {
    const struct set *set;
    const struct view *view;
    const struct user_regs_struct *regs;
    void *upt;
    const Vma *file_vma; /* the one that file_fd is open for */
    int file_fd;
    uint64_t chunk_addr; /* what buf holds */
    uint32_t chunk_len;
    uint8_t buf[IMAGE_CHUNK_MAX];
} *walked;

static const Vma *find_vma(const Mm *mm, uint64_t addr)
{
    for (size_t i = 0; i < mm->n_vmas; i++)
        if (addr >= mm->vmas[i]->start && addr < mm->vmas[i]->end)
            return mm->vmas[i];
    return NULL;
}

static bool path_of(const File *f, char path[PATH_MAX])
{
    if (f->deleted || f->proc_pid || !f->path.len || f->path.len >= PATH_MAX)
        return false;
    memcpy(path, f->path.data, f->path.len);
    path[f->path.len] = '\0';
    return true;
}

/* By the name in the image: only a regular file is ever opened. */
static int open_file(const struct set *s, const struct view *v, const Vma *m)
{
    const struct object *o = m->kind == VMA_FILE ? set_object(s, v, m->object) : NULL;
    char path[PATH_MAX];
    struct stat st;
    int fd;

    if (!o || o->kind != KIND_FILE || !path_of((const File *)o->message, path))
        return -1;
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd >= 0 && (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))) {
        close(fd);
        fd = -1;
    }
    return fd;
}

/* From the image's chunks, into w->buf. */
static bool load_chunk(struct walked *w, const struct view *v, uint64_t addr)
{
    size_t n;
    const struct image_chunk *c = image_chunks(v->img, IMAGE_SPACE_PRIVATE, &n);
    struct err ignored;

    for (size_t i = 0; i < n && c[i].addr <= addr; i++)
        if (addr - c[i].addr < c[i].len) {
            if (image_read_chunk(v->img, &c[i], w->buf, &ignored) < 0)
                return false;
            w->chunk_addr = c[i].addr;
            w->chunk_len = c[i].len;
            return true;
        }
    return false;
}

static bool read_saved(struct walked *w, uint64_t addr, void *to, size_t len)
{
    const Mm *mm = w->view->mm;

    if (addr - w->chunk_addr >= w->chunk_len || w->chunk_len - (addr - w->chunk_addr) < len) {
        const struct view *v = w->view;
        w->chunk_len = 0;
        for (size_t i = 0; i < mm->n_inherited; i++)
            if (addr >= mm->inherited[i]->start && addr < mm->inherited[i]->end)
                v = set_process(w->set, v, mm->inherit_from);
        if (!v || !load_chunk(w, v, addr) || w->chunk_len - (addr - w->chunk_addr) < len)
            return false;
    }
    memcpy(to, w->buf + (addr - w->chunk_addr), len);
    return true;
}

static bool read_mapped(struct walked *w, const Vma *m, uint64_t addr, void *to, size_t len)
{
    if (w->file_vma != m) {
        if (w->file_fd >= 0)
            close(w->file_fd);
        w->file_fd = open_file(w->set, w->view, m);
        w->file_vma = m;
    }
    return w->file_fd >= 0 && pread(w->file_fd, to, len, (off_t)(m->offset + (addr - m->start))) == (ssize_t)len;
}

static int access_mem(unw_addr_space_t as, unw_word_t addr, unw_word_t *word, int write, void *arg)
{
    const Mm *mm = walked->view->mm;
    const Vma *m = find_vma(mm, addr);

    (void)as, (void)arg;
    if (write || !m || m->end - addr < sizeof(*word))
        return -UNW_EINVAL;
    if (m->kind == VMA_VDSO && addr - m->start <= mm->vdso_content.len &&
        mm->vdso_content.len - (addr - m->start) >= sizeof(*word)) {
        memcpy(word, mm->vdso_content.data + (addr - m->start), sizeof(*word));
        return 0;
    }
    if (read_saved(walked, addr, word, sizeof(*word)) || read_mapped(walked, m, addr, word, sizeof(*word)))
        return 0;
    *word = 0; /* pages that were never written */
    return m->kind == VMA_ANON ? 0 : -UNW_EINVAL;
}

static int access_reg(unw_addr_space_t as, unw_regnum_t reg, unw_word_t *value, int write, void *arg)
{
    const struct user_regs_struct *r = walked->regs;
    const unsigned long long regs[] = {
        [UNW_X86_64_RAX] = r->rax, [UNW_X86_64_RDX] = r->rdx, [UNW_X86_64_RCX] = r->rcx, [UNW_X86_64_RBX] = r->rbx,
        [UNW_X86_64_RSI] = r->rsi, [UNW_X86_64_RDI] = r->rdi, [UNW_X86_64_RBP] = r->rbp, [UNW_X86_64_RSP] = r->rsp,
        [UNW_X86_64_R8] = r->r8,   [UNW_X86_64_R9] = r->r9,   [UNW_X86_64_R10] = r->r10, [UNW_X86_64_R11] = r->r11,
        [UNW_X86_64_R12] = r->r12, [UNW_X86_64_R13] = r->r13, [UNW_X86_64_R14] = r->r14, [UNW_X86_64_R15] = r->r15,
        [UNW_X86_64_RIP] = r->rip,
    };

    (void)as, (void)arg;
    if (write || reg < 0 || (size_t)reg >= ARRAY_SIZE(regs))
        return -UNW_EBADREG;
    *value = regs[reg];
    return 0;
}

static int access_fpreg(unw_addr_space_t as, unw_regnum_t reg, unw_fpreg_t *value, int write, void *arg)
{
    (void)as, (void)reg, (void)value, (void)write, (void)arg;
    return -UNW_EBADREG;
}

static int no_dyn_info(unw_addr_space_t as, unw_word_t *list, void *arg)
{
    (void)as, (void)list, (void)arg;
    return -UNW_ENOINFO;
}

static int cannot_resume(unw_addr_space_t as, unw_cursor_t *cursor, void *arg)
{
    (void)as, (void)cursor, (void)arg;
    return -UNW_EINVAL;
}

static int add_frame(Thread *t, unw_cursor_t *cursor)
{
    unw_word_t ip = 0, off = 0;
    char name[256] = "";
    Frame **frames = realloc(t->backtrace, (t->n_backtrace + 1) * sizeof(*frames)), *f;

    if (frames)
        t->backtrace = frames;
    f = frames ? malloc(sizeof(*f)) : NULL;
    if (!f || unw_get_reg(cursor, UNW_REG_IP, &ip) < 0 || !ip) {
        free(f);
        return -1;
    }
    frame__init(f);
    f->ip = ip;
    if (unw_get_proc_name(cursor, name, sizeof(name), &off) == 0 || name[0]) {
        f->symbol.data = (uint8_t *)strdup(name);
        f->symbol.len = f->symbol.data ? strlen(name) : 0;
        f->offset = off;
    }
    t->backtrace[t->n_backtrace++] = f;
    return 0;
}

static void walk(struct walked *w, unw_addr_space_t as, Thread *t)
{
    struct user_regs_struct regs;
    unw_cursor_t cursor;

    if (t->regs.len != sizeof(regs) || t->n_backtrace)
        return;
    memcpy(&regs, t->regs.data, sizeof(regs));
    w->regs = &regs;
    if (unw_init_remote(&cursor, as, w->upt) == 0)
        while (t->n_backtrace < MAX_FRAMES && add_frame(t, &cursor) == 0 && unw_step(&cursor) > 0)
            ;
}

/* Map (or unmap again) the code of a process. What is taken here is left out; frames there have no names then. */
static void map_code(const struct set *s, const struct view *v, bool *mapped)
{
    for (size_t i = 0; i < v->mm->n_vmas; i++) {
        const Vma *m = v->mm->vmas[i];
        _cleanup_close_ int fd = -1;
        void *p;

        if (m->kind != VMA_FILE || !(m->prot & PROT_EXEC) || m->end <= m->start)
            continue;
        if (mapped[i]) {
            munmap((void *)m->start, m->end - m->start);
            continue;
        }
        fd = open_file(s, v, m);
        if (fd < 0)
            continue;
        p = mmap((void *)m->start, m->end - m->start, PROT_READ, MAP_PRIVATE | MAP_FIXED_NOREPLACE, fd, (off_t)m->offset);
        mapped[i] = p == (void *)m->start;
        if (p != MAP_FAILED && !mapped[i])
            munmap(p, m->end - m->start);
    }
}

/* The threads in an image; their memory may be that of another process (clone(2) with CLONE_VM). */
static void walk_process(struct walked *w, unw_addr_space_t as, const struct view *threads)
{
    const struct view *v = w->view;
    _cleanup_free_ bool *mapped = calloc(v->mm->n_vmas + 1, sizeof(*mapped));

    if (!mapped)
        return;
    map_code(w->set, v, mapped);
    w->upt = _UPT_create(getpid());
    for (size_t i = 0; w->upt && i < threads->n_records; i++)
        if (threads->records[i].kind == KIND_THREAD && threads->messages[i])
            walk(w, as, (Thread *)threads->messages[i]);
    if (w->upt)
        _UPT_destroy(w->upt);
    map_code(w->set, v, mapped);
    if (w->file_fd >= 0)
        close(w->file_fd);
    w->file_fd = -1;
    w->file_vma = NULL;
    w->chunk_len = 0;
    unw_flush_cache(as, 0, 0);
}

int inspect_backtraces(struct set *s, struct err *err)
{
    unw_accessors_t a = {
        .find_proc_info = _UPT_find_proc_info, .put_unwind_info = _UPT_put_unwind_info,
        .get_dyn_info_list_addr = no_dyn_info, .access_mem = access_mem, .access_reg = access_reg,
        .access_fpreg = access_fpreg, .resume = cannot_resume, .get_proc_name = _UPT_get_proc_name,
    };
    unw_addr_space_t as = unw_create_addr_space(&a, 0);

    err->code = 0;
    walked = calloc(1, sizeof(*walked));
    if (as && walked) {
        walked->set = s;
        walked->file_fd = -1;
        for (size_t i = 0; i < s->n_views; i++) {
            const struct view *v = s->views[i];

            walked->view = v->mm || !v->process ? v : set_process(s, v, v->process->mm_owner);
            if (walked->view && walked->view->mm)
                walk_process(walked, as, v);
        }
    }
    if (!as || !walked)
        err_set(err, ENOMEM, "out of memory");
    if (as)
        unw_destroy_addr_space(as);
    free(walked);
    walked = NULL;
    return err->code ? -err->code : 0;
}
