/*
 * Where a watched inode is. fdinfo of inotify and fanotify instances names inode, file system and file
 * handle, not a path, and a restart needs one.
 */
#ifndef TRACER_WATCHED_H
#define TRACER_WATCHED_H

#include "tracer/ckpt.h"

#define WATCHED_HANDLE_MAX 128

struct watched {
    uint64_t ino;
    dev_t dev; /* of the file system */
    uint32_t handle_type, handle_len;
    uint8_t handle[WATCHED_HANDLE_MAX];
};

/* From the text behind "ino:" of an fdinfo line. False when it is not of that form. */
bool watched_parse(const char *line, struct watched *w);

struct place {
    char *path;      /* from the arena; NULL: it has no name */
    struct ofd *ofd; /* then: a description of the tree that is open on it */
    struct stat st;
    int fd; /* O_PATH, or a copy of the description's: the caller's to close */
};

/* Find it. p: a process in whose mount namespace it is. -ENOENT with err when it can't be found. */
int watched_find(struct ckpt *c, const struct proc *p, const struct watched *w, struct place *found,
                 struct err *err);

#endif
