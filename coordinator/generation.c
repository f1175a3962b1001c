/*
 * Complete checkpoints on disk: their names, the link dmtcp_restart_script.sh to the newest one, and the
 * removal of older ones, which comes after a newer one is complete (commit.c), so that at every instant some
 * whole generation can be restarted.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/log.h"
#include "base/util.h"
#include "coordinator/server.h"

#define SCRIPT_LINK "dmtcp_restart_script.sh"

static int make_directories(const char *path)
{
    _cleanup_free_ char *copy = strdup(path);

    if (!copy)
        return -ENOMEM;
    for (char *p = copy + 1; *p; p++) {
        if (*p != '/')
            continue;
        *p = '\0';
        if (mkdir(copy, 0777) < 0 && errno != EEXIST)
            return -errno;
        *p = '/';
    }
    return mkdir(copy, 0777) < 0 && errno != EEXIST ? -errno : 0;
}

int generation_possible(struct server *s, struct err *err)
{
    const char *dir = s->config.options->ckptdir;
    struct stat st;
    int r;

    if (stat(dir, &st) < 0 && errno == ENOENT && (r = make_directories(dir)) < 0)
        return err_set(err, -r, "coordinator's checkpoint directory %s: %s", dir, strerror(-r));
    if (stat(dir, &st) == 0 && !S_ISDIR(st.st_mode))
        return err_set(err, ENOTDIR, "coordinator's checkpoint directory %s: %s", dir, strerror(ENOTDIR));
    if (access(dir, W_OK | X_OK) < 0)
        return err_errno(err, "coordinator's checkpoint directory %s", dir);
    return 0;
}

static char *script_path(const struct server *s, unsigned generation)
{
    return format("%s/dmtcp_restart_script_%s_%05u.sh", s->config.options->ckptdir, s->computation,
                  generation);
}

/* The link without a generation in its name, atomically. Failing is no reason to lose the checkpoint. */
static void link_script(struct server *s, const char *script)
{
    const char *dir = s->config.options->ckptdir;
    _cleanup_free_ char *name = format("%s/" SCRIPT_LINK, dir),
                        *tmp = format("%s/." SCRIPT_LINK ".%d", dir, getpid());
    const char *target = strrchr(script, '/') + 1;

    if (!name || !tmp)
        return;
    unlink(tmp);
    if (symlink(target, tmp) < 0 || rename(tmp, name) < 0) {
        log_warn("%s: %s", name, strerror(errno));
        unlink(tmp);
    }
}

static int add_history(struct server *s, char *path, char *script, struct manifest *m)
{
    struct generation *history = grow(s->history, s->n_history, &s->cap_history, sizeof(*history));

    if (!history)
        return -ENOMEM;
    s->history = history;
    history[s->n_history++] = (struct generation){path, script, m};
    return 0;
}

/* Two restarts of one generation would both make the next one, under the same name: the second takes another
 * id. */
static int fresh_id(struct server *s, struct manifest *m, struct err *err)
{
    char *old = s->computation;

    s->computation = NULL;
    if (server_new_computation(s) < 0) {
        s->computation = old;
        return err_set(err, ENOMEM, "out of memory");
    }
    log_note("generation %u of computation %s exists already: going on as %s", m->generation, old,
             s->computation);
    free(old);
    free(m->computation);
    m->computation = strdup(s->computation);
    return m->computation ? 0 : err_set(err, ENOMEM, "out of memory");
}

int generation_name(struct server *s, struct manifest *m, char **path, char **script, struct err *err)
{
    const char *dir = s->config.options->ckptdir;

    *path = manifest_path(dir, s->computation, m->generation);
    if (*path && access(*path, F_OK) == 0) {
        free(*path);
        *path = NULL;
        if (fresh_id(s, m, err) < 0)
            return -err->code;
        *path = manifest_path(dir, s->computation, m->generation);
    }
    *script = script_path(s, m->generation);
    return *path && *script ? 0 : err_set(err, ENOMEM, "out of memory");
}

void generation_complete(struct server *s, struct manifest *m, char *path, char *script)
{
    s->generation = m->generation;
    link_script(s, script);
    if (add_history(s, path, script, m) == 0)
        return;
    manifest_free(m); /* complete all the same: its images just stay when they are old */
    free(path);
    free(script);
}

static void generation_free(struct generation *g)
{
    free(g->path);
    free(g->script);
    manifest_free(g->manifest);
}

void generations_free(struct server *s)
{
    for (size_t i = 0; i < s->n_history; i++)
        generation_free(&s->history[i]);
    free(s->history);
    s->history = NULL;
    s->n_history = s->cap_history = 0;
}

