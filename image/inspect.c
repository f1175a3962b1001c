/*
 * dmtcp_inspect: says what is in images without restoring anything. main() turns what the user names (images,
 * directories, manifests) into images, and hands the whole set to one of the ways to show it.
 */
#include "image/inspect.h"

#include <dirent.h>
#include <errno.h>
#include <getopt.h>
#include <string.h>
#include <sys/stat.h>

#include "base/log.h"
#include "base/manifest.h"
#include "base/util.h"

static const char usage[] = "usage: dmtcp_inspect [options] image|directory|manifest|-...\n"
                            "Show what is in checkpoint images.\n"
                            "  -a, --all      records whole, however long\n"
                            "  -s, --summary  the process tree and sizes only\n"
                            "      --json     everything, as JSON\n"
                            "      --dot      processes and what they share, as a graph for dot(1)\n"
                            "      --verify   check the images whole, pages included, and say so\n"
                            "      --bt       the backtraces of all threads too; opens the program's files for it\n"
                            "  -q, --quiet    with --verify: say nothing about good images\n"
                            "      --help, --version\n"
                            "A directory stands for the images of its newest checkpoint.\n";

enum mode { MODE_TEXT, MODE_JSON, MODE_DOT, MODE_VERIFY };

struct arguments {
    enum mode mode;
    int quiet;
    bool backtraces;
    struct inspect_options inspect;
    struct set set;
    unsigned failed; /* images that could not be shown */
};

static int verify(struct arguments *a, const char *path, struct err *err)
{
    struct image *img;
    char size[2][16];
    uint64_t contents = 0;
    size_t records, n;
    const struct image_chunk *c;
    int r = set_open(&img, path, err);

    if (r)
        return r;
    r = image_verify(img, err);
    if (r)
        err_wrap(err, "%s", path);
    image_records(img, &records);
    c = image_all_chunks(img, &n);
    for (size_t i = 0; i < n; i++)
        contents += c[i].len;
    if (!r && !a->quiet) {
        print_text(stdout, path, strlen(path));
        printf(": good: %s, %zu records, %s of pages\n", print_size(size[0], image_size(img)), records,
               print_size(size[1], contents));
    }
    image_free(img);
    return r;
}

static void add_image(struct arguments *a, const char *path)
{
    struct err err;
    int r = a->mode == MODE_VERIFY ? verify(a, path, &err) : set_add_image(&a->set, path, &err);

    if (r == 0)
        return;
    log_error("%s", err.msg);
    a->failed++;
}

/* Where an image of a manifest is now: where it was written, or next to the manifest if both were moved. */
static char *find_image(const char *manifest, const char *path)
{
    const char *slash = strrchr(manifest, '/'), *name = strrchr(path, '/');
    char *near;

    if (access(path, F_OK) == 0)
        return strdup(path);
    near = format("%.*s%s", slash ? (int)(slash - manifest + 1) : 0, manifest, name ? name + 1 : path);
    if (near && access(near, F_OK) == 0)
        return near;
    free(near);
    return strdup(path);
}

static int add_manifest(struct arguments *a, const char *path, struct err *err)
{
    struct manifest *m;

    if (manifest_read(path, &m, err) < 0)
        return -err->code;
    for (size_t i = 0; i < m->n_images; i++) {
        _cleanup_free_ char *image = find_image(path, m->image[i].path);
        struct stat st;

        if (image && stat(image, &st) == 0 && (uint64_t)st.st_size != m->image[i].size) {
            log_error("%s: has %lld bytes, the manifest says %llu", image, (long long)st.st_size,
                      (unsigned long long)m->image[i].size);
            a->failed++;
        } else if (image) {
            add_image(a, image);
        }
    }
    manifest_free(m);
    return 0;
}

static int is_image_name(const struct dirent *d)
{
    size_t n = strlen(d->d_name);

    return n > 6 && !strcmp(d->d_name + n - 6, ".dmtcp");
}

