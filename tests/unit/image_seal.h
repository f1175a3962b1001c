/* Right checksums for changed images. */
#ifndef TESTS_UNIT_IMAGE_SEAL_H
#define TESTS_UNIT_IMAGE_SEAL_H

#include <stddef.h>
#include <stdint.h>

/* Make header, records, chunks, index and end record carry right checksums again. */
void image_seal_again(uint8_t *bytes, size_t len);

#endif
