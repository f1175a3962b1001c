/* Numbers used in sysv.proto. They are part of the image format and never change. */
#ifndef IMAGE_SYSV_H
#define IMAGE_SYSV_H

#define SYSV_SHM 1u
#define SYSV_SEM 2u
#define SYSV_MSG 3u

#endif
