/* Where the members of the kernel's structures are, by the description that the kernel gives of itself (BTF). */
#ifndef TRACER_BTF_H
#define TRACER_BTF_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct btf;

/* /sys/kernel/btf/vmlinux; free it with btf_free(). -ENOENT: this kernel has none. */
int btf_open(struct btf **b, struct err *err);
void btf_free(struct btf *b);

/* The same of a file's content, which becomes the struct's; for tests. */
int btf_parse(char *text, size_t n, struct btf **b, struct err *err);

/* Byte offset of a member of a struct, also one in an unnamed part of it. -ENOENT. */
int btf_offset(const struct btf *b, const char *structure, const char *member, uint32_t *offset, struct err *err);

#endif
