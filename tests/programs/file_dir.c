/*
 * Directories and O_PATH: a directory that is half read goes on where it was, a directory descriptor serves
 * openat(), one whose directory is gone still is one; O_PATH descriptors of a file, a symbolic link and a
 * directory.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"

#define ENTRIES 500

struct kernel_dirent {
    uint64_t ino;
    int64_t off;
    unsigned short reclen;
    unsigned char type;
    char name[];
};

static bool seen[ENTRIES];

/* One call of getdents64 with a small buffer; counts the entries. */
static int read_some(int fd)
{
    _Alignas(8) char buf[1024];
    long n = MUST(syscall(SYS_getdents64, fd, buf, sizeof(buf))), at;
    int count = 0;

    for (at = 0; at < n;) {
        struct kernel_dirent *d = (struct kernel_dirent *)(buf + at);
        int number = -1;

        if (sscanf(d->name, "e%d", &number) == 1 && number >= 0 && number < ENTRIES) {
            check_true(!seen[number], "entry %s comes twice", d->name);
            seen[number] = true;
        }
        at += d->reclen;
        count++;
    }
    return count;
}

static void make_entries(void)
{
    char name[64];
    int i;

    MUST(mkdir(check_path("dir"), 0755));
    for (i = 0; i < ENTRIES; i++) {
        snprintf(name, sizeof(name), "dir/e%d", i);
        check_spit(check_path(name), name, strlen(name));
    }
}

int main(int argc, char **argv)
{
    int dir, gone, path_file, path_link, path_dir, fd, count = 0, n, i;
    char buf[600] = "", link[64];
    struct stat st;
    DIR *stream;

    check_init(argc, argv);
    make_entries();
    dir = (int)MUST(open(check_path("dir"), O_RDONLY | O_DIRECTORY));
    for (i = 0; i < 5; i++)
        count += read_some(dir);
    stream = opendir(check_path("dir"));
    for (i = 0; i < 100; i++)
        readdir(stream);
    MUST(mkdir(check_path("gone"), 0755));
    gone = (int)MUST(open(check_path("gone"), O_RDONLY | O_DIRECTORY));
    MUST(rmdir(check_path("gone")));
    MUST(symlink("dir/e7", check_path("link")));
    path_file = (int)MUST(open(check_path("dir/e7"), O_PATH));
    path_link = (int)MUST(open(check_path("link"), O_PATH | O_NOFOLLOW | O_CLOEXEC));
    path_dir = (int)MUST(open(check_path("dir"), O_PATH | O_DIRECTORY));

    check_wait();

    if (check_broken())
        MUST(lseek(dir, 0, SEEK_SET));
    while ((n = read_some(dir)) > 0)
        count += n;
    check_num(ENTRIES + 2, count, "entries of the directory");
    for (i = 0; i < ENTRIES; i++)
        check_true(seen[i], "entry e%d was never read", i);
    for (n = 100; readdir(stream); n++)
        ;
    check_num(ENTRIES + 2, n, "entries that readdir() gave");
    fd = (int)MUST(openat(path_dir, "e9", O_RDONLY));
    MUST(read(fd, buf, sizeof(buf) - 1));
    check_str("dir/e9", buf, "file opened relative to an O_PATH directory");
    check_num(-1, read(path_file, buf, 1), "read from an O_PATH descriptor");
    check_num(EBADF, errno, "errno of that");
    check_num(O_PATH, fcntl(path_file, F_GETFL) & (O_PATH | O_ACCMODE), "flags of an O_PATH descriptor");
    check_num(FD_CLOEXEC, fcntl(path_link, F_GETFD), "close-on-exec of an O_PATH descriptor");
    memset(buf, 0, sizeof(buf));
    MUST(readlinkat(path_link, "", buf, sizeof(buf) - 1));
    check_str("dir/e7", buf, "symbolic link held by O_PATH");
    MUST(fstat(gone, &st));
    check_num(S_IFDIR, st.st_mode & S_IFMT, "type of the directory that is gone");
    check_num(0, (long long)st.st_nlink, "links of the directory that is gone");
    snprintf(link, sizeof(link), "/proc/self/fd/%d", path_file);
    memset(buf, 0, sizeof(buf));
    MUST(readlink(link, buf, sizeof(buf) - 1));
    check_str(check_path("dir/e7"), buf, "name of the file held by O_PATH");
    return check_end();
}
