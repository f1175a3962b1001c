/* The parasite's code as embed.py writes it. */
#ifndef INJECTOR_BLOB_CODE_H
#define INJECTOR_BLOB_CODE_H

extern const unsigned char blob_code[];
extern const unsigned int blob_code_size;
extern const unsigned int blob_guard_at, blob_guard_size; /* the guard within it: entry.S */

#endif
