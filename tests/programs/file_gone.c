/*
 * Files without the name they were opened by: unlinked, unlinked with another link left, unlinked and made
 * anew by somebody else, renamed, never named (O_TMPFILE), in a directory that is gone or renamed; sparse
 * ones, whose holes stay holes.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"

#define SIZE 50000
#define HOLE (1ll << 30)

static unsigned char data[SIZE];

static int make(const char *name, uint64_t seed)
{
    int fd = (int)MUST(open(check_path(name), O_RDWR | O_CREAT | O_TRUNC, 0640));

    check_fill(data, SIZE, seed);
    MUST(write(fd, data, SIZE));
    MUST(lseek(fd, 100 + (off_t)seed, SEEK_SET));
    return fd;
}

static void check_file(int fd, uint64_t seed, nlink_t links, const char *what)
{
    struct stat st;

    if (fstat(fd, &st) < 0) {
        check_fail("%s: fstat: %s", what, strerror(errno));
        return;
    }
    check_num(100 + (off_t)seed, lseek(fd, 0, SEEK_CUR), "%s: offset", what);
    check_num(SIZE, st.st_size, "%s: size", what);
    check_num((long long)links, (long long)st.st_nlink, "%s: number of links", what);
    check_num(0640, st.st_mode & 07777, "%s: mode", what);
    memset(data, 0, SIZE);
    check_num(SIZE, pread(fd, data, SIZE, 0), "%s: bytes read", what);
    check_filled(data, SIZE, seed, what);
    check_num(5, pwrite(fd, "12345", 5, SIZE), "%s: write", what);
}

static int make_sparse(const char *name)
{
    int fd = (int)MUST(open(check_path(name), O_RDWR | O_CREAT | O_TRUNC, 0640));

    MUST(ftruncate(fd, 3 * HOLE));
    MUST(pwrite(fd, "in the middle", 13, HOLE));
    MUST(unlink(check_path(name)));
    return fd;
}

static void check_sparse(int fd)
{
    struct stat st;
    char buf[14] = "";

    MUST(fstat(fd, &st));
    check_num(3 * HOLE, st.st_size, "sparse file: size");
    check_range(1, 1000, (double)st.st_blocks, "sparse file: blocks");
    check_num(13, pread(fd, buf, 13, HOLE), "sparse file: bytes read");
    check_str("in the middle", buf, "sparse file: data between holes");
}

int main(int argc, char **argv)
{
    int unlinked, linked, anew, renamed, nameless, in_gone, in_renamed, sparse, reader;
    char buf[64] = "";

    check_init(argc, argv);
    unlinked = make("unlinked", 1);
    reader = (int)MUST(open(check_path("unlinked"), O_RDONLY));
    MUST(unlink(check_path("unlinked")));
    linked = make("linked", 2);
    MUST(link(check_path("linked"), check_path("other-link")));
    MUST(unlink(check_path("linked")));
    anew = make("anew", 3);
    MUST(unlink(check_path("anew")));
    check_spit(check_path("anew"), "another file", 12);
    renamed = make("renamed", 4);
    MUST(rename(check_path("renamed"), check_path("renamed now")));
    nameless = open(check_dir(), O_RDWR | O_TMPFILE, 0640);
    if (nameless >= 0) {
        check_fill(data, SIZE, 5);
        MUST(write(nameless, data, SIZE));
        MUST(lseek(nameless, 105, SEEK_SET));
    } else {
        check_note("O_TMPFILE: %s", strerror(errno));
    }
    MUST(mkdir(check_path("gone"), 0755));
    in_gone = make("gone/file", 6);
    MUST(unlink(check_path("gone/file")));
    MUST(rmdir(check_path("gone")));
    MUST(mkdir(check_path("moved"), 0755));
    in_renamed = make("moved/file", 7);
    MUST(rename(check_path("moved"), check_path("moved here")));
    sparse = make_sparse("sparse");

    check_wait();

    if (check_broken())
        MUST(ftruncate(unlinked, SIZE - 1));
    check_file(unlinked, 1, 0, "unlinked file");
    check_num(5, pread(reader, buf, 63, SIZE), "bytes written now to the unlinked file, read through the other descriptor");
    check_file(linked, 2, 1, "unlinked file with another link");
    check_file(anew, 3, 0, "unlinked file whose name is another file's now");
    check_file(renamed, 4, 1, "renamed file");
    if (nameless >= 0)
        check_file(nameless, 5, 0, "file that never had a name");
    check_file(in_gone, 6, 0, "file in a directory that is gone");
    check_file(in_renamed, 7, 1, "file in a renamed directory");
    check_sparse(sparse);
    check_num(-1, access(check_path("unlinked"), F_OK), "access() to the unlinked name");
    memset(buf, 0, sizeof(buf));
    check_slurp(check_path("anew"), buf, sizeof(buf));
    check_str("another file", buf, "content of the file that has the old name");
    check_slurp(check_path("other-link"), buf, 20);
    return check_end();
}