/* Whatever a manifest says, nothing is removed that is not named as an image is. */
static int looks_like_image(const char *path)
{
    const char *name = strrchr(path, '/');
    size_t n = name ? strlen(name) : 0;

    return name && !strncmp(name, "/ckpt_", 6) && n > 6 && !strcmp(name + n - 6, ".dmtcp");
}

static int add_removal(struct removal **removals, size_t *n, uint64_t peer, const char *path)
{
    struct removal *r = *removals;
    size_t i = 0, cap = *n; /* one at a time: there is one for each host */
    char **paths;

    while (i < *n && r[i].peer != peer)
        i++;
    if (i == *n) {
        r = reallocarray(r, cap + 1, sizeof(*r));
        if (!r)
            return -ENOMEM;
        *removals = r;
        r[i] = (struct removal){.peer = peer};
        (*n)++;
    }
    paths = grow(r[i].path, r[i].n, &r[i].cap, sizeof(*paths));
    if (!paths)
        return -ENOMEM;
    r[i].path = paths;
    paths[r[i].n] = strdup(path);
    return paths[r[i].n] ? (int)(++r[i].n > 0) : -ENOMEM;
}

static int listed(const struct manifest *m, const char *path)
{
    for (size_t i = 0; i < m->n_images; i++)
        if (!strcmp(m->image[i].path, path))
            return 1;
    return 0;
}

/* Its tracer removes it; if there is none on that host, and the host is ours, we do. */
static void remove_image(struct server *s, const struct manifest *m, const struct manifest_image *image,
                         struct removal **removals, size_t *n)
{
    const struct manifest_host *h = &m->host[image->host];

    for (struct peer *p = s->peers; p; p = p->next)
        if (p->role == ROLE_TRACER && !p->dead && peer_host(p) &&
            !strcmp(peer_host(p)->boot_id, h->boot_id)) {
            if (add_removal(removals, n, p->id, image->path) < 0)
                log_warn("out of memory: %s stays", image->path);
            return;
        }
    if (!strcmp(h->boot_id, s->boot_id) && unlink(image->path) < 0 && errno != ENOENT)
        log_warn("%s: %s", image->path, strerror(errno));
}

static void forget(struct server *s, struct generation *g, struct removal **removals, size_t *n)
{
    const struct manifest *newest = s->history[s->n_history - 1].manifest;

    /* First the manifest: without it the rest is no checkpoint any more, whatever happens next. */
    unlink(g->path);
    unlink(g->script);
    for (size_t i = 0; i < g->manifest->n_images; i++)
        if (looks_like_image(g->manifest->image[i].path) && !listed(newest, g->manifest->image[i].path))
            remove_image(s, g->manifest, &g->manifest->image[i], removals, n);
}

size_t generation_prune(struct server *s, struct removal **removals)
{
    size_t keep = s->keep > 0 ? (size_t)s->keep : 1, n = 0;

    *removals = NULL;
    while (s->n_history > keep) {
        forget(s, &s->history[0], removals, &n);
        generation_free(&s->history[0]);
        s->n_history--;
        memmove(s->history, s->history + 1, s->n_history * sizeof(*s->history));
    }
    return n;
}

void removals_free(struct removal *r, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j < r[i].n; j++)
            free(r[i].path[j]);
        free(r[i].path);
    }
    free(r);
}

static bool has_generation(const struct server *s, unsigned generation)
{
    _cleanup_free_ char *path = manifest_path(s->config.options->ckptdir, s->computation, generation);

    return path && access(path, F_OK) == 0;
}

/* If its manifest is where we would have put it, and ours. */
static void adopt_generation(struct server *s, unsigned generation)
{
    _cleanup_free_ char *path = manifest_path(s->config.options->ckptdir, s->computation, generation);
    struct manifest *m = NULL;
    struct err err = {0};
    struct stat st;

    if (!path || lstat(path, &st) < 0 || !S_ISREG(st.st_mode) || st.st_uid != geteuid())
        return;
    char *script = script_path(s, generation);
    if (!script || manifest_read(path, &m, &err) < 0 || strcmp(m->computation, s->computation) != 0 ||
        m->generation != generation || add_history(s, path, script, m) < 0) {
        free(script);
        manifest_free(m);
        return;
    }
    path = NULL;
}

/*
 * The generation that a restart goes on from, and those that were kept before it, are removed like any other when newer ones
 * are complete. A copy somewhere else is somebody's backup: not touched.
 */
void generation_continue(struct server *s, const char *manifest)
{
    _cleanup_free_ char *path = manifest_path(s->config.options->ckptdir, s->computation, s->generation);
    unsigned first = s->generation;

    if (!path || (manifest[0] && strcmp(manifest, path) != 0) || !has_generation(s, first))
        return;
    for (int kept = 1; kept < s->keep && first > 1 && has_generation(s, first - 1); kept++)
        first--;
    for (unsigned g = first; g <= s->generation; g++)
        adopt_generation(s, g);
}
