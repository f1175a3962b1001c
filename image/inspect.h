/*
 * Inside dmtcp_inspect: a set of images that belong together, as far as the user named them, with
 * every object known by its id whichever image it is recorded in, and the ways to show it.
 */
#ifndef IMAGE_INSPECT_H
#define IMAGE_INSPECT_H

#include <stdbool.h>
#include <stdio.h>

#include "image/fd.pb-c.h"
#include "image/image.h"
#include "image/image.pb-c.h"
#include "image/kinds.h"
#include "image/mm.pb-c.h"
#include "image/print.h"
#include "image/process.pb-c.h"

/* An image with its records unpacked. */
struct view {
    char *path;
    struct image *img;
    const struct image_record *records;
    ProtobufCMessage **messages; /* one per record; NULL for a kind without a message */
    size_t n_records;
    /* Those of messages that are asked for most. Only the head is always there. */
    const ImageHead *head;
    const Process *process;
    const Mm *mm;
    const FdTable *fdtable;
};

/* An object or open file description: where it is recorded. */
struct object {
    uint64_t id;
    uint32_t kind;
    const struct view *view;
    const ProtobufCMessage *message;
};

struct set {
    struct view **views; /* by host, then pid */
    size_t n_views, cap_views;
    struct object *objects; /* sorted for set_object() once set_ready() was called */
    size_t n_objects, cap_objects;
};

/* image_open(), with "-" for standard input. */
int set_open(struct image **img, const char *path, struct err *err);

/* Open and unpack an image and add it. */
int set_add_image(struct set *s, const char *path, struct err *err);
int set_ready(struct set *s, struct err *err);
void set_free(struct set *s);

/* The description or object with an id that an image means; NULL when no image at hand has it. */
const struct object *set_ofd(const struct set *s, const struct view *v, uint64_t id);
const struct object *set_object(const struct set *s, const struct view *v, uint64_t id);

/* The image of a process of the same checkpoint on the same host; NULL when it is not at hand. */
const struct view *set_process(const struct set *s, const struct view *v, int pid);

/* Whether two images are of the same checkpoint of the same host, so that ids mean the same. */
bool set_same(const struct view *a, const struct view *b);

/* The descriptor table that a process uses: its own or that of the process it shares it with; or NULL. */
const FdTable *set_fdtable(const struct set *s, const struct view *v);

/* "pipe 7", "file 12 /etc/passwd": for a line of text. o NULL prints "object ID". */
void print_object(FILE *out, const struct object *o, uint64_t id);

struct inspect_options {
    bool summary; /* no records */
    struct print_limits limits;
};

/*
 * Fill in the backtraces of all threads. Opens the programs' files (executables, libraries) by the names that are in
 * the images, and trusts them as far as libunwind does.
 */
int inspect_backtraces(struct set *s, struct err *err);

void inspect_text(FILE *out, const struct set *s, const struct inspect_options *options);
void inspect_memory(FILE *out, const struct set *s,
                    const struct view *v); /* part of the text: the memory map */
void inspect_dot(FILE *out, const struct set *s);
int inspect_json(FILE *out, const struct set *s, struct err *err);

#endif
