/* The kinds of lock that fd.proto's FileLock knows. */
#ifndef IMAGE_LOCK_H
#define IMAGE_LOCK_H

#define FILE_LOCK_FLOCK 1u
#define FILE_LOCK_OFD   2u
#define FILE_LOCK_LEASE 3u

#endif
