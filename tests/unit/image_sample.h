/* Small images for the unit tests of image/. */
#ifndef TESTS_UNIT_IMAGE_SAMPLE_H
#define TESTS_UNIT_IMAGE_SAMPLE_H

#include <stddef.h>
#include <stdint.h>

#include "image/image.h"

/* An empty file in memory. */
int sample_file(void);

/* len bytes that compress well (0), badly (1). The same seed gives the same bytes. */
void sample_fill(void *buf, size_t len, int random, uint64_t seed);

/* A file with a head, two pipes, and two chunks, one compressed and one raw: about 13 KiB. */
int sample_image(void);

/* The whole content of fd in fresh memory. */
uint8_t *sample_bytes(int fd, size_t *len);

/* Open bytes as an image and verify it; 0, or -errno with the text in err. */
int sample_check(const void *bytes, size_t len, struct err *err);

#endif
