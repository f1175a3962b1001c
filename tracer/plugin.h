/* Events of a checkpoint for the plugins that are loaded. */
#ifndef TRACER_PLUGIN_H
#define TRACER_PLUGIN_H

#include "tracer/ckpt.h"

extern const struct kind_ops plugin_ops;

/* Everyone stands still: the plugins do what they have to do, and keep what they have to keep. */
int plugins_before(struct ckpt *c, struct err *err);
/* Everyone is about to go on; only for those that plugins_before() has called, and once. */
void plugins_after(struct ckpt *c);

#endif
