/*
 * Files that appear under their name whole or not at all. The data goes to a file without a name
 * (or, where the file system can't do that, to NAME.tmp.XXXXXXXX), and gets its name when
 * it is complete and on the disk. Whoever dies before leaves nothing behind (or the .tmp file).
 */
#ifndef IMAGE_FILE_H
#define IMAGE_FILE_H

#include "base/err.h"

struct image_file;

/*
 * Begin a file called `name` (no slash) in the directory dirfd (AT_FDCWD: the current one), mode 0600, to
 * be written through image_file_fd(). dirfd and name are copied. -ENOSPC, -EACCES, -EROFS…
 */
int image_file_create(struct image_file **f, int dirfd, const char *name, struct err *err);
int image_file_fd(const struct image_file *f);

/* fsync(2). For the phase in which all images of a generation are made durable, before any gets its name. */
int image_file_sync(struct image_file *f, struct err *err);

/*
 * Give it its name, in place of what had that name before. Syncs the data first unless
 * image_file_sync() came after the last write, or `durable` is 0. The name itself is durable after
 * image_dir_sync().
 */
int image_file_publish(struct image_file *f, int durable, struct err *err);

/* Close; what was not published is gone. NULL does nothing. */
void image_file_free(struct image_file *f);

/* fsync(2) of a directory, so that names given in it survive a power cut. */
int image_dir_sync(int dirfd, struct err *err);

#endif
