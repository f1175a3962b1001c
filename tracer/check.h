/* dmtcp_command --check: what this kernel and user can and can't do. */
#ifndef TRACER_CHECK_H
#define TRACER_CHECK_H

/* Prints a line for each feature, probed by its effect; returns 0 when nothing that is needed is missing. */
int print_checks(void);

#endif