static int add_directory(struct arguments *a, const char *dir, struct err *err)
{
    _cleanup_free_ char *newest = NULL;
    struct dirent **names;
    int n;

    if (manifest_newest(dir, &newest, err) == 0)
        return add_manifest(a, newest, err);
    n = scandir(dir, &names, is_image_name, alphasort);
    if (n < 0)
        return err_errno(err, "%s", dir);
    for (int i = 0; i < n; i++) {
        _cleanup_free_ char *path = format("%s/%s", dir, names[i]->d_name);

        if (path)
            add_image(a, path);
        free(names[i]);
    }
    free(names);
    return n ? 0 : err_set(err, ENOENT, "%s: no images there", dir);
}

static void add_argument(struct arguments *a, const char *path)
{
    struct err err;
    struct stat st = {0};
    int r = 0;

    if (stat(path, &st) == 0 && S_ISDIR(st.st_mode))
        r = add_directory(a, path, &err);
    else if (strcmp(path, "-") && S_ISREG(st.st_mode) && manifest_is(path))
        r = add_manifest(a, path, &err);
    else
        add_image(a, path);
    if (r < 0) {
        log_error("%s", err.msg);
        a->failed++;
    }
}

static int show(struct arguments *a, struct err *err)
{
    if (a->mode == MODE_VERIFY || (!a->set.n_views && a->failed))
        return 0;
    if (set_ready(&a->set, err) < 0)
        return -err->code;
    if (a->backtraces && inspect_backtraces(&a->set, err) < 0)
        return -err->code;
    if (a->mode == MODE_JSON)
        return inspect_json(stdout, &a->set, err);
    if (a->mode == MODE_DOT)
        inspect_dot(stdout, &a->set);
    else
        inspect_text(stdout, &a->set, &a->inspect);
    return 0;
}

/* 0: go on; 1: done; 2: wrong use. */
static int parse(struct arguments *a, int argc, char **argv)
{
    enum { OPT_JSON = 256, OPT_DOT, OPT_BT, OPT_VERIFY, OPT_HELP, OPT_VERSION };
    static const struct option options[] = {
        {"all", no_argument, NULL, 'a'},
        {"summary", no_argument, NULL, 's'},
        {"json", no_argument, NULL, OPT_JSON},
        {"dot", no_argument, NULL, OPT_DOT},
        {"bt", no_argument, NULL, OPT_BT},
        {"verify", no_argument, NULL, OPT_VERIFY},
        {"quiet", no_argument, NULL, 'q'},
        {"help", no_argument, NULL, OPT_HELP},
        {"version", no_argument, NULL, OPT_VERSION},
        {NULL, 0, NULL, 0},
    };
    int opt;

    while ((opt = getopt_long(argc, argv, "asqh", options, NULL)) != -1) {
        switch (opt) {
        case 'a':
            a->inspect.limits = (struct print_limits){0, 0};
            break;
        case 's':
            a->inspect.summary = true;
            break;
        case 'q':
            a->quiet++;
            break;
        case OPT_JSON:
            a->mode = MODE_JSON;
            break;
        case OPT_DOT:
            a->mode = MODE_DOT;
            break;
        case OPT_BT:
            a->backtraces = true;
            break;
        case OPT_VERIFY:
            a->mode = MODE_VERIFY;
            break;
        case 'h':
        case OPT_HELP:
            fputs(usage, stdout);
            return 1;
        case OPT_VERSION:
            printf("dmtcp_inspect (transparent checkpoint and restart) %s\nMIT licence; no warranty.\n",
                   DMTCP_VERSION);
            return 1;
        default:
            return 2;
        }
    }
    return optind < argc ? 0 : 2;
}

int main(int argc, char **argv)
{
    struct arguments a = {.inspect = {.limits = {.elements = 16, .bytes = 80}}};
    struct err err;
    int r;

    log_init("dmtcp_inspect", 0);
    r = parse(&a, argc, argv);
    if (r == 1)
        return 0;
    if (r == 2) {
        fputs(usage, stderr);
        return 2;
    }
    log_init("dmtcp_inspect", a.quiet);
    for (int i = optind; i < argc; i++)
        add_argument(&a, argv[i]);
    r = show(&a, &err);
    if (r == 0 && (fflush(stdout) || ferror(stdout)))
        r = err_errno(&err, "cannot write");
    if (r < 0)
        log_error("%s", err.msg);
    set_free(&a.set);
    return r < 0 || a.failed ? 1 : 0;
}
