/* Page contents into images: used by write.c, and by kinds whose objects have pages (shm.c, file.c). */
#ifndef TRACER_MEMORY_H
#define TRACER_MEMORY_H

#include "tracer/ckpt.h"
#include "tracer/collect.h"

/* Runs of pages, ascending; runs that touch are joined. */
struct page_list {
    struct page_run *runs;
    size_t n, cap;
    uint64_t bytes;
};
int page_list_add(struct page_list *l, uint64_t start, uint64_t end, struct err *err);
void page_list_free(struct page_list *l);

/* Replace what collect_pages() found; takes the list over. */
void set_page_runs(struct proc *p, struct page_list *l);

/*
 * Store the private pages of all processes (their writers are open); progress may be called by several threads.
 * First those that the processes alone have, then, later, those of their snapshots.
 */
int store_pages(struct ckpt *c, bool later, void (*progress)(void *arg, uint64_t bytes), void *arg, struct err *err);

/* Put len bytes (whole pages) at addr of space, leaving out pages that are zero. Thread-safe. */
int put_pages(struct image_writer *w, uint64_t space, uint64_t addr, const void *data, uint32_t len, struct err *err);

/* Read a process's memory whatever its protection says. */
int read_memory(pid_t pid, uint64_t addr, void *buf, uint32_t len, struct err *err);

#endif
