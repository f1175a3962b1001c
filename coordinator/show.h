/* Answers of the coordinator as text for people (and for scripts that read DMTCP's) or as JSON. */
#ifndef COORDINATOR_SHOW_H
#define COORDINATOR_SHOW_H

#include <jansson.h>
#include <stdio.h>

#include "coordinator/wire.pb-c.h"

void show_status(FILE *f, const Wire__Status *status);
void show_processes(FILE *f, const Wire__Processes *processes);

/* New references. Strings that are not UTF-8 have their odd bytes replaced. */
json_t *json_status(const Wire__Status *status);
json_t *json_processes(const Wire__Processes *processes);
json_t *json_text(const char *text, size_t len);

const char *phase_name(Wire__Phase__Id phase);

/* "1.5 GiB" */
const char *human_bytes(uint64_t bytes, char *buf, size_t size);

#endif
