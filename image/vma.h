/* Numbers used in mm.proto. They are part of the image format and never change. */
#ifndef IMAGE_VMA_H
#define IMAGE_VMA_H

#define VMA_ANON    1 /* private anonymous, heap and stacks included */
#define VMA_FILE    2 /* private or shared mapping of a file */
#define VMA_SHM     3 /* mapping of a shared-memory object whose content is in the page store */
#define VMA_VDSO    4
#define VMA_VVAR    5 /* [vvar] and [vvar_vclock] */
#define VMA_SYSV    6
#define VMA_IOURING 7
#define VMA_AIO     8
#define VMA_VSYSCALL 9 /* the kernel's own page, never saved or restored */

/* madvise(2) and mlock(2) state: bits of Vma.advice. */
#define VMA_ADV_DONTFORK    (1u << 0)
#define VMA_ADV_WIPEONFORK  (1u << 1)
#define VMA_ADV_DONTDUMP    (1u << 2)
#define VMA_ADV_MERGEABLE   (1u << 3)
#define VMA_ADV_HUGEPAGE    (1u << 4)
#define VMA_ADV_NOHUGEPAGE  (1u << 5)
#define VMA_ADV_SEQUENTIAL  (1u << 6)
#define VMA_ADV_RANDOM      (1u << 7)
#define VMA_ADV_LOCKED      (1u << 8)
#define VMA_ADV_LOCKONFAULT (1u << 9)
#define VMA_ADV_DROPPABLE   (1u << 10)
#define VMA_ADV_SEALED      (1u << 11)
#define VMA_ADV_HEAP        (1u << 12) /* made by brk(2) */
#define VMA_ADV_STACK       (1u << 13) /* the main stack */

#endif
