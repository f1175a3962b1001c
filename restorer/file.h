/* Files at a restart: filecheck.c decides before anything is touched, file.c does it, nameless.c makes files
 * without name. */
#ifndef RESTORER_FILE_H
#define RESTORER_FILE_H

#include "image/file.pb-c.h"
#include "restorer/restore.h"

enum file_plan {
    FILE_AS_IT_IS,
    FILE_CUT_BACK,   /* it has grown, and the tree was writing it */
    FILE_RECREATE,   /* it is gone; its content was saved */
    FILE_OVERWRITE,  /* it has changed; its content was saved */
    FILE_NAMELESS,   /* its content goes into a file that nobody else can see */
    FILE_OF_PROCESS, /* below /proc/PID of the tree: there only when the processes are */
    FILE_OF_NOBODY,  /* below /proc/PID of another process, which has ended */
};

struct rfile {
    enum file_plan plan;
    char *path; /* of the object, NUL-terminated */
    bool made;
    int map_read, map_write; /* -1: not opened yet */
    int original; /* nameless.c: the description that made the file, -1: not wanted, or given away */
    uint32_t original_flags;
};

/* robject.fd becomes an O_PATH handle of what is there, if the plan needs one. */
int file_prepare(struct restore *r, struct robject *o, struct err *err);

/* What follows "/proc/PID/" in the path of a file there, which is not of the tree; NULL: it is another file.
 */
const char *file_below_proc_pid(const File *m, const char *path);

/* Make a file with the saved content and no name; o->fd becomes a handle of it. */
int nameless_file(struct restore *r, struct robject *o, struct err *err);
/*
 * The description that made the file has flags that no other can get; the first description of the program
 * that was of the same kind is it. True: *fd is that, the caller's.
 */
bool nameless_first(struct rfile *f, const struct rofd *d, int *fd);

#endif
