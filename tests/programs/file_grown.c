/*
 * Output must not be doubled: a program that appends lines to a file while it is checkpointed, killed and
 * restarted leaves each line there exactly once, in order, through write() and through stdio's buffer.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tests/programs/check.h"

static void verify(const char *name, long lines)
{
    FILE *file = fopen(check_path(name), "r");
    long expected = 0, got;

    if (!file)
        check_die("%s is not there", name);
    while (fscanf(file, "line %ld\n", &got) == 1) {
        if (!check_num(expected, got, "%s: number of the next line", name))
            break;
        expected++;
    }
    check_num(lines, expected, "%s: number of lines", name);
    check_true(feof(file) != 0, "%s: something else than lines at %ld", name, ftell(file));
    fclose(file);
}

int main(int argc, char **argv)
{
    FILE *buffered;
    char line[64];
    long n = 0;
    int fd;

    check_init(argc, argv);
    fd = (int)MUST(open(check_path("lines"), O_WRONLY | O_CREAT | O_TRUNC, 0644));
    buffered = fopen(check_path("buffered"), "w");
    if (!buffered)
        check_die("fopen");
    check_ready();
    while (!check_go()) {
        int len = snprintf(line, sizeof(line), "line %ld\n", n);

        MUST(write(fd, line, (size_t)len));
        fputs(line, buffered);
        n++;
        if (n % 20 == 0)
            check_sleep(0.001);
    }
    if (check_broken())
        MUST(write(fd, "line 0\n", 7));
    fclose(buffered);
    verify("lines", n);
    verify("buffered", n);
    return check_end();
}
