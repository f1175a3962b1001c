/* Who is connected to whom: what the records of sockets and of IPC objects say of each other. */
#ifndef IMAGE_INSPECT_LINKS_H
#define IMAGE_INSPECT_LINKS_H

#include "image/inspect.h"

enum link_how {
    LINK_CONNECTED, /* data goes both ways */
    LINK_SENDS,     /* from sends to to */
    LINK_WAITS,     /* from waits to be accepted by to */
    LINK_OUTSIDE,   /* from leads out of the images, to what text says */
};

struct link {
    enum link_how how;
    size_t from, to; /* numbers in set->objects */
    char text[120];  /* LINK_OUTSIDE */
};

struct links {
    struct link *l;
    size_t n, cap;
};

/* All of them; what memory does not suffice for is left out. The caller frees l. */
void links_find(const struct set *s, struct links *l);

/* "tcp 7 127.0.0.1:80", "semaphores 12 key 0x2a": what kind of thing it is to who reads a graph. */
void links_label(FILE *out, const struct object *o);

#endif
