/* What the files about objects and descriptors share, beyond restore.h. */
#ifndef RESTORER_FD_H
#define RESTORER_FD_H

#include "restorer/restore.h"

/* Status flags that open(2) may be given from an image; all others are dropped. */
uint32_t open_flags(const Ofd *m);

/* A description of our own of what `fd` refers to, with exactly these flags. -errno. */
int reopen(int fd, uint32_t flags);

/* Put the content that the image holds for object o into fd, which has `size` bytes and is empty. */
int fill_file(const struct robject *o, int fd, uint64_t size, struct err *err);

/* objects.c: all kinds' arm, called by arm_objects(). */
int arm_kinds(struct restore *r, struct err *err);

#endif
