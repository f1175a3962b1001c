/* Small files that other programs wait for: they must never see half of one. See port_file.h. */
#include "coordinator/port_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/util.h"

int whole_file_write(const char *path, const char *text, unsigned mode, struct err *err)
{
    _cleanup_free_ char *tmp = format("%s.%d.tmp", path, (int)getpid());
    _cleanup_close_ int fd = -1;
    struct stat st;
    int direct = stat(path, &st) == 0 && !S_ISREG(st.st_mode), r;

    if (!tmp)
        return err_set(err, ENOMEM, "out of memory");
    fd = direct ? open(path, O_WRONLY | O_CLOEXEC | O_NOCTTY)
                : open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, mode);
    if (fd < 0)
        return err_errno(err, "%s", path);
    r = write_full(fd, text, strlen(text));
    if (r == 0 && !direct && rename(tmp, path) < 0)
        r = -errno;
    if (r < 0 && !direct)
        unlink(tmp);
    return r < 0 ? err_set(err, -r, "%s: %s", path, strerror(-r)) : 0;
}

int port_file_write(const char *path, int port, struct err *err)
{
    char text[16];

    snprintf(text, sizeof(text), "%d\n", port);
    return whole_file_write(path, text, 0644, err);
}
