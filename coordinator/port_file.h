/* The file of --port-file: one number and a newline. */
#ifndef COORDINATOR_PORT_FILE_H
#define COORDINATOR_PORT_FILE_H

#include "base/err.h"

/* A regular file is replaced at once, whole (scripts wait for it); a FIFO or a device is written to. */
int port_file_write(const char *path, int port, struct err *err);

/* The same for any text (--status-file). */
int whole_file_write(const char *path, const char *text, unsigned mode, struct err *err);

#endif
