/*
 * The key file. Two programs may start at the same instant on a fresh account, so the file is completed under
 * another name and then linked: link(2) succeeds for exactly one of them, and nobody sees half a key.
 */
#include "coordinator/key.h"

#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "base/util.h"

#define HEX_SIZE (2 * WIRE_KEY_SIZE)

/* Make the directory unless it is there; it must be ours alone to write. */
static int own_directory(const char *path, struct err *err)
{
    struct stat st;

    if (mkdir(path, 0700) < 0 && errno != EEXIST)
        return err_errno(err, "%s", path);
    if (lstat(path, &st) < 0)
        return err_errno(err, "%s", path);
    if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 022))
        return err_set(err, EPERM, "%s: not a directory that only you can write", path);
    return 0;
}

static char *home_directory(void)
{
    const char *home = getenv("HOME");
    struct stat st;

    /* After sudo, HOME may be another user's: a directory of ours there would lock them out. */
    if (!home || home[0] != '/' || stat(home, &st) < 0 || !S_ISDIR(st.st_mode) || st.st_uid != geteuid())
        return NULL;
    return format("%s/.dmtcp", home);
}

char *key_path(const char *given, const char *tmpdir, struct err *err)
{
    _cleanup_free_ char *home = NULL, *tmp = NULL;

    if (given)
        return strdup(given);
    home = home_directory();
    if (home) {
        int r = own_directory(home, err);
        if (r == 0)
            return format("%s/key", home);
        if (r == -EPERM)
            return NULL; /* somebody meddles with it: say so; a home that can't be written is no reason to
                            fail */
    }
    tmp = format("%s/dmtcp-%u", tmpdir, (unsigned)geteuid());
    if (!tmp || own_directory(tmp, err) < 0)
        return NULL;
    return format("%s/key", tmp);
}

static int check_file(int fd, struct err *err)
{
    struct stat st;

    if (fstat(fd, &st) < 0)
        return err_errno(err, "stat");
    if (!S_ISREG(st.st_mode))
        return err_set(err, EPERM, "not a regular file");
    if (st.st_uid != geteuid() && geteuid() != 0)
        return err_set(err, EPERM, "belongs to another user");
    if (st.st_mode & 077)
        return err_set(err, EPERM, "others can read or write it (mode %03o, wanted 600)", st.st_mode & 0777);
    return 0;
}

static int read_key(int fd, unsigned char key[WIRE_KEY_SIZE], struct err *err)
{
    char hex[HEX_SIZE];
    size_t n = 0;
    int r = check_file(fd, err);

    if (r == 0 && pread_full(fd, hex, sizeof(hex), 0) < 0)
        r = err_set(err, EBADMSG, "too short for a key");
    if (r == 0 &&
        (sodium_hex2bin(key, WIRE_KEY_SIZE, hex, sizeof(hex), NULL, &n, NULL) != 0 || n != WIRE_KEY_SIZE))
        r = err_set(err, EBADMSG, "not a key (%d hexadecimal digits)", HEX_SIZE);
    sodium_memzero(hex, sizeof(hex));
    return r;
}

static int fill_key(int fd, struct err *err)
{
    unsigned char key[WIRE_KEY_SIZE];
    char hex[HEX_SIZE + 1];
    int r;

    randombytes_buf(key, sizeof(key));
    sodium_bin2hex(hex, sizeof(hex), key, sizeof(key));
    hex[HEX_SIZE] = '\n';
    r = write_full(fd, hex, sizeof(hex));
    sodium_memzero(key, sizeof(key));
    sodium_memzero(hex, sizeof(hex));
    if (r < 0)
        return err_set(err, -r, "write: %s", strerror(-r));
    return fsync(fd) < 0 ? err_errno(err, "fsync") : 0;
}

/* 0 also when somebody else was first. */
static int make_key(const char *path, struct err *err)
{
    _cleanup_free_ char *tmp = format("%s.%08x.tmp", path, randombytes_random());
    _cleanup_close_ int fd = -1;
    int r;

    if (!tmp)
        return err_set(err, ENOMEM, "out of memory");
    fd = open(tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return err_errno(err, "cannot create it");
    r = fill_key(fd, err);
    if (r == 0 && link(tmp, path) < 0 && errno != EEXIST) {
        /* A file system without hard links. */
        if (renameat2(AT_FDCWD, tmp, AT_FDCWD, path, RENAME_NOREPLACE) < 0 && errno != EEXIST)
            r = err_errno(err, "cannot create it");
    }
    unlink(tmp);
    return r;
}

int key_load(const char *path, unsigned char key[WIRE_KEY_SIZE], struct err *err)
{
    _cleanup_close_ int fd = -1;
    int r = 0;

    if (sodium_init() < 0)
        return err_set(err, ENOSYS, "libsodium does not work here");
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0 && errno == ENOENT) {
        r = make_key(path, err);
        if (r == 0)
            fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    }
    if (r == 0 && fd < 0)
        r = err_errno(err, "cannot open it");
    if (r == 0)
        r = read_key(fd, key, err);
    return r < 0 ? err_wrap(err, "key file %s", path) : 0;
}

int key_lock(const char *path, struct err *err)
{
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NOCTTY);

    if (fd < 0)
        return err_errno(err, "key file %s", path);
    while (flock(fd, LOCK_EX) < 0)
        if (errno != EINTR)
            break; /* no locks here (some network file systems): the port decides the race */
    return fd;
}
